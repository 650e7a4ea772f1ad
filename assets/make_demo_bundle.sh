#!/usr/bin/env bash
# Makes assets/demo-bundle again: five synthetic slides with measured spots; DKAN on morphology and the gene texts of
# assets/demo-genes, trained on four slides and scored on the one left out. About two minutes; needs the extra `train`.
#
#   assets/make_demo_bundle.sh [OUTDIR]
set -euo pipefail
assets=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
outdir=${1:-$assets/demo-bundle}
recipe=$assets/demo-recipe.json
texts=$assets/demo-genes/genes.parquet
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PATH="$assets/../.venv/bin:$PATH" PYTHONPATH="$assets/../python${PYTHONPATH:+:$PYTHONPATH}"
histocast() { python -m histocast "$@"; }

python -m histocast_demo data --training --seed 0 --outdir "$scratch/data"
histocast prepare --input "$scratch/data/training.csv" --recipe "$recipe" --outdir "$scratch/set"
histocast train --set "$scratch/set" --recipe "$recipe" --gene-text "$texts" --fold T1 --outdir "$scratch/model"
histocast evaluate --set "$scratch/set" --model "$scratch/model" --outdir "$scratch/evaluation"
histocast export --model "$scratch/model" --encoders "$scratch/set/encoders" --evaluation "$scratch/evaluation" \
  --outdir "$outdir"
