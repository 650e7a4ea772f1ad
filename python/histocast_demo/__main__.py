"""``python -m histocast_demo data`` makes the demo's slides, ``score`` compares predictions with their hidden truth."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import NoReturn

from histocast.errors import UsageError
from histocast.failures import end_with
from histocast_demo.archive import make_archive, make_training_set
from histocast_demo.score import describe_score, score_demo


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, where=self.prog, advice=f"see {self.prog} --help")


def main() -> None:
    """Run a verb and exit with the code of the error, if any (see `histocast.errors`)."""
    parser = _Parser(prog="python -m histocast_demo", description=__doc__.replace("``", "'"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    data = verbs.add_parser("data", help="make synthetic H&E slides whose expression follows their morphology")
    data.add_argument("--outdir", type=Path, required=True, help="folder to fill")
    data.add_argument("--seed", type=int, default=0, help="decides everything random")
    data.add_argument("--training", action="store_true", help="with measured spots and counts, to train on")
    score = verbs.add_parser("score", help="compare predictions of the demo with its hidden truth")
    score.add_argument("--archive", type=Path, required=True, help="folder of 'data'")
    score.add_argument("--results", type=Path, required=True, help="output folder of the pipeline")
    try:
        given = parser.parse_args()
        if given.verb == "data":
            (make_training_set if given.training else make_archive)(given.outdir, seed=given.seed)
        else:
            sys.stdout.writelines(f"{line}\n" for line in describe_score(score_demo(given.archive, given.results)))
    except Exception as error:  # noqa: BLE001 - no exception of another library reaches a user
        end_with(error)
    sys.exit(0)


if __name__ == "__main__":
    main()
