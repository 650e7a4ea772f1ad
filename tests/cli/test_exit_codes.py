"""A machine's fault is never the slide's outcome, and what histocast does not know ends with 70 and one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as state
from PIL import Image

from faulty_proxy import BUCKET, bucket, proxy
from histocast import cli
from histocast.errors import ConfigError, DataError, UsageError
from histocast.failures import end_with
from histocast.foreign_errors import known_error
from histocast.inference.onnx_predictor import OnnxPredictor
from histocast.stages.serve import Serve
from histocast.stages.stage import Positional, Stage
from small_disk import small_disk

__all__ = ["bucket", "proxy"]

USAGE, DATA, MISSING, UNFORESEEN, OUTPUT, TRANSIENT = 64, 65, 66, 70, 73, 75
ORT_OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Add node. Name:'node_add' Status "
    "Message: bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for requested "
    "buffer of size 38535168"
)
ORT_CUDA_OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0"
)


@dataclass(frozen=True)
class Ended:
    """How a verb ended."""

    code: int
    said: str
    """On standard error."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ended]:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["histocast", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        return Ended(int(ending.value.code or 0), capsys.readouterr().err)

    return run


@dataclass(frozen=True)
class Work:
    """A slide, and what each stage made of it."""

    folder: Path
    bundle: Path

    def verb(self, name: str, **changed: object) -> list[object]:
        """Arguments of a stage's verb, some of them changed."""
        made = {"slide-record": "slide.json", "tiles": "tiles.parquet", "thumbnail": "thumbnail.png"}
        given: dict[str, object] = {
            "tile": {"sample": "S1", "slide": self.folder / "slide.png", "mpp": 0.5},
            "encode": {"slide": self.folder / "slide.png", "mpp": 0.5, "threads": 1},
            "predict": {"features": self.folder / "features.parquet", "threads": 1},
        }[name]
        if name != "tile":
            given |= {key: self.folder / file for key, file in made.items() if name != "encode" or key != "thumbnail"}
        given |= {"bundle": self.bundle, "outdir": "out"} | changed
        recorded = () if name == "predict" else ("--record-errors",)
        return [name, *(part for key, value in given.items() for part in (f"--{key}", value)), *recorded]


@pytest.fixture(scope="module")
def work(histocast, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Every stage of a small slide, done once."""
    made = Work(tmp_path_factory.mktemp("work"), demo_bundle)
    rows, columns = np.mgrid[:1024, :1024]
    disc = (rows - 512) ** 2 + (columns - 512) ** 2 < 300**2
    pixels = np.where(disc[..., None], np.uint8([200, 120, 170]), np.uint8([244, 243, 245]))
    noise = np.random.default_rng(0).integers(-30, 20, pixels.shape)
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(made.folder / "slide.png")
    for name in ("tile", "encode"):
        done = histocast(*made.verb(name, outdir=made.folder))
        assert done.returncode == 0, done.stderr
    return made


def assert_not_recorded(ended: Ended, code: int, *words: str, outdir: Path = Path("out")) -> None:
    """The verb failed with this code, and left nothing that a cache could take for the slide's outcome."""
    assert ended.code == code, ended.said
    assert "Traceback" not in ended.said
    for word in words:
        assert word in ended.said
    assert not list(outdir.glob("*.status.json"))


def test_a_fault_of_the_slide_is_its_outcome(run, work: Work, tmp_path: Path) -> None:
    (tmp_path / "text.svs").write_text("no slide\n" * 100)
    ended = run(*work.verb("tile", slide=tmp_path / "text.svs"))
    assert ended.code == 0
    assert '"DataError"' in Path("out/tile.status.json").read_text()


def test_a_full_work_disk(run, work: Work, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        ended = run(*work.verb("tile", outdir=disk / "out"))
        assert_not_recorded(ended, OUTPUT, "space", outdir=disk / "out")


def test_a_full_scratch_disk(run, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setenv("HISTOCAST_SCRATCH", str(disk))
        (disk / "filled").write_bytes(bytes(12_000))
        assert_not_recorded(run(*work.verb("predict")), OUTPUT, "scratch", "HISTOCAST_SCRATCH")


@pytest.mark.parametrize("verb", ["tile", "encode", "predict"])
def test_an_unusable_scratch_folder(run, work: Work, verb: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HISTOCAST_SCRATCH", str(tmp_path / "file" / "below"))
    assert_not_recorded(run(*work.verb(verb)), OUTPUT, "HISTOCAST_SCRATCH")


@pytest.mark.parametrize("verb", ["encode", "predict"])
def test_a_bad_serving_variable(run, work: Work, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOCAST_SERVING", "triton")
    assert_not_recorded(run(*work.verb(verb)), USAGE, "HISTOCAST_SERVING")


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestTimeTooSkewed", "InvalidAccessKeyId", "503"])
@pytest.mark.parametrize("at_first", [True, False], ids=["at once", "later"])
def test_a_store_that_takes_no_credentials(run, work: Work, bucket, proxy, monkeypatch, code: str, at_first) -> None:
    monkeypatch.setattr("histocast.storage.s3.BACKOFF_S", 0.001)
    bucket.upload_file(str(work.folder / "slide.png"), BUCKET, "accession-4711.png")
    proxy.fate = lambda number: code if at_first or number > 1 else "ok"
    ended = run(*work.verb("tile", slide=f"s3://{BUCKET}/accession-4711.png"))
    assert_not_recorded(ended, TRANSIENT, "slide of sample S1")
    assert "4711" not in ended.said


@pytest.mark.parametrize("option", ["fail", "skip"])
def test_a_check_without_credentials_blames_no_slide(run, work, bucket, proxy, monkeypatch, tmp_path, option) -> None:
    """The metadata service of a machine that is busy answers 503, which boto3 takes for a machine without a role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", proxy.url)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    proxy.fate = lambda _: "503"
    (tmp_path / "sheet.csv").write_text(f"sample,slide\nS1,s3://{BUCKET}/a.svs\nS2,{work.folder / 'slide.png'}\n")
    ended = run("check", "--input", "sheet.csv", "--bundle", work.bundle, "--on-slide-error", option)
    assert ended.code == TRANSIENT
    assert "no credentials for S3" in ended.said
    assert not Path("samples.json").exists()


@pytest.mark.parametrize("verb", ["tile", "encode"])
def test_a_slide_that_vanishes_after_check(run, work: Work, verb: str) -> None:
    assert_not_recorded(run(*work.verb(verb, slide="gone/slide.png")), MISSING, "slide of sample S1: no such file")


def test_a_mount_that_vanishes_under_a_library_is_no_damage(run, work: Work, tmp_path: Path, monkeypatch) -> None:
    slide = tmp_path / "slide.png"
    slide.write_bytes((work.folder / "slide.png").read_bytes())

    def open_slide(*_: object, **__: object) -> None:
        slide.unlink()
        raise DataError("no reader can open it")

    monkeypatch.setattr("histocast.slide.open_slide", open_slide)
    assert_not_recorded(run(*work.verb("tile", slide=slide)), MISSING, "slide of sample S1: no such file")


NO_MEMORY, NO_GPU = "no memory left", "a GPU failed"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (NO_MEMORY, state.Fail(ORT_OUT_OF_MEMORY)),
        (NO_MEMORY, state.RuntimeException(ORT_CUDA_OUT_OF_MEMORY)),
        (NO_MEMORY, MemoryError("Unable to allocate 3.00 GiB for an array")),
        (
            NO_MEMORY,
            cv2.error(
                "OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 2700000000 bytes"
            ),
        ),
        (NO_MEMORY, OSError(errno.ENOMEM, "Cannot allocate memory")),
        (NO_GPU, state.Fail("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 999: unknown error ; GPU=0")),
        (NO_GPU, state.EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED")),
        (NO_GPU, RuntimeError("CUDA error: an illegal memory access was encountered")),
        (NO_GPU, RuntimeError("cuBLAS error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value)[:60],
)
def test_what_libraries_say_of_memory_and_gpus(run, work: Work, said: str, error: Exception, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(OnnxPredictor, "_run", fail)
    assert_not_recorded(run(*work.verb("encode")), TRANSIENT, said)


def test_too_little_memory_behind_a_decoder_is_no_damage(run, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("histocast.slide.image.imagecodecs.png_decode", decode)
    assert_not_recorded(run(*work.verb("tile")), TRANSIENT, "no memory left")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((getattr(errno, name), OUTPUT) for name in ("ENOSPC", "EDQUOT", "EROFS")),
        *((getattr(errno, name), TRANSIENT) for name in ("EIO", "ESTALE", "ENOTCONN", "EMFILE")),
        *((getattr(errno, name), MISSING) for name in ("ENOENT", "EACCES")),
    ],
    ids=lambda value: errno.errorcode.get(value, ""),
)
def test_what_the_system_says(run, work: Work, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/a/place")

    monkeypatch.setattr("histocast.slide.open_slide", fail)
    assert_not_recorded(run(*work.verb("tile")), code, os.strerror(number), "/a/place")


@pytest.mark.parametrize("error", [ZeroDivisionError("by\nzero \x1b[31m"), EOFError("ended early")], ids=repr)
@pytest.mark.parametrize("verb", cli.VERBS)
def test_an_unforeseen_fault_ends_every_verb_with_one_line(
    run, verb: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    stage = cli.find_stage(verb)
    monkeypatch.setattr(stage, "run", fail)
    ended = run(*verb.split(), *required_options(stage))
    assert ended.code == UNFORESEEN
    assert len(ended.said.strip().splitlines()) == 1
    assert f"{type(error).__name__}: {str(error).split()[0]}" in ended.said
    assert "\x1b" not in ended.said
    assert str(Path("histocast.log").absolute()) in ended.said
    assert "Traceback" in Path("histocast.log").read_text()


def required_options(stage: type[Stage]) -> list[str]:
    """What a verb cannot do without."""
    return [
        word
        for name, field in stage.model_fields.items()
        if field.is_required()
        for word in (("given",) if Positional() in field.metadata else (cli.option_of(name, field), "given"))
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("chek", "no verb 'chek', did you mean check?"),
        ("genes descibe", "did you mean genes describe?"),
        ("cohort --results there", "no option --results\n"),
        ("encode --thread 2", "no option --thread, did you mean --threads?"),
        ("encode --threads", "--threads: expected one argument"),
        ("encode", "--tiles is missing: tiles.parquet of 'tile'."),
        ("encode --threads 0 --max-unreadable 2", "--threads 0: Input should be greater than or equal to 1"),
        ("encode --max-unreadable 2", "--max-unreadable 2: Input should be less than or equal to 1"),
        ("check --on-slide-error ignore", "Input should be 'fail' or 'skip'"),
        ("repository --bundle b --outdir o --precision fp16", "precision fp16 needs tensorrt"),
        ("genes", ""),
        ("", ""),
    ],
)
def test_a_slip_of_the_pen_is_told_before_anything_is_done(run, arguments: str, said: str) -> None:
    ended = run(*arguments.split())
    assert ended.code == USAGE
    assert said in ended.said
    assert "Traceback" not in ended.said


def test_the_slide_is_not_named_and_no_other_word_suffers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, slide in (
        (("tile", "--slide", "x"), "x"),
        (("tile", "--slide", "archive/x"), "archive/x"),
        (("tile", "--slide=archive/x"), "archive/x"),
        (("predict-slide", "archive/x"), "archive/x"),
    ):
        monkeypatch.setattr(sys, "argv", ["histocast", *given])
        with pytest.raises(SystemExit):
            end_with(UsageError(f"prefix of '{slide}': x, {slide}.", where=f"/of/{slide}"))
        assert capsys.readouterr().err == "error: /of/the slide: prefix of 'the slide': the slide, the slide.\n"


def test_a_value_may_begin_with_a_dash_and_an_option_may_be_repeated() -> None:
    stage = cli.read_stage(["serve", "--models", "-m", "--option", "--exit-timeout-secs=4", "--option=-x", "--tf32"])
    assert stage == Serve(models="-m", option=("--exit-timeout-secs=4", "-x"), tf32=True)


def test_an_option_comes_from_the_environment_where_it_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOCAST_CHECKPOINTS", "/kept")
    words = ["train", "--set", "s", "--recipe", "r"]
    assert cli.read_stage(words).checkpoints == Path("/kept")  # type: ignore[attr-defined]
    assert cli.read_stage([*words, "--checkpoints", "c"]).checkpoints == Path("c")  # type: ignore[attr-defined]


@pytest.mark.parametrize("log", ["-", "/nowhere/histocast.log", "here.log"])
def test_a_traceback_is_never_lost(run, work: Work, log: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError(work.folder / "slide.png")

    monkeypatch.setenv("HISTOCAST_LOG", log)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("histocast.slide.open_slide", fail)
    ended = run(*work.verb("tile"))
    assert ended.code == UNFORESEEN
    assert ("Traceback" in ended.said) == (log == "-")
    assert "slide.png" not in ended.said.splitlines()[-1], "the slide's file can be named after a patient"
    places = {"-": [], "here.log": ["here.log"]}.get(log, [f"temporary/histocast-{os.getpid()}.log"])
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.log")] == places


def run_without(library: str, root: Path, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the command line where a library cannot be imported."""
    code = (
        f"import sys; sys.modules[{library!r}] = None; sys.argv += {arguments}; "
        "from histocast.__main__ import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(root / "python")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("library", ["pydantic", "histocast.stages.tile"])
def test_a_library_that_cannot_be_imported(root: Path, tmp_path: Path, library: str) -> None:
    ended = run_without(library, root, tmp_path, ["tile"])
    assert ended.returncode == UNFORESEEN
    assert len(ended.stderr.splitlines()) == 1
    assert library in ended.stderr
    assert "Traceback" in (tmp_path / "histocast.log").read_text()


def test_a_verb_without_its_extra_says_how_to_install_it(root: Path, tmp_path: Path) -> None:
    ended = run_without("torch", root, tmp_path, ["train", "--set", ".", "--recipe", "her2st"])
    assert ended.returncode == ConfigError.exit_code, ended.stderr
    assert "torch is not installed" in ended.stderr
    assert "pip install 'histocast[train]'" in ended.stderr


@pytest.mark.parametrize(
    "library", ["torch", "sklearn.linear_model", "Bio", "sentence_transformers", "spatialdata", "geopandas"]
)
def test_every_extra_is_known_by_what_is_imported(library: str) -> None:
    error = known_error(ModuleNotFoundError(f"No module named {library!r}", name=library))
    assert "pip install 'histocast[" in str(error)


def test_where_no_environment_is_the_program_of_the_checkout_says_what_to_do(root: Path, tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    # -S: a Python that sees no installed packages.
    (tmp_path / "histocast").write_text((root / "bin" / "histocast").read_text().replace("python -c", "python -S -c"))
    for place in (str(tmp_path), ""):
        ended = subprocess.run(
            ["/bin/bash", tmp_path / "histocast", "--version"],
            env={"PATH": place},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == ConfigError.exit_code
        assert "make setup" in ended.stderr


def test_a_full_disk_behind_standard_output(histocast, work: Work, root: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "histocast", "repository", "--bundle", work.bundle, "--outdir", work.folder / "m"],
            env={**os.environ, "PYTHONPATH": str(root / "python")},
            cwd=work.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == OUTPUT
    assert "space" in ended.stderr
