"""The figures of docs/evaluation.md: ridge on five real sections, and one of them through the pipeline.

Prepares HER2ST C2-C6, leaves one section out at a time under both protocols, exports the models that had not
seen C6, runs the pipeline on C6's image at its measured spots, and compares what comes out with C6's counts.

    python benchmarks/her2st.py --data ../shared/data --outdir results/her2st [--ablations] [--verbs]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from compare_expression import compare_expression
from histocast.evaluation.evaluate_models import cross_validate
from histocast.evaluation.summary import Evaluation
from histocast.release.export_bundle import export_bundle
from histocast.sections.protocols import PROTOCOLS
from histocast.stages.predict_slide import predict_slide
from histocast.stages.prepare_sections import prepare_sections
from histocast.training.read_recipe import read_recipe
from histocast.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("C2", "C3", "C4", "C5", "C6")
HELD_OUT = "C6"

# The images do not state their resolution: spots are printed 200 um apart and lie 290 px apart.
UM_PER_PX = 0.69


def write_sheets(data: Path, outdir: Path) -> tuple[Path, Path]:
    """The training sheet of all sections and the samplesheet of the held-out one."""
    outdir.mkdir(parents=True, exist_ok=True)
    folder = (data / "her2st").resolve()
    training, prediction = outdir / "training.csv", outdir / "samplesheet.csv"
    rows = [
        f"{s},{folder}/images/{s}.jpg,{folder}/counts/{s}.tsv.gz,C,{folder}/spots/{s}_selection.tsv,{UM_PER_PX}"
        for s in SECTIONS
    ]
    training.write_text("\n".join(["sample,slide,counts,patient,spots,mpp", *rows]) + "\n")
    spots = f"{folder}/spots/{HELD_OUT}_selection.tsv"
    prediction.write_text(f"sample,slide,mpp,spots\n{HELD_OUT},{folder}/images/{HELD_OUT}.jpg,{UM_PER_PX},{spots}\n")
    return training, prediction


def run_pipeline(sheet: Path, bundle: Path, outdir: Path) -> Path:
    """``nextflow run`` on the held-out section; the AnnData file."""
    nextflow = ROOT / ".tools" / "bin" / "nextflow"
    command = [str(nextflow) if nextflow.exists() else "nextflow", "-log", f"{outdir}/nextflow.log", "run", str(ROOT)]
    command += ["--input", str(sheet), "--bundle", str(bundle), "--outdir", str(outdir), "-work-dir", f"{outdir}/work"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return outdir / HELD_OUT / f"{HELD_OUT}.h5ad"


def run_verbs(data: Path, bundle: Path, outdir: Path) -> Path:
    """The same stages by the functions behind the verbs; the AnnData file."""
    image, spots = (
        data / "her2st" / "images" / f"{HELD_OUT}.jpg",
        data / "her2st" / "spots" / f"{HELD_OUT}_selection.tsv",
    )
    return predict_slide(image, bundle=bundle, outdir=outdir, sample=HELD_OUT, mpp=UM_PER_PX, spots=spots)


def ablate(set_folder: Path, recipe: Recipe, outdir: Path) -> dict[str, dict[str, float | None]]:
    """Mean Pearson by which neighbourhoods enter and whether features are standardised within the slide."""
    found = {}
    for scales in (("target",), ("target", "3x3"), ("target", "3x3", "5x5")):
        for standardise in (False, True):
            changed = recipe.model_copy(
                update={"options": {"scales": list(scales)}, "standardise_within_slide": standardise}
            )
            name = f"{' + '.join(scales)}{', standardised within the slide' if standardise else ''}"
            evaluation = cross_validate(set_folder, recipe=changed, outdir=outdir / f"{len(scales)}-{standardise}")
            found[name] = {protocol: headline(evaluation, protocol) for protocol in PROTOCOLS}
    return found


def headline(evaluation: Evaluation, protocol: str) -> float | None:
    """Mean Pearson of the model."""
    summary = next(s for s in evaluation.summaries if (s.protocol, s.subject) == (protocol, "model"))
    figure = summary.figure("pearson")
    return figure.mean if figure else None


def main() -> None:
    """Run everything and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--outdir", type=Path, default=ROOT / "results" / "her2st")
    parser.add_argument("--ablations", action="store_true", help="also vary neighbourhoods and standardisation")
    parser.add_argument("--verbs", action="store_true", help="run the stages in this process, not by nextflow")
    arguments = parser.parse_args()
    data, outdir = arguments.data, arguments.outdir.resolve()
    training, sheet = write_sheets(data, outdir)
    recipe = read_recipe("her2st", panel=data / "genes" / "panels" / "her2st.txt")
    set_folder = outdir / "set"
    prepare_sections(training, recipe=recipe, outdir=set_folder)
    evaluation = cross_validate(set_folder, recipe=recipe, outdir=outdir / "evaluation")
    print((outdir / "evaluation" / "evaluation.md").read_text(), file=sys.stderr)
    result: dict[str, object] = {}
    for protocol in PROTOCOLS:
        bundle, results = outdir / f"bundle-{protocol}", outdir / f"pipeline-{protocol}"
        model = outdir / "evaluation" / "models" / f"{recipe.method}-{protocol}-{HELD_OUT}"
        export_bundle(model, encoders=set_folder / "encoders", outdir=bundle, evaluation=outdir / "evaluation")
        expression = run_verbs(data, bundle, results) if arguments.verbs else run_pipeline(sheet, bundle, results)
        through = compare_expression(expression, set_folder=set_folder, recipe=recipe)
        fold = evaluation.summary(protocol).figure("pearson")
        result[protocol] = {
            "mean_of_sections": headline(evaluation, protocol),
            f"{HELD_OUT}_fold": fold.by_sample[HELD_OUT] if fold else None,
            f"{HELD_OUT}_pipeline": through["pearson"],
        }
    if arguments.ablations:
        result["ablations"] = ablate(set_folder, recipe, outdir / "ablations")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
