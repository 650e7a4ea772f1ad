"""A language model is asked once, checked, and never believed about another gene."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_endpoint import Asked, Reply, fit_answer, serve, symbol_of

from histocast.artifacts import GENE_TEXTS, read_table
from histocast.errors import ConfigError, DataError, DeadlineExceeded, OutputError, ServingUnavailable
from histocast.genes.describe import DescribeFacts, describe_genes
from histocast.genes.endpoint import Endpoint
from histocast.genes.gene_options import Sources
from histocast.genes.journal import Journal
from histocast.genes.refine import Refinement

pytest.importorskip("openai", reason="the extra genes is not installed")
NameGenes = Callable[..., Path]
SYMBOLS = ("FLG", "KRT5", "ERBB2", "CD3E", "COL1A1", "IGKC")


def how(url: str, **options: Any) -> Refinement:
    endpoint = Endpoint(
        model="test-model", base_url=url, timeout_s=options.pop("timeout_s", 20), tries=options.pop("tries", 2)
    )
    return Refinement(endpoint=endpoint, **{"context": "HER2-positive breast cancer", "concurrency": 3, **options})


def describe(names: Path, outdir: Path, url: str, *, on_refused: Any = "fail", **options: Any) -> DescribeFacts:
    return describe_genes(
        names, outdir=outdir, sources=Sources(), refinement=how(url, **options), on_refused=on_refused
    )


def texts(facts: DescribeFacts) -> dict[str, str]:
    table, _ = read_table(facts.path, GENE_TEXTS)
    return dict(zip(table["gene_symbol"].to_pylist(), table["text"].to_pylist(), strict=True))


def once(asked: Asked) -> bool:
    return len(asked.answered) == len(set(asked.answered))


def test_answers_become_texts_and_tokens_are_reported(name_genes: NameGenes, tmp_path: Path) -> None:
    names = name_genes(*SYMBOLS)
    with serve(fit_answer) as (url, asked):
        facts = describe(names, tmp_path, url)
        assert facts.refinement
        assert (facts.refinement.asked, facts.refinement.prompt_tokens, facts.refinement.completion_tokens) == (
            6,
            600,
            60,
        )
        first = facts.path.read_bytes()
        again = describe(names, tmp_path, url)
    assert texts(facts)["FLG"] == "gene symbol: FLG. Functionality: binds flgx. Phenotype: none known."
    assert facts.by_source == {"llm:test-model": 6}
    assert again.refinement
    assert again.refinement.asked == 0
    assert again.path.read_bytes() == first
    assert len(asked.bodies) == 6
    body = asked.bodies[0]
    assert (body["temperature"], body["model"], body["response_format"]) == (0, "test-model", {"type": "json_object"})
    assert "HER2-positive breast cancer" in body["messages"][0]["content"]
    assert "fewer than 90 words" in body["messages"][1]["content"]


def test_the_key_is_read_from_the_environment_and_kept_nowhere(
    name_genes: NameGenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key")
    with serve(fit_answer) as (url, asked):
        facts = describe(name_genes("FLG"), tmp_path / "out", url)
    assert asked.headers[0]["authorization"] == "Bearer not-a-real-key"
    assert not any(b"not-a-real-key" in path.read_bytes() for path in facts.path.parent.iterdir())


UNFIT = {
    "prose": Reply("FLG is filaggrin, which aggregates keratin."),
    "truncated JSON": Reply('{"gene_symbol": "FLG", "functionality": "aggreg'),
    "cut off": Reply('{"gene_symbol": "FLG", "functionality": "abc", "phenotype": "abc"}', finish_reason="length"),
    "another gene": Reply('{"gene_symbol": "FGFR1", "functionality": "receptor kinase", "phenotype": "none"}'),
    "other keys": Reply('{"gene_symbol": "FLG", "functionality": "abc", "phenotype": "abc", "note": "hi"}'),
    "no phenotype": Reply('{"gene_symbol": "FLG", "functionality": "abc"}'),
    "empty": Reply(""),
    "a list": Reply("[]"),
    "another gene inside": Reply(
        '{"gene_symbol": "FLG", "functionality": "Gene symbol: FGFR1. Receptor kinase", "phenotype": "abc"}'
    ),
    "too long": Reply(json.dumps({"gene_symbol": "FLG", "functionality": "word " * 400, "phenotype": "abc"})),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_an_unfit_answer_is_sent_back_with_the_reason(kind: str, name_genes: NameGenes, tmp_path: Path) -> None:
    with serve(lambda body: UNFIT[kind] if len(body["messages"]) == 2 else fit_answer(body)) as (url, asked):
        facts = describe(name_genes("FLG"), tmp_path, url)
    assert texts(facts)["FLG"].startswith("gene symbol: FLG. Functionality: binds")
    assert len(asked.bodies) == 2
    assert "That is refused: " in asked.bodies[1]["messages"][3]["content"]
    if kind == "another gene":
        assert "FGFR1" in asked.bodies[1]["messages"][3]["content"]


@pytest.mark.parametrize("kind", UNFIT)
def test_a_model_that_stays_unfit_is_not_believed(kind: str, name_genes: NameGenes, tmp_path: Path) -> None:
    names = name_genes("FLG", "KRT5")

    def reply(body: dict[str, Any]) -> Reply:
        return UNFIT[kind] if symbol_of(body) == "FLG" else fit_answer(body)

    with serve(reply) as (url, asked):
        with pytest.raises(DataError, match="no fit answer about 1 of 2 genes") as caught:
            describe(names, tmp_path, url)
        assert "FLG: " in caught.value.message
        assert len(asked.bodies) == 4
        assert not (tmp_path / "gene-texts.parquet").exists()
        facts = describe(names, tmp_path, url, on_refused="source")
        assert len(asked.bodies) == 4
    assert texts(facts)["FLG"] == "gene symbol: FLG. Name: filaggrin."
    assert facts.by_source == {"name": 1, "llm:test-model": 1}


@pytest.mark.parametrize(
    "answer",
    [
        '```json\n{"gene_symbol": "FLG", "functionality": "abc", "phenotype": "abc"}\n```',
        '{"gene_symbol": "FLG", "functionality": ["abc"], "phenotype": ["abc."]}',
    ],
)
def test_harmless_habits_of_models_are_taken(answer: str, name_genes: NameGenes, tmp_path: Path) -> None:
    with serve(lambda _: Reply(answer)) as (url, _):
        facts = describe(name_genes("FLG"), tmp_path, url)
    assert texts(facts)["FLG"] == "gene symbol: FLG. Functionality: abc. Phenotype: abc."


@pytest.mark.parametrize("after", range(7))
def test_interrupted_anywhere_nothing_is_asked_twice_or_lost(after: int, name_genes: NameGenes, tmp_path: Path) -> None:
    """The endpoint goes away after some answers, of which the first to each gene is prose; then it is back."""
    names = name_genes("FLG", "KRT5", "ERBB2")
    given = 0

    def fails(body: dict[str, Any]) -> Reply:
        nonlocal given
        if given >= after:
            return Reply(status=400)
        given += 1
        return Reply("prose") if len(body["messages"]) == 2 else fit_answer(body)

    def works(body: dict[str, Any]) -> Reply:
        return Reply("prose") if len(body["messages"]) == 2 else fit_answer(body)

    answered: list[str] = []
    with serve(fails) as (url, asked):
        if after < 6:
            with pytest.raises(ConfigError, match="HTTP 400"):
                describe(names, tmp_path, url)
        else:
            describe(names, tmp_path, url)
        answered += asked.answered
    assert len(answered) == after
    with serve(works) as (url, asked):
        facts = describe(names, tmp_path, url)
        answered += asked.answered
    assert len(answered) == len(set(answered)) == 6
    assert len(texts(facts)) == 3
    with serve(works) as (url, _):
        assert describe(names, tmp_path / "whole", url).path.read_bytes() == facts.path.read_bytes()


def test_a_failing_endpoint_is_asked_again(name_genes: NameGenes, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    def reply(body: dict[str, Any]) -> Reply:
        seen[symbol_of(body)] += 1
        return Reply(status=(503, 429)[len(seen) % 2]) if seen[symbol_of(body)] == 1 else fit_answer(body)

    with serve(reply) as (url, asked):
        describe(name_genes(*SYMBOLS), tmp_path, url)
    assert set(seen.values()) == {2}
    assert once(asked)


def test_an_endpoint_that_keeps_failing_or_stalling_is_told_apart(name_genes: NameGenes, tmp_path: Path) -> None:
    names = name_genes("FLG")
    with serve(lambda _: Reply(status=500)) as (url, _), pytest.raises(ServingUnavailable, match="HTTP 500"):
        describe(names, tmp_path, url)
    with serve(lambda _: Reply(stall=True)) as (url, _), pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        describe(names, tmp_path, url, timeout_s=0.3)
    with pytest.raises(ServingUnavailable, match="no connection"):
        describe(names, tmp_path, "http://127.0.0.1:9/v1")


def test_without_endpoint_or_key_the_user_is_told(
    name_genes: NameGenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        describe_genes(
            name_genes("FLG"),
            outdir=tmp_path,
            sources=Sources(),
            refinement=Refinement(endpoint=Endpoint(model="test-model")),
        )


@pytest.mark.parametrize(
    ("sent", "after", "concurrency"),
    [
        (signal.SIGKILL, 0, 2),
        (signal.SIGKILL, 3, 1),
        (signal.SIGKILL, 5, 3),
        (signal.SIGTERM, 2, 2),
        (signal.SIGINT, 2, 2),
    ],
)
def test_killed_in_the_middle_it_goes_on(
    sent: signal.Signals, after: int, concurrency: int, name_genes: NameGenes, tmp_path: Path, root: Path
) -> None:
    """What stands in the journal is kept; at most what was under way is asked again, and nothing after Ctrl-C."""
    names = name_genes(*SYMBOLS)
    out = tmp_path / "out"

    def slow(body: dict[str, Any]) -> Reply:
        time.sleep(0.1)
        return fit_answer(body)

    with serve(slow) as (url, asked):
        verb = [sys.executable, "-m", "histocast", "genes", "describe", "--names", str(names), "--model", "test-model"]
        options = ["--base-url", url, "--concurrency", str(concurrency), "--outdir", str(out)]
        options += ["--context", "HER2-positive breast cancer"]
        environment = {**os.environ, "PYTHONPATH": str(root / "python")}
        process = subprocess.Popen([*verb, *options], env=environment, stderr=subprocess.DEVNULL)
        while (len(asked.answered) < after or not asked.bodies) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(sent)
        assert process.wait() in {-sent, 130}
        kept = (out / "describe.journal.jsonl").read_bytes()
        finished = subprocess.run([*verb, *options], env=environment, check=False, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        answers = kept.count(b"\n")
        assert f"{len(SYMBOLS) - answers} requests now" in finished.stderr
        twice = len(asked.answered) - len(set(asked.answered))
        assert twice <= (0 if sent == signal.SIGINT else concurrency)
        assert (out / "describe.journal.jsonl").read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
        whole = describe(names, tmp_path / "whole", url)
    assert whole.path.read_bytes() == (out / "gene-texts.parquet").read_bytes()


FULL_DISK = """
import resource, sys
from pathlib import Path
from histocast.errors import OutputError
from histocast.genes.journal import Journal
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
with Journal(path) as journal:
    journal.add("a", {"text": "kept"})
    try:
        journal.add("b", {"text": "x" * 500})
    except OutputError as error:
        assert "b" not in journal
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        journal.add("c", {"text": "after"})
        sys.exit(error.exit_code)
"""


def test_a_full_disk_tears_no_line(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "journal.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(root / "python")}
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert result.returncode == OutputError.exit_code, result.stderr
    with Journal(path) as journal:
        assert (journal["a"], journal["c"]) == ({"text": "kept"}, {"text": "after"})
        assert "b" not in journal


def test_a_torn_line_of_the_journal_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add("a", {"text": "kept"})
    with path.open("ab") as stream:
        stream.write(b'{"digest": "b", "ans')
    with Journal(path) as journal:
        assert "a" in journal
        assert "b" not in journal
        with pytest.raises(OutputError, match="another run"):
            Journal(path)
        journal.add("c", {"text": "after"})
    with Journal(path) as journal:
        assert journal["c"] == {"text": "after"}
    path.write_text('{"digest": "a"}\n')
    with pytest.raises(DataError, match="line 1"):
        Journal(path)


def test_one_other_description_changes_one_digest_and_asks_once(name_genes: NameGenes, tmp_path: Path) -> None:
    refined = tmp_path / "refined.tsv"
    rows = {symbol: f"gene symbol: {symbol}. Functionality: one." for symbol in SYMBOLS}
    refined.write_text("symbol\tdescription\n" + "".join(f"{key}\t{text}\n" for key, text in rows.items()))
    names = name_genes(*SYMBOLS)
    digests = []
    for change in ("one", "two"):
        refined.write_text(refined.read_text().replace("KRT5. Functionality: one", f"KRT5. Functionality: {change}"))
        facts = describe_genes(names, outdir=tmp_path, sources=Sources(refined=refined))
        digests.append(read_table(facts.path, GENE_TEXTS)[0]["digest"].to_pylist())
    assert [symbol for symbol, old, new in zip(SYMBOLS, *digests, strict=True) if old != new] == ["KRT5"]
