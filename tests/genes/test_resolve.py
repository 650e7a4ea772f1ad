"""A symbol means one gene, or is refused with the reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from histocast.artifacts import GENE_NAMES, read_table
from histocast.errors import DataError, MissingInputError, UsageError
from histocast.genes.catalogue import Catalogue, Gene, Match, Refusal
from histocast.genes.name_tables import SHIPPED_NAMES, find_other_names, open_catalogue, read_names
from histocast.genes.resolve import read_named_genes, resolve_genes
from histocast.sections.gene_table import read_gene_table

CATALOGUE = open_catalogue()
RENAMED = {
    "ATP5B": "ATP5F1B",
    "ATP5E": "ATP5F1E",
    "ATP5G2": "ATP5MC2",
    "SEPW1": "SELENOW",
    "H2AFJ": "H2AJ",
    "H1FX": "H1-10",
    "H3F3B": "H3-3B",
    "AES": "TLE5",
    "C4orf48": "NICOL1",
    "KIAA0100": "BLTP2",
    "PHB": "PHB1",
    "SLC9A3R1": "NHERF1",
    "TCEB2": "ELOB",
    "SEPT2": "SEPTIN2",
    "MARCH1": "MARCHF1",
    # Renamed twice, and once back.
    "HIST3H2BB": "H2BC26",
    "H2BU1": "H2BC26",
    "HIST3H2A": "H2AC25",
    "EEF1AKNMT": "METTL13",
    "METTL13": "METTL13",
}


def found(query: str, catalogue: Catalogue = CATALOGUE) -> Gene:
    answer = catalogue.find(query)
    assert isinstance(answer, Match), answer
    return answer.gene


def refused(query: str, catalogue: Catalogue = CATALOGUE) -> Refusal:
    answer = catalogue.find(query)
    assert isinstance(answer, Refusal), answer
    return answer


def panel(folder: Path, *lines: str) -> Path:
    path = folder / "panel.txt"
    path.write_text("\n".join(lines))
    return path


def invented(*genes: Gene) -> Catalogue:
    return Catalogue(genes, "human", "sha256:0", "a table of the test")


def test_other_names_of_a_gene_are_its_id_and_its_approved_and_earlier_symbols():
    assert find_other_names("HER2")[:2] == ("ENSG00000141736", "ERBB2")
    assert {"ENSG00000163041", "H3-3A"} < set(find_other_names("H3F3A"))
    assert find_other_names("ENSG00000141736")[1] == "ERBB2"
    # What names several genes, or none, has none: nothing is guessed.
    assert find_other_names("STRA13") == find_other_names("no gene") == ()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_symbols_of_count_matrices_are_found(old: str, new: str) -> None:
    assert found(old) == found(new)
    assert found(old).symbol == new


def test_approved_goes_before_previous_and_previous_before_alias() -> None:
    first = Gene("A", authority_id="HGNC:1")
    second = Gene("B", authority_id="HGNC:2", previous=("A", "C"))
    third = Gene("D", authority_id="HGNC:3", aliases=("A", "C", "E"))
    catalogue = invented(third, second, first)
    assert [found(query, catalogue) for query in "ACE"] == [first, second, third]


@pytest.mark.parametrize("tier", ["previous", "aliases"])
def test_what_stays_ambiguous_is_refused_with_the_candidates_named(tier: str) -> None:
    catalogue = invented(
        Gene("B", authority_id="HGNC:2", **{tier: ("A",)}), Gene("C", authority_id="HGNC:3", **{tier: ("A",)})
    )
    refusal = refused("A", catalogue)
    assert [gene.symbol for gene in refusal.candidates] == ["B", "C"]
    assert "B (HGNC:2)" in refusal.expected
    assert "C (HGNC:3)" in refusal.expected


def test_mitochondrial_genes() -> None:
    gene = found("MT-CO1")
    assert (gene.authority_id, gene.ncbi_gene_id, gene.ensembl_id) == ("HGNC:7419", "4512", "ENSG00000198804")
    assert found("MTCO1") == gene
    # NCBI's symbol of it is also what the literature calls prostaglandin-endoperoxide synthase 1.
    assert {"MT-CO1", "PTGS1"} <= {candidate.symbol for candidate in refused("COX1").candidates}


@pytest.mark.parametrize("query", ["ENSG00000141736", "ENSG00000141736.13", "HGNC:3430", "ERBB2"])
def test_ids_and_symbols_mean_the_same(query: str) -> None:
    assert found(query).symbol == "ERBB2"


def test_spelling_counts_and_is_suggested() -> None:
    assert "did you mean KRT5" in (refused("Krt5").advice or "")
    assert "ERBB2" in (refused("ERB2").advice or "")
    assert "--species" in (refused("ENSMUSG00000061527").advice or "")


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("2-Sep", "SEPTIN2"),
        ("02-Sep", "SEPTIN2"),
        ("Sep-02", "SEPTIN2"),
        ("2-Sep-24", "SEPTIN2"),
        ("2024-09-02", "SEPTIN2"),
        ("2024-09-02 00:00:00", "SEPTIN2"),
        ("9/2/2024", "SEPTIN2"),
        ("2/9/2024", "SEPTIN2"),
        ("02.09.2024", "SEPTIN2"),
        ("45537", "SEPTIN2"),
        ("1-Mar", "MARCHF1"),
        ("1-Mar", "MTARC1"),
        ("1-Dec", "DELEC1"),
        ("2.31E+13", None),
    ],
)
def test_what_a_spreadsheet_made_of_a_symbol_is_recognised(cell: str, meant: str | None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="spreadsheet") as caught:
        # Not even where unknown genes are kept: the name is no gene's.
        resolve_genes(panel(tmp_path, cell), catalogue=CATALOGUE, outdir=tmp_path, on_unknown="keep")
    assert meant is None or meant in caught.value.message


def test_genes_of_another_species_are_told_from_unknown_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--species"):
        resolve_genes(panel(tmp_path, "Krt5", "Erbb2", "Gm1000"), catalogue=CATALOGUE, outdir=tmp_path)
    with pytest.raises(DataError, match="--on-unknown keep"):
        resolve_genes(panel(tmp_path, "Krt5", "KRT55", "NOSUCH"), catalogue=CATALOGUE, outdir=tmp_path)


@pytest.mark.parametrize("alias", ["GATD6", "MIG-2", "NK3"])
def test_an_alias_that_became_another_genes_is_no_longer_one(alias: str) -> None:
    assert refused(alias).candidates == ()


@pytest.mark.parametrize(
    ("symbol", "approved", "matched_by"),
    [
        # Approved after 2018 for a gene of its own; an alias of CHTF8 before.
        ("DERPC", "DERPC", "approved"),
        # Renamed in 2018, in 2022 and in 2025; several genes had the third, of which one had it last.
        ("H3F3A", "H3-3A", "previous"),
        ("ARNTL", "BMAL1", "previous"),
        ("SLC22A18", "SLC67A1", "previous"),
        ("QARS", "QARS1", "previous"),
        ("MT-ND1", "MT-ND1", "approved"),
    ],
)
def test_symbols_are_those_of_2026(symbol: str, approved: str, matched_by: str) -> None:
    match = CATALOGUE.find(symbol)
    assert isinstance(match, Match)
    assert (match.gene.symbol, match.matched_by) == (approved, matched_by)
    assert "2026" in CATALOGUE.source


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    lines = ("ERBB2", "KRT55", "2-Sep", "COX1", "ATP5B", "ATP5F1B", "ERBB2", "NOSUCHGENE")
    with pytest.raises(DataError) as caught:
        resolve_genes(panel(tmp_path, *lines), catalogue=CATALOGUE, outdir=tmp_path)
    message = caught.value.message
    assert message.startswith(f"{tmp_path / 'panel.txt'}: 6 errors found")
    for part in (
        "line 2",
        "KRT5",
        "line 3",
        "SEPTIN2",
        "line 4",
        "PTGS1",
        "line 6",
        "both ATP5F1B",
        "line 7",
        "line 8",
    ):
        assert part in message
    assert not (tmp_path / "gene-names.parquet").exists()


@pytest.mark.parametrize("lines", [(), ("# nothing", "")])
def test_an_empty_panel_is_refused(lines: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no gene"):
        resolve_genes(panel(tmp_path, *lines), catalogue=CATALOGUE, outdir=tmp_path)


def test_the_table_serves_the_train_workflow(tmp_path: Path) -> None:
    facts = resolve_genes(panel(tmp_path, "ATP5B", "ENSG00000141736.13"), catalogue=CATALOGUE, outdir=tmp_path)
    assert read_gene_table(facts.path) == {"ATP5B": "ENSG00000110955", "ERBB2": "ENSG00000141736"}
    table, provenance = read_table(facts.path, GENE_NAMES)
    assert table.column("approved_symbol").to_pylist() == ["ATP5F1B", "ERBB2"]
    assert provenance.inputs["names"] == CATALOGUE.digest
    assert [gene.gene for gene in read_named_genes(facts.path)][1].ncbi_gene_id == "2064"


def test_the_same_panel_gives_the_same_bytes(tmp_path: Path) -> None:
    genes = panel(tmp_path, "ERBB2", "KRT5")
    first = resolve_genes(genes, catalogue=CATALOGUE, outdir=tmp_path / "a").path.read_bytes()
    assert resolve_genes(genes, catalogue=CATALOGUE, outdir=tmp_path / "b").path.read_bytes() == first


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("panel.csv", "sample,gene_symbol\nx,ERBB2\nx,KRT5\n"),
        ("panel.tsv", "gene_id\tother\nENSG00000141736\t1\nENSG00000186081\t2\n"),
        ("panel.txt", "\ufeffERBB2\r\nKRT5  # basal\r\n\r\n"),
    ],
)
def test_panels_and_tables_are_read(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    facts = resolve_genes(tmp_path / name, catalogue=CATALOGUE, outdir=tmp_path)
    assert read_table(facts.path, GENE_NAMES)[0].column("approved_symbol").to_pylist() == ["ERBB2", "KRT5"]


def test_files_that_are_no_panel_are_named(tmp_path: Path) -> None:
    (tmp_path / "no.csv").write_text("colour,size\nred,1\n")
    (tmp_path / "no.txt").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / "no.parquet").write_bytes(b"PAR?")
    for name in ("no.csv", "no.txt", "no.parquet"):
        with pytest.raises(DataError, match=name):
            resolve_genes(tmp_path / name, catalogue=CATALOGUE, outdir=tmp_path)
    with pytest.raises(MissingInputError):
        resolve_genes(tmp_path / "absent.txt", catalogue=CATALOGUE, outdir=tmp_path)


HGNC_HEADER = "hgnc_id\tsymbol\tname\tstatus\talias_symbol\tprev_symbol\tentrez_id\tensembl_gene_id\tuniprot_ids\n"
HGNC_ROW = 'HGNC:830\tATP5F1B\tATP synthase F1 subunit beta\tApproved\t\t"ATPSB|ATP5B"\t506\tENSG00000110955\tP06576\n'
GENE_INFO_HEADER = (
    "#tax_id\tGeneID\tSymbol\tLocusTag\tSynonyms\tdbXrefs\tchromosome\tmap_location\tdescription\ttype_of_gene\t"
    "Symbol_from_nomenclature_authority\tFull_name_from_nomenclature_authority\n"
)
GENE_INFO_ROWS = (
    "9606\t4512\tCOX1\t-\tCOI|MTCO1\tHGNC:HGNC:7419|Ensembl:ENSG00000198804\tMT\t-\tcytochrome c oxidase subunit I\t"
    "protein-coding\tMT-CO1\tmitochondrially encoded cytochrome c oxidase I\n"
    "10090\t13866\tErbb2\t-\tNeu|c-erbB2\tMGI:MGI:95410|Ensembl:ENSMUSG00000062312\t11\t-\terb-b2\tprotein-coding\t"
    "Erbb2\terb-b2 receptor tyrosine kinase 2\n"
)
MGI_TABLE = (
    "MGI Accession ID\tChr\tMarker Symbol\tStatus\tMarker Name\tMarker Type\tFeature Type\t"
    "Marker Synonyms (pipe-separated)\n"
    "MGI:95410\t11\tErbb2\tO\terb-b2 receptor tyrosine kinase 2\tGene\tprotein coding gene\tNeu|c-neu\n"
    "MGI:1\t11\tErbb2m\tO\tan allele\tQTL\tQTL\t\n"
)


def test_newer_tables_are_read_by_their_header(tmp_path: Path) -> None:
    hgnc = tmp_path / "hgnc_complete_set.txt"
    hgnc.write_text(HGNC_HEADER + HGNC_ROW + HGNC_ROW.replace("Approved", "Entry Withdrawn").replace("830", "831"))
    catalogue = open_catalogue([hgnc])
    assert len(catalogue.genes) == 1
    assert found("ATP5B", catalogue).uniprot_ids == ("P06576",)
    document = {"hgnc_id": "HGNC:830", "symbol": "ATP5F1B", "status": "Approved", "prev_symbol": ["ATP5B"]}
    json_set = tmp_path / "hgnc_complete_set.json"
    json_set.write_text(json.dumps({"response": {"docs": [document]}}))
    assert found("ATP5B", open_catalogue([json_set])).authority_id == "HGNC:830"


def test_ncbi_gene_info_names_by_the_authority(tmp_path: Path) -> None:
    path = tmp_path / "gene_info.gz"
    path.write_bytes(gzip.compress((GENE_INFO_HEADER + GENE_INFO_ROWS).encode()))
    human = open_catalogue([path])
    assert found("COX1", human) == found("MT-CO1", human)
    assert found("COX1", human).symbol == "MT-CO1"
    mouse = open_catalogue([path], species="mouse")
    assert found("ENSMUSG00000062312.5", mouse).authority_id == "MGI:95410"
    assert isinstance(mouse.find("ERBB2"), Refusal)


def test_mouse_genes_come_from_mgi(tmp_path: Path) -> None:
    path = tmp_path / "MRK_List2.rpt"
    path.write_text(MGI_TABLE)
    catalogue = open_catalogue([path], species="mouse")
    assert [gene.symbol for gene in catalogue.genes] == ["Erbb2"]
    assert found("Neu", catalogue).authority_id == found("MGI:95410", catalogue).authority_id == "MGI:95410"
    with pytest.raises(UsageError, match="mouse"):
        open_catalogue(species="mouse")


def test_tables_of_ones_own_add_genes(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("gene_symbol,gene_id,aliases\nAC090498.1,ENSG00000999999.2,CLONE1|CLONE2\nERBB2,ENSG00000888888,\n")
    catalogue = open_catalogue([SHIPPED_NAMES, own])
    assert found("CLONE2", catalogue).ensembl_id == "ENSG00000999999"
    assert found("ERBB2", catalogue).ensembl_id == "ENSG00000141736"
    assert len(catalogue.genes) == len(CATALOGUE.genes) + 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("other.tsv", b"colour\tsize\nred\t1\n"),
        ("empty.tsv", b""),
        ("header.tsv", HGNC_HEADER.encode()),
        ("broken.json", b'{"response": {"docs": ['),
        ("cut.gz", gzip.compress(b"x" * 1000, mtime=0)[:20]),
        ("binary.txt", b"\xff\xfe\x81"),
        ("no.parquet", b"PAR?"),
    ],
)
def test_tables_that_name_no_genes_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_names(path, species="human")


def test_the_shipped_table_is_small_and_whole() -> None:
    assert SHIPPED_NAMES.stat().st_size < 2_000_000
    assert len(CATALOGUE.genes) > 40_000
    symbols = [gene.symbol for gene in CATALOGUE.genes]
    assert len(symbols) == len(set(symbols))
    assert pq.read_schema(SHIPPED_NAMES).names[0] == "gene_symbol"


@pytest.mark.parametrize(("name", "unknown"), [("her2st", "AP000769.1"), ("skin", "AC090498.1"), ("stnet", None)])
def test_shared_panels_resolve_but_for_a_clone_each(
    shared_data: Path, tmp_path: Path, name: str, unknown: str | None
) -> None:
    path = shared_data / "genes" / "panels" / f"{name}.txt"
    facts = resolve_genes(path, catalogue=CATALOGUE, outdir=tmp_path, on_unknown="keep")
    assert facts.genes == 250
    assert [refusal.query for refusal in facts.unknown] == ([unknown] if unknown else [])
    reasons = [reason for reason in read_table(facts.path, GENE_NAMES)[0].column("reason").to_pylist() if reason]
    assert len(reasons) == len(facts.unknown)
    assert all("clone" in reason for reason in reasons)
