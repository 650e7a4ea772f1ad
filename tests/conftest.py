"""Fixtures every test folder shares."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from histocast.bundle import Bundle
    from histocast.evaluation.summary import Evaluation

AnyReport = TypeVar("AnyReport", pytest.TestReport, pytest.CollectReport)

ROOT = Path(__file__).resolve().parents[1]

# What a machine may lack and still prove the rest: what is no part of the repository or of a package index, and root's means.
_LAWFUL_SKIPS = ("real data is absent", "needs root", "no tmpfs can be mounted", "nf-amazon is absent")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that may take longest: at the end they would keep one worker busy and leave the others idle."""
    items.sort(key=_limit_s, reverse=True)


def _limit_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that skips for want of a tool where ``CI=true``: a green run has run everything."""
    return _without_silent_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a module that skips whole for want of a tool where ``CI=true``."""
    return _without_silent_skip((yield))


def _without_silent_skip(report: AnyReport) -> AnyReport:
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(lawful in reason for lawful in _LAWFUL_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped, which CI does not accept: {reason}"
    return report


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides, counts and gene records, which are not part of the repository."""
    folder = Path(os.environ.get("HISTOCAST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: neither HISTOCAST_DATA nor {folder} is a folder")
    return folder


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    """One S3 server on loopback for the whole session."""
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_endpoint(_s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty S3 server, to which the environment points boto3, this process's and its children's."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REQUEST_PAYER", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", _s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    urllib.request.urlopen(f"{_s3_server}/moto-api/reset", data=b"", timeout=10).close()
    return _s3_server


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the encoders of `made_recipe`."""
    pytest.importorskip("torch")
    from histocast.training.export_encoders import export_encoders
    from made_sections import made_recipe

    folder = tmp_path_factory.mktemp("encoders")
    export_encoders(made_recipe(), outdir=folder)
    return folder


@pytest.fixture(scope="session")
def encoder_bundle(encoders: Path) -> Bundle:
    """What ``bundle.json`` of the encoders says."""
    from histocast.bundle import read_bundle

    return read_bundle(encoders)


@pytest.fixture(scope="session")
def made_set(tmp_path_factory: pytest.TempPathFactory, encoder_bundle: Bundle) -> Path:
    """A training set made once for all tests: four sections of two patients."""
    from made_sections import make_training_set

    patients = {"A1": "A", "A2": "A", "B1": "B", "B2": "B"}
    return make_training_set(tmp_path_factory.mktemp("made"), encoder_bundle, patients=patients)


@pytest.fixture(scope="session")
def made_folds(tmp_path_factory: pytest.TempPathFactory, made_set: Path) -> tuple[Path, Evaluation]:
    """The set cross-validated under both protocols: output folder and figures."""
    from histocast.evaluation.evaluate_models import cross_validate
    from made_sections import made_recipe

    outdir = tmp_path_factory.mktemp("folds")
    return outdir, cross_validate(made_set, recipe=made_recipe(), outdir=outdir)
