"""What gene embeddings know: the neighbours of five genes, and whether genes of one family lie together.

    python benchmarks/gene_neighbours.py [--data DIR]

Describes and embeds the demo genes (GO terms that are shipped) with MiniLM and, where ``--data`` names the folder
with real records (genes/ncbi_gene.jsonl ...), the genes of the three published panels, by several texts. Prints JSON:
the five nearest genes by cosine, and the AUROC of cosine between pairs that share an HGNC gene group against pairs
that share none, over the genes that have a group; beside it the AUROC with the groups dealt out anew, 50 times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from histocast.genes.catalogue import Match
from histocast.genes.describe import describe_genes
from histocast.genes.embed import embed_genes
from histocast.genes.gene_options import Sources
from histocast.genes.name_tables import open_catalogue
from histocast.genes.resolve import resolve_genes
from histocast.genes.text_encoders import KNOWN, SentenceEncoder

DEMO = Path(__file__).parents[1] / "assets" / "demo-genes"
ASKED = ("KRT5", "ERBB2", "IGKC", "CD3E", "COL1A1")
SHUFFLES = 50
# CD numbers say which antibodies found a protein, not what it is made like.
NO_FAMILY = {"471"}


def family_auroc(vectors: np.ndarray, families: list[set[str]]) -> dict[str, Any]:
    """AUROC of cosine for sharing a family, over the pairs of genes that have one."""
    own = [index for index, groups in enumerate(families) if groups]
    unit = vectors[own] / np.linalg.norm(vectors[own], axis=1, keepdims=True)
    first, second = np.triu_indices(len(own), k=1)
    cosine = np.einsum("pd,pd->p", unit[first], unit[second])

    def auroc(order: np.ndarray) -> tuple[float, int]:
        groups = [families[own[index]] for index in order]
        same = np.array([not groups[a].isdisjoint(groups[b]) for a, b in zip(first, second, strict=True)])
        return float(roc_auc_score(same, cosine)), int(same.sum())

    found, pairs = auroc(np.arange(len(own)))
    random = np.random.default_rng(0)
    chance = [auroc(random.permutation(len(own)))[0] for _ in range(SHUFFLES)]
    return {
        "genes": len(own),
        "same_family_pairs": pairs,
        "auroc": round(found, 3),
        "chance_mean": round(float(np.mean(chance)), 3),
        "chance_max": round(max(chance), 3),
    }


def score(panel: Path, *, sources: Sources, head: bool, scratch: Path, encoder: SentenceEncoder) -> dict[str, Any]:
    """Describe and embed a panel, and say what lies where."""
    names = resolve_genes(panel, catalogue=open_catalogue(), outdir=scratch, on_unknown="keep")
    texts = describe_genes(names.path, outdir=scratch, sources=sources, head=head)
    facts = embed_genes(texts.path, encoder=encoder, outdir=scratch)
    table = pq.read_table(facts.path)
    vectors = np.stack(table["embedding"].to_numpy())
    symbols = table["approved_symbol"].to_pylist()
    families = [set(groups) - NO_FAMILY for groups in pq.read_table(names.path)["families"].to_pylist()]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    neighbours = {}
    for symbol in ASKED:
        if symbol in symbols:
            cosine = unit @ unit[symbols.index(symbol)]
            nearest = [index for index in np.argsort(-cosine) if symbols[index] != symbol][:5]
            neighbours[symbol] = [f"{symbols[index]} {cosine[index]:.2f}" for index in nearest]
    counts = {"texts": facts.genes, "truncated": facts.truncated, "by_source": texts.by_source}
    return {**counts, "families": family_auroc(vectors, families), "neighbours": neighbours}


def published_panel(data: Path, scratch: Path) -> Path:
    """The genes of the three published panels, each once."""
    catalogue = open_catalogue()
    symbols = [line for path in sorted((data / "panels").glob("*.txt")) for line in path.read_text().split()]
    answers = map(catalogue.find, symbols)
    genes = sorted({answer.gene.symbol for answer in answers if isinstance(answer, Match)})
    panel = scratch / "published.txt"
    panel.write_text("\n".join(genes))
    return panel


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with genes/ncbi_gene.jsonl and so on")
    data: Path | None = parser.parse_args().data
    encoder = SentenceEncoder(KNOWN["minilm"])
    figures: dict[str, Any] = {"encoder": encoder.label}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        demo = scratch / "demo.txt"
        demo.write_text((DEMO / "panel.txt").read_text() + (DEMO / "held_out.txt").read_text())
        go = Sources(go=DEMO / "terms.tsv")
        runs = [("demo: name and GO", demo, go, True), ("demo: GO alone", demo, go, False)]
        runs.append(("demo: name alone", demo, Sources(), True))
        if data is not None:
            genes = data / "genes"
            panel = published_panel(genes, scratch)
            both = Sources(ncbi=genes / "ncbi_gene.jsonl", go=genes / "go_annotations.tsv.gz")
            runs += [
                ("published: name, NCBI and GO", panel, both, True),
                ("published: name and NCBI", panel, Sources(ncbi=both.ncbi), True),
            ]
            runs += [
                ("published: name alone", panel, Sources(), True),
                ("published: GO alone", panel, Sources(go=both.go), False),
            ]
        for label, wanted, sources, head in runs:
            figures[label] = score(wanted, sources=sources, head=head, scratch=scratch, encoder=encoder)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
