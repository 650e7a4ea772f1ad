"""Predict a made-up slide and print the peak of anonymous memory, in its own process.

Pages of memory-mapped scratch are left out: the system takes them back whenever it needs to.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path


def anonymous_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1000


def main(folder: Path, side: int) -> None:
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    from test_predict_expression import predict

    from histocast.bundle import bundle_digest
    from sample_bundle import write_bundle, write_slide_files

    bundle = write_bundle(folder / "bundle", gene_count=600)
    files = write_slide_files(folder, bundle_digest(folder / "bundle"), columns=side, rows=side)
    import anndata.io  # noqa: F401 - its own memory is not the slide's

    before_mb = anonymous_mb()
    peak_mb, finished = before_mb, threading.Event()

    def sample() -> None:
        nonlocal peak_mb
        while not finished.wait(0.005):
            peak_mb = max(peak_mb, anonymous_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    facts = predict(folder / "out", files, folder / "bundle", bundle)
    finished.set()
    thread.join()
    print(json.dumps({"spots": facts["spots"], "anonymous_mb": peak_mb - before_mb}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
