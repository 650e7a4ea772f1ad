"""What the head process does in a folder of results in S3: its lock, and results that are moved aside.

Only with Nextflow's plugin for AWS, which no package index has: the ordinary ``nextflow`` brings it when it is first used.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline_runs import Launcher

LAB = "lab"
OTHER_RUN = {
    "session": "other",
    "run": "grave_turing",
    "user": "ada",
    "host": "node7",
    "pid": 1,
    "started": "yesterday",
}
CONCLUDES = """
include {{ CONCLUDE }} from '{root}/modules/conclude.nf'
include {{ release_lock ; take_lock }} from '{root}/modules/lock.nf'
workflow {{
    lock = take_lock(params.outdir)
    println("taken ${{lock.path.text}}")
    workflow.onComplete {{ release_lock(lock) }}
    CONCLUDE(tuple(file('failures.txt'), file('outcomes.json')), 'skip', params.outdir)
}}
"""
ENDPOINT = """
aws.region = 'eu-central-1'
aws.client.endpoint = '{endpoint}'
aws.client.s3PathStyleAccess = true
"""


@pytest.fixture
def bucket(s3_endpoint: str) -> Any:
    """An empty bucket."""
    homes = [os.environ.get("NXF_PLUGINS_DIR", ""), f"{os.environ.get('NXF_HOME', Path.home() / '.nextflow')}/plugins"]
    if not [plugin for home in homes if home for plugin in Path(home).glob("nf-amazon-*")]:
        pytest.skip("Nextflow's plugin nf-amazon is absent")
    made = boto3.resource("s3", endpoint_url=s3_endpoint).Bucket(LAB)
    made.create()
    return made


def test_a_folder_in_s3_is_locked_and_freed_and_stale_results_are_moved_aside(
    launch: Launcher, bucket: Any, s3_endpoint: str, root: Path, tmp_path: Path
) -> None:
    script, settings = tmp_path / "concludes.nf", tmp_path / "here.config"
    script.write_text(CONCLUDES.format(root=root))
    settings.write_text(ENDPOINT.format(endpoint=s3_endpoint))
    stages = {"S1": "tile", "S2": "report"}
    outcomes = [{"sample": name, "outcome": "failed", "stages": [{"stage": stage}]} for name, stage in stages.items()]
    (tmp_path / "outcomes.json").write_text(json.dumps({"samples": outcomes}))
    (tmp_path / "failures.txt").write_text("S1, tile: no reader can open it\n")
    for name in ("S1/S1.h5ad", "S1/S1.h5ad.stale", "S1/status.json", "S2/S2.h5ad", "S2/S2.html"):
        bucket.put_object(Key=f"results/{name}", Body=name.encode())
    lock = bucket.Object("results/pipeline_info/run.lock")
    lock.put(Body=json.dumps(OTHER_RUN))
    given = ("-c", settings, "--outdir", f"s3://{LAB}/results")

    refused = launch(*given, script=script)

    assert refused.code != 0
    assert f"s3://{LAB}/results is in use by run grave_turing of ada on node7" in refused.output
    assert f"remove s3://{LAB}/results/pipeline_info/run.lock" in refused.output
    assert json.load(lock.get()["Body"]) == OTHER_RUN

    # A process of this machine that is gone: its lock holds nobody up.
    lock.put(Body=re.sub("node7", os.uname().nodename, json.dumps(OTHER_RUN | {"pid": 2**22 + 1})))
    run = launch(*given, script=script)

    assert run.code == 0, run.output
    assert "took over the results folder from run grave_turing" in run.output
    assert '"session"' in run.output.partition("taken ")[2].splitlines()[0]
    left = {found.key: found.get()["Body"].read().decode() for found in bucket.objects.all() if found.key[-1] != "/"}
    assert left == {
        "results/S1/S1.h5ad.stale": "S1/S1.h5ad",
        "results/S1/status.json": "S1/status.json",
        "results/S2/S2.h5ad": "S2/S2.h5ad",
        "results/S2/S2.html.stale": "S2/S2.html",
    }
