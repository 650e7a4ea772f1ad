"""The tables that name genes are read at their real size, in the layouts their makers publish."""

from __future__ import annotations

import csv
import gzip
import io
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from histocast.artifacts import GENE_NAMES, read_table
from histocast.errors import DataError
from histocast.genes.catalogue import Gene, Match, Refusal
from histocast.genes.name_tables import open_catalogue

SHIPPED = open_catalogue()
# As HGNC's complete set and NCBI's gene_info head their columns.
HGNC = (
    "hgnc_id symbol name locus_group locus_type status location alias_symbol alias_name prev_symbol prev_name "
    "gene_group gene_group_id date_approved_reserved date_symbol_changed date_name_changed date_modified entrez_id "
    "ensembl_gene_id vega_id ucsc_id ena refseq_accession ccds_id uniprot_ids pubmed_id mgd_id rgd_id lsdb cosmic "
    "omim_id mirbase homeodb snornabase bioparadigms_slc orphanet pseudogene.org horde_id merops imgt iuphar "
    "kznf_gene_catalog mamit-trnadb cd lncrnadb enzyme_id intermediate_filament_db rna_central_id lncipedia gtrnadb "
    "agr mane_select gencc"
)
GENE_INFO = (
    "#tax_id GeneID Symbol LocusTag Synonyms dbXrefs chromosome map_location description type_of_gene "
    "Symbol_from_nomenclature_authority Full_name_from_nomenclature_authority Nomenclature_status Other_designations "
    "Modification_date Feature_type"
)
HGNC_COLUMNS, GENE_INFO_COLUMNS = HGNC.split(), GENE_INFO.split()
MGI_COLUMNS = (
    "MGI Accession ID",
    "Chr",
    "cM Position",
    "genome coordinate start",
    "genome coordinate end",
    "strand",
    "Marker Symbol",
    "Status",
    "Marker Name",
    "Marker Type",
    "Feature Type",
    "Marker Synonyms (pipe-separated)",
)
NCBI_SYMBOLS = {"MT-CO1": "COX1", "MT-ND1": "ND1"}
REGIONS = 150_000


def hgnc_rows() -> Iterable[dict[str, str]]:
    for gene in SHIPPED.genes:
        yield {
            "hgnc_id": gene.authority_id or "",
            "symbol": gene.symbol,
            "name": gene.name,
            "locus_type": gene.locus_type,
            "status": "Approved",
            "alias_symbol": "|".join(gene.aliases),
            "prev_symbol": "|".join(gene.previous),
            "gene_group_id": "|".join(gene.families),
            "entrez_id": gene.ncbi_gene_id or "",
            "ensembl_gene_id": gene.ensembl_id or "",
            "uniprot_ids": "|".join(gene.uniprot_ids),
            "mane_select": "ENST00000263100.8|NM_130786.4",
        }


def gene_info_rows() -> Iterable[list[str]]:
    """Human genes, regulatory regions as NCBI lists them among the genes, and each gene again as one of the mouse."""
    for number, gene in enumerate(SHIPPED.genes):
        names = "|".join((*gene.previous, *gene.aliases)) or "-"
        links = [f"HGNC:{gene.authority_id}", f"Ensembl:{gene.ensembl_id}" if gene.ensembl_id else "MIM:1"]
        # A name may begin with a quotation mark, which opens nothing.
        name = f'"{gene.name}' if number % 1000 == 0 else gene.name
        tail = ["-", "-", "|".join([*links, f"AllianceGenome:{gene.authority_id}"]), "1", "1p", name, "protein-coding"]
        ncbi = NCBI_SYMBOLS.get(gene.symbol, gene.symbol)
        head = ["9606", gene.ncbi_gene_id or "", ncbi]
        yield [*head, "-", names, *tail[2:], gene.symbol, name, "O", "-", "20240101", "-"]
        mouse = gene.symbol.capitalize()
        ids = f"MGI:MGI:{number}|Ensembl:ENSMUSG{number:011}"
        yield ["10090", str(10**7 + number), mouse, "-", "-", ids, "1", "-", name, "-", mouse, name, "O", "-", "-", "-"]
    for number in range(REGIONS):
        symbol = f"LOC{10**8 + number}"
        yield ["9606", symbol[3:], symbol, *"---1-", "a silencer", "biological-region", *"------"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    # HGNC quotes the cells that hold a bar.
    with (folder / "hgnc_complete_set.txt").open("w", encoding="utf-8", newline="") as stream:
        stream.write("\t".join(HGNC_COLUMNS) + "\n")
        for row in hgnc_rows():
            cells = [row.get(column, "") for column in HGNC_COLUMNS]
            stream.write("\t".join(f'"{cell}"' if "|" in cell else cell for cell in cells) + "\n")
    content = io.StringIO()
    content.write("\t".join(GENE_INFO_COLUMNS) + "\n")
    for cells in gene_info_rows():
        content.write("\t".join(cells) + "\n")
    (folder / "All_Mammalia.gene_info.gz").write_bytes(gzip.compress(content.getvalue().encode(), 1))
    with (folder / "MRK_List2.rpt").open("w", encoding="utf-8") as stream:
        stream.write("\t".join(MGI_COLUMNS) + "\n")
        for number, gene in enumerate(SHIPPED.genes):
            cells = [f"MGI:{number}", "1", "1.0", "1", "2", "+", gene.symbol.capitalize(), "O", gene.name, "Gene"]
            synonyms = "|".join(symbol.capitalize() for symbol in gene.previous)
            stream.write("\t".join([*cells, "protein coding gene", synonyms]) + "\n")
    return folder


def test_hgncs_own_layout_gives_the_same_genes_as_the_shipped_table(tables: Path) -> None:
    assert open_catalogue([tables / "hgnc_complete_set.txt"]).genes == SHIPPED.genes


def test_gene_info_gives_every_gene_and_no_region(tables: Path) -> None:
    catalogue = open_catalogue([tables / "All_Mammalia.gene_info.gz"])
    assert [(gene.symbol, gene.authority_id, gene.ensembl_id, gene.ncbi_gene_id) for gene in catalogue.genes] == [
        (gene.symbol, gene.authority_id, gene.ensembl_id, gene.ncbi_gene_id or None) for gene in SHIPPED.genes
    ]
    # NCBI's COX1 is MT-CO1; it is an alias of PTGS1 too, and only a human knows which is meant.
    refusal = catalogue.find("COX1")
    assert isinstance(refusal, Refusal)
    assert {"MT-CO1", "PTGS1"} <= {gene.symbol for gene in refusal.candidates}
    match = catalogue.find("MT-ND1")
    assert isinstance(match, Match)
    assert match.gene.ncbi_gene_id == "4535"
    assert "ND1" in match.gene.aliases


def test_mouse_genes_of_mgi_get_their_other_ids_from_ncbi(tables: Path) -> None:
    paths = [tables / "MRK_List2.rpt", tables / "All_Mammalia.gene_info.gz"]
    alone, both = open_catalogue(paths[:1], species="mouse"), open_catalogue(paths, species="mouse")
    assert len(alone.genes) == len(both.genes) > 40_000
    match = both.find("Krt5")
    assert isinstance(match, Match)
    number = int((match.gene.authority_id or "").split(":")[1])
    assert match.gene.ncbi_gene_id == str(10**7 + number)
    assert both.find(f"ENSMUSG{number:011}.4") == Match(f"ENSMUSG{number:011}.4", match.gene, "id")
    # And a spreadsheet's date means the mouse's gene.
    refusal = both.find("2-Sep")
    assert isinstance(refusal, Refusal)
    assert "Septin2" in refusal.expected


# The most memory that a process's own program held: what it was forked from does not count, as it would in getrusage.
MEASURED = """
import resource, sys
from pathlib import Path
from histocast import cli
try:
    cli.main()
except SystemExit as end:
    assert not end.code
status = Path("/proc/self/status").read_text()
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize("name", ["hgnc_complete_set.txt", "All_Mammalia.gene_info.gz"])
def test_a_whole_genome_is_resolved_in_seconds_and_little_memory(
    name: str, tables: Path, tmp_path: Path, root: Path
) -> None:
    asked = tmp_path / "all.txt"
    asked.write_text("\n".join(gene.symbol for gene in SHIPPED.genes))
    verb = [sys.executable, "-c", MEASURED, "genes", "resolve", "--genes", str(asked), "--names", str(tables / name)]
    environment = {"PYTHONPATH": str(root / "python")}
    run = subprocess.run(
        [*verb, "--outdir", str(tmp_path)], env=environment, check=True, capture_output=True, text=True, timeout=200
    )
    assert read_table(tmp_path / "gene-names.parquet", GENE_NAMES)[0].num_rows == len(SHIPPED.genes)
    processor_s, peak_kib = map(float, run.stdout.split())
    # 3 s and 0.3 GB where nothing else runs; what is held here is that neither explodes.
    assert processor_s < 40
    assert peak_kib < 800_000


def test_rows_of_one_gene_are_one_gene(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    rows = [
        ("gene_symbol", "mgi_id", "gene_id", "aliases"),
        ("Septin2", "MGI:97298", "ENSMUSG00000026276", "Sept2"),
        ("Septin2", "MGI:97298", "ENSMUSG00000116048", "Sept2|Nedd5"),
    ]
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows(rows)
    catalogue = open_catalogue([path], species="mouse")
    assert catalogue.genes == (
        Gene("Septin2", authority_id="MGI:97298", ensembl_id="ENSMUSG00000026276", aliases=("Sept2", "Nedd5")),
    )
    assert isinstance(catalogue.find("Sept2"), Match)


def test_a_table_of_ones_own_lacks_nothing_that_a_later_one_knows(tables: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("gene_symbol,gene_id\nERBB2,\nKRT5,ENSG00000186081\nFLG,ENSG00000999999\n")
    catalogue = open_catalogue([own, tables / "hgnc_complete_set.txt"])
    found = {symbol: catalogue.find(symbol) for symbol in ("ERBB2", "KRT5", "FLG")}
    ids = {symbol: match.gene.ncbi_gene_id for symbol, match in found.items() if isinstance(match, Match)}
    # FLG has another Ensembl id than HGNC's: that may be another gene, so nothing is taken over.
    assert ids == {"ERBB2": "2064", "KRT5": "3852", "FLG": None}
    assert len(catalogue.genes) == len(SHIPPED.genes)


def test_a_cell_beyond_all_measure_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text('gene_symbol,name\nERBB2,"' + "never closed " * 20_000)
    with pytest.raises(DataError, match=r"own\.csv: not a table"):
        open_catalogue([path])
