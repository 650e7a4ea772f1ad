#!/usr/bin/env bash
# Makes assets/breast-her2st again by the train workflow: kernel ridge on the five sections of HER2ST's patient C, each left out
# once for the figures of the card. About a quarter of an hour on two cores.
#
#   assets/make_breast_her2st.sh DATA PANEL [OUTDIR]
#
# DATA holds images/C2.jpg, counts/C2.tsv.gz and spots/C2_selection.tsv, and so for C3 to C6; PANEL a gene on each line.
set -euo pipefail
assets=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=$(cd "$1" && pwd)
panel=$(realpath "$2")
outdir=${3:-$assets/breast-her2st}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PATH="$assets/../.venv/bin:$assets/../.tools/bin:$PATH"

# The images do not state their resolution: spots are 200 um and 290 px apart.
echo "sample,slide,counts,patient,spots,mpp" > "$scratch/training.csv"
for section in C2 C3 C4 C5 C6; do
  echo "$section,$data/images/$section.jpg,$data/counts/$section.tsv.gz,C,$data/spots/${section}_selection.tsv,0.69" \
    >> "$scratch/training.csv"
done
cd "$scratch"
nextflow run "$assets/.." --workflow train --input training.csv --recipe "$assets/breast-her2st-recipe.json" \
  --genes "$panel" --outdir models
rm -rf "$outdir"
cp -r models/kernel-ridge/bundle "$outdir"
