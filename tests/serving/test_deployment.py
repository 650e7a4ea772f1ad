"""Claims: what starts a server starts it strictly; the batch script publishes an address only while it answers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from known_encoders import expected_embedding
from triton_server import Connect, RealServer, Served, find_server

STRICT = {
    "--model-control-mode=explicit",
    "--load-model=*",
    "--strict-readiness=true",
    "--disable-auto-complete-config",
}


def test_compose_and_kubernetes_start_strict_servers_that_are_probed_before_use(root: Path) -> None:
    compose = yaml.safe_load((root / "containers/compose.yaml").read_text())
    service = compose["services"]["triton"]
    assert set(service["command"]) >= STRICT
    assert "health/ready" in service["healthcheck"]["test"][-1]
    assert "triton:8002" in compose["configs"]["prometheus"]["content"]
    documents = {each["kind"]: each for each in yaml.safe_load_all((root / "containers/kubernetes.yaml").read_text())}
    assert documents["Service"]["spec"]["clusterIP"] == "None"
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert set(container["args"]) >= STRICT
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["image"] == service["image"].split(":-")[1].rstrip("}")
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_batch_script_publishes_an_address_that_answers_and_takes_it_back(
    root: Path, served: Served, connect: Connect, tmp_path: Path
) -> None:
    server = RealServer(tmp_path)
    server.add(served.folder, served.bundle)
    url_file = tmp_path / "url"
    job = subprocess.Popen(
        ["bash", root / "containers/triton.sbatch"],
        env={
            **os.environ,
            "MODELS": str(server.repository),
            "URL_FILE": str(url_file),
            "TRITONSERVER": find_server(),
            "HOST": "127.0.0.1",
        },
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until_s = time.monotonic() + 60
        while not url_file.exists() and time.monotonic() < until_s:
            assert job.poll() is None
            time.sleep(0.1)
        tiles = np.full((3, 32, 32, 3), 70, np.uint8)
        found = connect(url_file.read_text().strip()).infer("morphology", {"tiles": tiles})["embedding"]
        np.testing.assert_allclose(found, expected_embedding(tiles), atol=1e-5)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=30) == 143
        assert not url_file.exists()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def test_the_batch_script_fails_where_the_server_does(root: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    program = shutil.which("false")
    done = subprocess.run(
        ["bash", root / "containers/triton.sbatch"],
        env={**os.environ, "MODELS": f"{tmp_path}/models", "URL_FILE": f"{tmp_path}/url", "TRITONSERVER": str(program)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "did not come up" in done.stderr
    assert not (tmp_path / "url").exists()


@pytest.mark.parametrize("name", ["MODELS", "URL_FILE"])
def test_the_batch_script_asks_for_what_it_needs(root: Path, name: str) -> None:
    given = {"MODELS": "/m", "URL_FILE": "/u", "PATH": os.environ["PATH"]}
    del given[name]
    done = subprocess.run(
        ["bash", root / "containers/triton.sbatch"], env=given, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode != 0
    assert name in done.stderr
