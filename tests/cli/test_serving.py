"""Claims: the verbs give on servers what they give in process, and a fleet that fails costs time and nothing else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from histocast.bundle import read_bundle
from histocast.inference.triton.repository_options import RepositoryOptions
from triton_server import RealServer, TcpProxy, find_server

TRANSIENT, CONFIG = 75, 78
SIDE_PX = 1024
SPOTS = 12
SIDES = ("the inference server", "reading and decoding", "waiting for the store", "writing", "starting")


@dataclass(frozen=True)
class Work:
    """A slide after ``tile``, and what ``encode`` and ``predict`` made of it in process."""

    folder: Path
    bundle: Path
    genes: Path
    """Descriptions of the bundle's genes and of others."""
    histocast: object

    def encode(self, outdir: Path, **env: str):
        return self.histocast(
            *("encode", "--slide", self.folder / "slide.png", "--mpp", 0.5, "--bundle", self.bundle),
            *("--slide-record", self.folder / "slide.json", "--tiles", self.folder / "tiles.parquet"),
            *("--threads", 2, "--outdir", outdir, "--record-errors"),
            env=env,
        )

    def predict(self, outdir: Path, **env: str):
        return self.histocast(
            *("predict", "--slide-record", self.folder / "slide.json", "--tiles", self.folder / "tiles.parquet"),
            *("--features", outdir / "features.parquet", "--thumbnail", self.folder / "thumbnail.png"),
            *("--bundle", self.bundle, "--genes", self.genes, "--outdir", outdir),
            env=env,
        )

    def check(self, outdir: Path, **env: str):
        sheet = self.folder / "sheet.csv"
        given = ("--input", sheet, "--bundle", self.bundle, "--genes", self.genes, "--outdir", outdir)
        return self.histocast("check", *given, env=env)

    def assert_same_features(self, outdir: Path) -> None:
        found, expected = (pq.read_table(folder / "features.parquet") for folder in (outdir, self.folder))
        assert found.column_names == expected.column_names
        for name in found.column_names:
            # Half precision of values that agree to 1e-5 may differ in its last bit.
            same = found.sort_by("tile_id").column(name), expected.sort_by("tile_id").column(name)
            if name in ("tile_id", "status"):
                assert same[0].equals(same[1])
            else:
                np.testing.assert_allclose(*(np.array(column.to_pylist(), np.float32) for column in same), rtol=1e-3)


@pytest.fixture(scope="module")
def work(histocast, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    disc = (rows - 512) ** 2 + (columns - 512) ** 2 < 420**2
    pixels = np.where(disc[..., None], np.uint8([200, 120, 170]), np.uint8([244, 243, 245]))
    noise = np.random.default_rng(0).integers(-30, 20, pixels.shape)
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(folder / "slide.png")
    places = np.linspace(250, 770, SPOTS)
    spots = [f"{x:.0f},{y:.0f}" for y in places for x in places]
    (folder / "spots.csv").write_text("\n".join(["x,y", *spots]) + "\n")
    (folder / "sheet.csv").write_text("sample,slide,mpp\nS1,slide.png,0.5\n")
    tiled = histocast(
        *("tile", "--sample", "S1", "--slide", folder / "slide.png", "--mpp", 0.5, "--bundle", demo_bundle),
        *("--spots", folder / "spots.csv", "--outdir", folder),
    )
    assert tiled.returncode == 0, tiled.stderr
    made = Work(folder, demo_bundle, demo_bundle.parent / "demo-genes" / "genes.parquet", histocast)
    for done in (made.encode(folder), made.predict(folder)):
        assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def server(work: Work, tmp_path: Path) -> Iterator[RealServer]:
    """A server of the demo bundle that takes few tiles a request, so that a slide takes many."""
    server = RealServer(tmp_path)
    server.add(work.bundle, read_bundle(work.bundle), RepositoryOptions(backend="python", max_batch_tiles=8))
    yield server.start()
    server.kill()


@pytest.fixture
def proxy(server: RealServer) -> Iterator[TcpProxy]:
    between = TcpProxy(server.port)
    yield between
    between.close()


def facts(outdir: Path, stage: str) -> dict:
    status = json.loads((outdir / f"{stage}.status.json").read_text())
    assert status["outcome"] == "ok", status
    return status["facts"]


def test_on_a_server_everything_is_as_in_process(work: Work, server: RealServer, tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    for verb in (work.check, work.encode, work.predict):
        done = verb(outdir, HISTOCAST_TRITON_URL=server.url)
        assert done.returncode == 0, done.stderr
    work.assert_same_features(outdir)
    found, expected = (anndata.read_h5ad(folder / "S1.h5ad") for folder in (outdir, work.folder))
    assert found.obs_names.equals(expected.obs_names)
    assert found.var_names.equals(expected.var_names)
    assert found.n_vars > read_bundle(work.bundle).gene_count
    for layer in ("sd", "lower", "upper"):
        np.testing.assert_allclose(found.layers[layer], expected.layers[layer], atol=1e-5)
    np.testing.assert_allclose(found.X, expected.X, atol=1e-5)
    tables = [pl.read_parquet(folder / "S1.parquet") for folder in (outdir, work.folder)]
    assert tables[0].columns == tables[1].columns
    encoded = facts(outdir, "encode")
    assert encoded["server_requests"] >= SPOTS * SPOTS / 8
    assert encoded["server_retries"] == 0
    assert 0 < encoded["waiting_on_server_s"] <= encoded["total_s"]
    assert 1 <= encoded["effective_batch"] <= 8
    assert encoded["bottleneck"] in SIDES
    assert encoded["tiles_per_s"] > 0
    predicted = facts(outdir, "predict")
    assert predicted["bottleneck"] in SIDES
    assert predicted["spots_per_s"] > 0
    assert predicted["server_requests"] >= 1
    assert predicted["server_retries"] == 0
    assert predicted["effective_batch"] == 1, "spots of a region depend on one another"
    for measured in (encoded, predicted):
        waits = ("starting_s", "waiting_on_store_s", "waiting_on_decode_s", "writing_s")
        assert min(measured[name] for name in waits) >= 0
        assert measured["waiting_on_server_s"] <= measured["inference_s"] + 0.05
        assert sum(measured[name] for name in waits) + measured["inference_s"] <= measured["total_s"] + 0.05


def test_killed_and_started_again_in_the_middle_of_a_slide(
    work: Work, server: RealServer, proxy: TcpProxy, tmp_path: Path
) -> None:
    seen = {}

    def interrupt() -> None:
        until_s = time.monotonic() + 60
        while proxy.answers < 15 and time.monotonic() < until_s:
            time.sleep(0.01)
        server.kill()
        seen["answers"] = proxy.answers
        time.sleep(0.5)
        server.start(wait=False)

    proxy.delay_s = 0.02
    thread = threading.Thread(target=interrupt)
    thread.start()
    done = work.encode(tmp_path / "out", HISTOCAST_TRITON_URL=proxy.url)
    thread.join()
    server.wait()
    assert done.returncode == 0, done.stderr
    assert seen["answers"] >= 15
    work.assert_same_features(tmp_path / "out")
    assert facts(tmp_path / "out", "encode")["server_retries"] >= 1


def test_killed_for_good_nothing_is_left_and_the_next_try_succeeds(
    work: Work, server: RealServer, proxy: TcpProxy, tmp_path: Path
) -> None:
    def interrupt() -> None:
        until_s = time.monotonic() + 60
        while proxy.answers < 15 and time.monotonic() < until_s:
            time.sleep(0.01)
        server.kill()

    proxy.delay_s = 0.02
    thread = threading.Thread(target=interrupt)
    thread.start()
    done = work.encode(tmp_path / "out", HISTOCAST_TRITON_URL=proxy.url, HISTOCAST_TRITON_PATIENCE_S="2")
    thread.join()
    assert done.returncode == TRANSIENT, done.stderr
    assert "given up" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == []
    server.start()
    assert work.encode(tmp_path / "out", HISTOCAST_TRITON_URL=server.url).returncode == 0
    work.assert_same_features(tmp_path / "out")


def test_a_task_may_bring_its_own_server(work: Work, tmp_path: Path) -> None:
    own = {"HISTOCAST_SERVING": "task", "HISTOCAST_TRITONSERVER": find_server()}
    done = work.encode(tmp_path / "out", **own, HISTOCAST_TRITONSERVER_BACKEND="python")
    assert done.returncode == 0, done.stderr
    assert "server of this task's own is up" in done.stderr
    work.assert_same_features(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"features.parquet", "encode.status.json"}


class TestCheck:
    def test_a_server_that_serves_another_bundle_is_named_with_both_digests(
        self, work: Work, tmp_path: Path, histocast
    ) -> None:
        server = RealServer(tmp_path)
        written = histocast("repository", "--bundle", work.bundle, "--outdir", server.repository, "--backend", "python")
        assert written.returncode == 0, written.stderr
        names = written.stdout.split()
        bundle = read_bundle(work.bundle)
        assert len(names) == len(bundle.encoders) + 1
        config = server.repository / names[0] / "config.pbtxt"
        # The server then claims a digest other than the bundle's.
        (server.repository / names[0] / "1" / "model.py").write_text(
            (server.repository / names[0] / "1" / "model.py")
            .read_text()
            .replace('found != parameters["sha256"]', "False")
        )
        config.write_text(config.read_text().replace(bundle.encoders[0].sha256, "0" * 64))
        try:
            done = work.check(tmp_path / "out", HISTOCAST_TRITON_URL=server.start().url)
        finally:
            server.kill()
        assert done.returncode == CONFIG
        assert "0" * 64 in done.stderr
        assert bundle.encoders[0].sha256 in done.stderr
        assert not (tmp_path / "out" / "samples.json").exists()

    def test_a_server_that_is_away_is_worth_another_try(self, work: Work, tmp_path: Path) -> None:
        done = work.check(tmp_path, HISTOCAST_TRITON_URL="grpc://127.0.0.1:9", HISTOCAST_TRITON_PATIENCE_S="0.3")
        assert done.returncode == TRANSIENT
        assert "grpc://127.0.0.1:9" in done.stderr

    def test_what_is_no_address_is_a_usage_error(self, work: Work, tmp_path: Path) -> None:
        done = work.check(tmp_path, HISTOCAST_TRITON_URL="http://127.0.0.1:8000")
        assert done.returncode == 64
        assert "grpc://host:8001" in done.stderr


def test_options_that_do_not_fit_together_are_a_usage_error(work: Work, histocast, tmp_path: Path) -> None:
    given = ("repository", "--bundle", work.bundle, "--outdir", tmp_path / "models")
    done = histocast(*given, "--precision", "fp16")
    assert done.returncode == 64
    assert "tensorrt" in done.stderr
    assert histocast(*given, "--backend", "python", "--tensorrt").returncode == 64
