#!/usr/bin/env bash
# Makes assets/demo-bundle again: five synthetic slides with measured spots, ridge on morphology, figures from
# leaving one slide out. About a minute on two cores; needs the extra `train`.
#
#   assets/make_demo_bundle.sh [OUTDIR]
set -euo pipefail
assets=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
outdir=${1:-$assets/demo-bundle}
recipe=$assets/demo-recipe.json
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PATH="$assets/../.venv/bin:$PATH" PYTHONPATH="$assets/../python${PYTHONPATH:+:$PYTHONPATH}"
histocast() { python -m histocast "$@"; }

histocast demo-data --training --seed 0 --outdir "$scratch/data"
histocast prepare --input "$scratch/data/training.csv" --recipe "$recipe" --outdir "$scratch/set"
histocast evaluate --set "$scratch/set" --recipe "$recipe" --outdir "$scratch/evaluation"
histocast train --set "$scratch/set" --recipe "$recipe" --outdir "$scratch/model"
histocast export --model "$scratch/model" --encoders "$scratch/set/encoders" --evaluation "$scratch/evaluation" \
  --outdir "$outdir"
