"""Encoders of the published architectures, with weights drawn at random, against computations of their own."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histocast.artifacts import GENE_EMBEDDINGS, read_table
from histocast.errors import ConfigError, DataError, MissingInputError
from histocast.genes.describe import describe_genes
from histocast.genes.embed import embed_genes
from histocast.genes.gene_options import Sources
from histocast.genes.open_encoder import ConchEncoder
from histocast.genes.text_encoders import SentenceEncoder, choose_encoder

transformers = pytest.importorskip("transformers", reason="the extra genes is not installed")
torch = pytest.importorskip("torch", reason="the extra genes is not installed")
WORDS = (
    "gene",
    "symbol",
    ":",
    ".",
    "Keratin",
    "keratin",
    "basal",
    "layer",
    "of",
    "the",
    "KRT",
    "krt",
    "##5",
    "epidermis",
)
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
TEXT = "gene symbol: KRT5. Keratin of the basal layer."
CASED = ["[CLS]", "gene", "symbol", ":", "KRT", "##5", ".", "Keratin", "of", "the", "basal", "layer", ".", "[SEP]"]
POOLINGS = ("cls", "mean", "lasttoken", "max")


def save_bert(folder: Path, *, places: int = 512, safetensors: bool = True) -> Path:
    """BERT as BioBERT and PubMedBERT are, but narrow and of three layers; a vocabulary and no more, as on the hub."""
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=places,
        initializer_range=0.5,
    )
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    if not safetensors:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("weights") / "bert")


def lower(tokens: list[str]) -> list[str]:
    return [token if token.startswith("[") else token.lower() for token in tokens]


def states(folder: Path, tokens: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Last hidden states [token, dim] of ids looked up in the vocabulary by hand."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(input_ids=torch.tensor([[VOCABULARY.index(token) for token in tokens]]))
    states: np.ndarray[Any, np.dtype[np.float64]] = output.last_hidden_state[0].double().numpy()
    return states


def pooled(states: np.ndarray[Any, np.dtype[np.float64]], pooling: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """As the pooling's name says, over all tokens, [CLS] and [SEP] included."""
    by_name = {"cls": states[0], "mean": states.mean(axis=0), "lasttoken": states[-1], "max": states.max(axis=0)}
    return by_name[pooling]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("normalise", [False, True])
def test_pooling_is_what_its_name_says(pooling: Any, normalise: bool, folder: Path) -> None:
    encoder = SentenceEncoder(choose_encoder(f"hf:{folder}", pooling=pooling, normalise=normalise))
    # The folder says nothing of case, and transformers then reads a vocabulary in lower case.
    expected = pooled(states(folder, lower(CASED)), pooling)
    if normalise:
        expected = expected / np.linalg.norm(expected)
    (one,) = encoder.encode([TEXT])
    np.testing.assert_allclose(one.vector, expected, atol=2e-5)
    assert (one.tokens, one.truncated) == (len(CASED), False)


@pytest.mark.parametrize(
    ("name", "tokens", "pooling"), [("biobert", CASED, "lasttoken"), ("pubmedbert", lower(CASED), "mean")]
)
def test_a_cased_vocabulary_is_read_as_such(name: str, tokens: list[str], pooling: str, folder: Path) -> None:
    """Without a tokenizer's configuration transformers would read BioBERT's vocabulary in lower case."""
    encoder = SentenceEncoder(choose_encoder(name, folder=folder))
    np.testing.assert_allclose(encoder.encode([TEXT])[0].vector, pooled(states(folder, tokens), pooling), atol=2e-5)
    assert encoder.label == f"{name}/{pooling}/raw/512"


def test_poolings_and_case_are_told_apart(folder: Path) -> None:
    vectors = {
        pooled(states(folder, tokens), pooling).tobytes() for tokens in (CASED, lower(CASED)) for pooling in POOLINGS
    }
    assert len(vectors) == 2 * len(POOLINGS)


def test_a_long_text_is_read_up_to_its_limit(folder: Path) -> None:
    encoder = SentenceEncoder(choose_encoder("biobert", folder=folder))
    (one,) = encoder.encode(["keratin " * 600])
    assert (one.tokens, one.truncated) == (602, True)
    whole = ["[CLS]", *["keratin"] * 510, "[SEP]"]
    np.testing.assert_allclose(one.vector, pooled(states(folder, whole), "lasttoken"), atol=2e-5)


def test_a_copy_elsewhere_or_of_another_format_gives_the_same_embeddings(
    folder: Path, tmp_path: Path, name_genes: Any
) -> None:
    texts = describe_genes(name_genes("KRT5", "FLG"), outdir=tmp_path, sources=Sources()).path
    copies = [folder, tmp_path / "elsewhere" / folder.name, save_bert(tmp_path / "bin" / "bert", safetensors=False)]
    shutil.copytree(folder, copies[1])
    tables = []
    for number, copy in enumerate(copies):
        encoder = SentenceEncoder(choose_encoder(f"hf:{copy}", pooling="mean"))
        path = embed_genes(texts, encoder=encoder, outdir=tmp_path / str(number)).path
        assert str(copy.parent).encode() not in path.read_bytes()
        tables.append(read_table(path, GENE_EMBEDDINGS)[0])
    assert tables[1].equals(tables[0])
    assert tables[2]["embedding"].equals(tables[0]["embedding"])
    assert tables[2]["encoder"].equals(tables[0]["encoder"])
    assert tables[2]["encoder_revision"] != tables[0]["encoder_revision"]


def test_weights_that_are_missing_are_not_drawn_at_random(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "torn")
    weights = transformers.BertModel.from_pretrained(folder).state_dict()
    (tmp_path / "torn" / "model.safetensors").unlink()
    kept = {key: value for key, value in weights.items() if "layer.1." not in key}
    torch.save(kept, tmp_path / "torn" / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"16 weights are missing, encoder\.layer\.1\."):
        SentenceEncoder(choose_encoder("biobert", folder=tmp_path / "torn")).encode([TEXT])
    # The layer that classifies is not read.
    kept = {key: value for key, value in weights.items() if not key.startswith("pooler.")}
    torch.save(kept, tmp_path / "torn" / "pytorch_model.bin")
    (one,) = SentenceEncoder(choose_encoder("biobert", folder=tmp_path / "torn")).encode([TEXT])
    np.testing.assert_allclose(one.vector, pooled(states(folder, CASED), "lasttoken"), atol=2e-5)


def test_an_encoder_of_fewer_tokens_says_so(tmp_path: Path) -> None:
    short = save_bert(tmp_path / "short", places=64)
    with pytest.raises(DataError, match="--max-tokens 64"):
        SentenceEncoder(choose_encoder(f"hf:{short}", pooling="mean")).encode([TEXT])
    (one,) = SentenceEncoder(choose_encoder(f"hf:{short}", pooling="mean", max_tokens=64)).encode(["keratin " * 100])
    assert one.truncated is True


class StandInConch:
    """The text tower's face: 128 ids in, a unit vector of those that are no padding out."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.evaluating = False

    def eval(self) -> None:
        self.evaluating = True

    def encode_text(self, ids: Any) -> Any:
        self.ids.append(ids[0].tolist())
        vector = torch.stack([(ids[0] * (ids[0] != 0)).sum().float(), torch.tensor(1.0)]).requires_grad_()
        return (vector / vector.norm())[None]


@pytest.fixture
def conch(monkeypatch: pytest.MonkeyPatch) -> StandInConch:
    """The package's shape as its authors publish it, with a tokenizer of a small vocabulary in place of theirs."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["<pad>", "<start_of_text>", "<end_of_text>", *WORDS, "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = StandInConch()

    def create_model_from_pretrained(name: str, *, checkpoint_path: str) -> tuple[StandInConch, None]:
        assert name == "conch_ViT-B-16"
        if Path(checkpoint_path).read_bytes() != b"weights":
            raise RuntimeError("invalid magic number")
        return model, None

    module = types.ModuleType("conch.open_clip_custom")
    module.__dict__["create_model_from_pretrained"] = create_model_from_pretrained
    module.__dict__["get_tokenizer"] = lambda: transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<start_of_text>", eos_token="<end_of_text>", pad_token="<pad>"
    )
    monkeypatch.setitem(sys.modules, "conch", types.ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", module)
    return model


def test_conch_gets_127_tokens_and_a_place_for_its_class_token(conch: StandInConch, tmp_path: Path) -> None:
    (tmp_path / "conch.bin").write_bytes(b"weights")
    encoder = ConchEncoder(tmp_path / "conch.bin")
    assert conch.evaluating
    long, short = encoder.encode(["keratin " * 200, "basal layer"])
    assert (long.tokens, long.truncated, short.tokens, short.truncated) == (200, True, 2, False)
    keratin, basal, layer = (WORDS.index(word) + 3 for word in ("keratin", "basal", "layer"))
    assert conch.ids == [[keratin] * 127 + [0], [basal, layer] + [0] * 126]
    expected = np.array([basal + layer, 1]) / np.hypot(basal + layer, 1)
    np.testing.assert_allclose(short.vector, expected, rtol=1e-6)
    assert short.vector.dtype == np.float32
    assert encoder.label == "conch/own/normalised/127"
    assert encoder.revision.startswith("sha256:")


def test_conch_says_what_is_absent_or_no_checkpoint(conch: StandInConch, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="checkpoint"):
        ConchEncoder(tmp_path / "absent.bin")
    (tmp_path / "other.bin").write_bytes(b"other")
    with pytest.raises(DataError, match="not readable as weights"):
        ConchEncoder(tmp_path / "other.bin")


def test_without_conchs_package_the_user_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "conch", None)
    with pytest.raises(ConfigError, match="mahmoodlab"):
        ConchEncoder(tmp_path / "conch.bin")
