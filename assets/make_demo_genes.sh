#!/usr/bin/env bash
# Makes the tables of assets/demo-genes again from panel.txt, held_out.txt and terms.tsv: ids, texts and MiniLM
# embeddings of the demo panel and of 50 genes held out of it. Half a minute on two cores; needs the extra `genes`.
#
#   assets/make_demo_genes.sh [OUTDIR]
set -euo pipefail
assets=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
demo=$assets/demo-genes
outdir=${1:-$demo}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PATH="$assets/../.venv/bin:$PATH" PYTHONPATH="$assets/../python${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
histocast() { python -m histocast "$@"; }

cat "$demo/panel.txt" "$demo/held_out.txt" > "$scratch/genes.txt"
histocast genes resolve --genes "$scratch/genes.txt" --outdir "$scratch"
histocast genes describe --names "$scratch/gene-names.parquet" --go "$demo/terms.tsv" --outdir "$scratch"
histocast genes embed --texts "$scratch/gene-texts.parquet" --outdir "$scratch"
mkdir -p "$outdir"
cp "$scratch"/gene-names.parquet "$scratch"/gene-texts.parquet "$scratch"/genes.parquet "$outdir"
