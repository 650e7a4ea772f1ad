"""The IAM policies of docs/aws are enough, and no statement of theirs is one too many.

moto enforces IAM here: it checks signatures, actions and resources. It knows no conditions of S3 requests, so those are
left out of what it is given.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError
from PIL import Image

DATA, MISSING = 65, 66
PLACES = {
    "SLIDES": ("archive", "slides"),
    "SHEETS": ("lab", "sheets"),
    "BUNDLES": ("lab", "bundles"),
    "WORK": ("scratch", "work"),
    "RESULTS": ("lab", "results"),
    "TRAINING": ("lab", "training"),
}
SPOTS_PX = [(x, y) for y in (400, 512, 624) for x in (400, 512, 624)]
URIS = {name: f"s3://{bucket}/{prefix}" for name, (bucket, prefix) in PLACES.items()}


def read_policy(root: Path, name: str) -> dict[str, Any]:
    """A policy of the documentation with its names filled in, as its commands do."""
    text = (root / "docs" / "aws" / f"{name}.json").read_text()
    for place, (bucket, prefix) in PLACES.items():
        text = text.replace(f"{place}_BUCKET", bucket).replace(f"{place}_PREFIX", prefix)
    policy: dict[str, Any] = json.loads(text.replace("REGION", "us-east-1").replace("ACCOUNT", "123456789012"))
    return policy


@dataclass(frozen=True)
class Account:
    """An AWS account whose S3 asks IAM about every request."""

    act_as: Callable[[dict[str, Any]], None]
    """Make a user that has one policy, and point the environment at its keys."""


@pytest.fixture
def account(s3_endpoint: str, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """Buckets with a slide, a samplesheet, a panel and a bundle; requests are checked from here on."""
    s3, iam = boto3.client("s3"), boto3.client("iam")
    for bucket in {bucket for bucket, _ in PLACES.values()}:
        s3.create_bucket(Bucket=bucket)
    put(s3, "SLIDES", "P1.png", write_slide(tmp_path / "P1.png").read_bytes())
    put(s3, "SHEETS", "sheet.csv", f"sample,slide,mpp\nP1,{URIS['SLIDES']}/P1.png,0.5\n".encode())
    put(s3, "SHEETS", "panel.txt", b"ERBB2\n")
    put(s3, "TRAINING", "P1-spots.csv", "\n".join(["spot,x,y", *(f"{x}x{y},{x},{y}" for x, y in SPOTS_PX)]).encode())
    put(s3, "TRAINING", "P1-counts.tsv", "\n".join(["\tERBB2", *(f"{x}x{y}\t{x}" for x, y in SPOTS_PX)]).encode())
    for path in demo_bundle.rglob("*"):
        if path.is_file():
            put(s3, "BUNDLES", f"demo/{path.relative_to(demo_bundle)}", path.read_bytes())

    def enforce_after(requests: str) -> None:
        plain = {"Content-Type": "text/plain"}
        ask = urllib.request.Request(f"{s3_endpoint}/moto-api/reset-auth", data=requests.encode(), headers=plain)
        urllib.request.urlopen(ask, timeout=10).close()

    def act_as(policy: dict[str, Any]) -> None:
        enforce_after("inf")
        statements = [{k: v for k, v in one.items() if k != "Condition"} for one in policy["Statement"]]
        document = json.dumps({**policy, "Statement": statements})
        name = f"user{len(iam.list_users()['Users'])}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="given", PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        enforce_after("0")

    yield Account(act_as)
    enforce_after("inf")


def put(s3: Any, place: str, name: str, body: bytes) -> None:
    bucket, prefix = PLACES[place]
    s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=body)


def write_slide(path: Path) -> Path:
    """A plain picture with a pink disc."""
    rows, columns = np.mgrid[:1024, :1024]
    disc = (rows - 512) ** 2 + (columns - 512) ** 2 < 400**2
    pixels = np.where(disc[..., None], np.uint8([200, 120, 170]), np.uint8([244, 243, 245]))
    noise = np.random.default_rng(0).integers(-12, 12, pixels.shape)
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def without(policy: dict[str, Any], sid: str) -> dict[str, Any]:
    kept = [statement for statement in policy["Statement"] if statement["Sid"] != sid]
    assert len(kept) == len(policy["Statement"]) - 1
    return {**policy, "Statement": kept}


@pytest.fixture
def verbs(histocast, tmp_path: Path):
    """Arguments of each verb that touches S3, in the order of the pipeline."""
    out = tmp_path / "out"
    bundle = f"{URIS['BUNDLES']}/demo"
    slide = f"{URIS['SLIDES']}/P1.png"
    panel = f"{URIS['SHEETS']}/panel.txt"
    tiled = ("--slide-record", out / "slide.json", "--tiles", out / "tiles.parquet", "--bundle", bundle)
    features, thumbnail = out / "features.parquet", out / "thumbnail.png"
    arguments = {
        "check": ("--input", f"{URIS['SHEETS']}/sheet.csv", "--bundle", bundle, "--genes", panel),
        "tile": ("--sample", "P1", "--slide", slide, "--mpp", 0.5, "--bundle", bundle),
        "encode": ("--slide", slide, "--mpp", 0.5, *tiled),
        "predict": ("--features", features, "--thumbnail", thumbnail, "--genes", panel, *tiled),
    }

    def run(verb: str):
        # A cache of bundles in the folder of results would answer for a store that refuses.
        with_cache = {"HISTOCAST_CACHE": str(tmp_path / f"cache-{len(list(tmp_path.iterdir()))}")}
        return histocast(verb, *arguments[verb], "--outdir", out, env=with_cache)

    return run


def test_the_policy_of_tasks_is_enough_and_each_statement_is_needed(account, verbs, root: Path, tmp_path: Path) -> None:
    policy = read_policy(root, "task-policy")
    account.act_as(policy)
    for verb in ("check", "tile", "encode", "predict"):
        done = verbs(verb)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "P1.h5ad").is_file()

    needed = {
        "ReadSheets": {"check": "lab/sheets/panel.txt", "predict": "lab/sheets/panel.txt"},
        "ReadSlides": {"check": "slide of sample P1", "tile": "slide of sample P1", "encode": "slide of sample P1"},
        "ReadBundle": dict.fromkeys(("check", "tile", "encode", "predict"), "lab/bundles/demo/bundle.json"),
    }
    for sid, refused in needed.items():
        account.act_as(without(policy, sid))
        for verb, named in refused.items():
            done = verbs(verb)
            # A slide that may not be read is a fault of the samplesheet, told with every other one.
            code = DATA if (verb, sid) == ("check", "ReadSlides") else MISSING
            assert done.returncode == code, f"{verb} without {sid}: {done.stderr}"
            assert named in done.stderr
            assert "access is forbidden" in done.stderr
            assert "s3:GetObject" in done.stderr
            assert "Traceback" not in done.stderr


def with_training(root: Path, name: str) -> dict[str, Any]:
    """A policy with what training adds to it."""
    policy, training = read_policy(root, name), read_policy(root, "training-policy")
    return {**policy, "Statement": [*policy["Statement"], *training["Statement"]]}


def test_sections_are_prepared_with_what_training_adds_to_the_policy_of_tasks_and_not_without(
    account, histocast, root: Path, tmp_path: Path
) -> None:
    sheet, recipe = tmp_path / "training.csv", tmp_path / "tiny.json"
    training = URIS["TRAINING"]
    row = f"P1,{URIS['SLIDES']}/P1.png,{training}/P1-counts.tsv,A,{training}/P1-spots.csv,0.5"
    sheet.write_text(f"sample,slide,counts,patient,spots,mpp\n{row}\n")
    geometry = {"tile_px": 112, "um_per_px": 0.5, "pitch_um": 56.0}
    recipe.write_text(json.dumps({"name": "tiny", "geometry": geometry, "panel": ["ERBB2"], "method": "ridge"}))

    def prepare(policy: dict[str, Any]):
        account.act_as(policy)
        return histocast("prepare", "--input", sheet, "--recipe", recipe, "--outdir", tmp_path / "set")

    policy = with_training(root, "task-policy")
    for sid, named in {"ReadTrainingInputs": "lab/training/P1", "ReadSlides": "slide of sample P1"}.items():
        refused = prepare(without(policy, sid))
        assert refused.returncode == MISSING, refused.stderr
        assert named in refused.stderr
        assert "access is forbidden" in refused.stderr
    done = prepare(policy)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "set" / "P1" / "section.json").is_file()


def connect() -> Any:
    """A client of the user whose keys are in the environment now."""
    return boto3.session.Session().client("s3")


def refused(call: Callable[..., Any], place: str, name: str = "x", **arguments: Any) -> bool:
    bucket, prefix = PLACES[place]
    try:
        call(Bucket=bucket, Key=f"{prefix}/{name}", **arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return True
    return False


def test_tasks_write_to_the_work_folder_and_nowhere_else(account, root: Path) -> None:
    account.act_as(read_policy(root, "task-policy"))
    s3 = connect()
    assert not refused(s3.put_object, "WORK", Body=b"output")
    assert not refused(s3.get_object, "WORK")
    assert s3.list_objects_v2(Bucket="scratch", Prefix="work/")["KeyCount"] == 1
    for place in ("SLIDES", "SHEETS", "BUNDLES", "RESULTS"):
        assert refused(s3.put_object, place, Body=b"output")
        assert refused(s3.delete_object, place)
    assert refused(s3.delete_object, "WORK")
    assert refused(s3.get_object, "RESULTS")
    with pytest.raises(ClientError, match="Denied"):
        s3.list_objects_v2(Bucket="archive", Prefix="slides/")


def test_the_head_process_publishes_results_and_sees_no_slide(account, root: Path) -> None:
    account.act_as(read_policy(root, "head-storage-policy"))
    s3 = connect()
    assert not refused(s3.put_object, "WORK", Body=b"script", Tagging="nextflow.io/sessionId=1")
    copied = {"Bucket": "scratch", "Key": "work/x"}
    assert not refused(s3.copy_object, "RESULTS", "P1/P1.h5ad", CopySource=copied)
    assert s3.list_objects_v2(Bucket="lab", Prefix="results/")["KeyCount"] == 1
    assert not refused(s3.delete_object, "WORK")
    for place in ("SLIDES", "SHEETS", "BUNDLES"):
        assert refused(s3.get_object, place)
        assert refused(s3.put_object, place, Body=b"")
    for sid, place in (("UseWorkFolder", "WORK"), ("WriteResults", "RESULTS")):
        account.act_as(without(read_policy(root, "head-storage-policy"), sid))
        assert refused(connect().put_object, place, Body=b"")


@pytest.mark.parametrize("role", ["task-policy", "head-storage-policy"])
def test_training_lets_both_roles_read_its_inputs_and_write_none(account, root: Path, role: str) -> None:
    account.act_as(read_policy(root, role))
    assert refused(connect().get_object, "TRAINING", "P1-spots.csv")
    account.act_as(with_training(root, role))
    s3 = connect()
    assert not refused(s3.get_object, "TRAINING", "P1-spots.csv")
    assert s3.list_objects_v2(Bucket="lab", Prefix="training/")["KeyCount"] == 2
    assert refused(s3.put_object, "TRAINING", Body=b"")
    assert refused(s3.delete_object, "TRAINING")


@pytest.mark.parametrize("name", ["task-policy", "head-storage-policy", "head-batch-policy", "training-policy"])
def test_a_policy_grants_no_bucket_whole_and_every_placeholder_is_documented(root: Path, name: str) -> None:
    guide = (root / "docs" / "deployment.md").read_text()
    for statement in read_policy(root, name)["Statement"]:
        actions = np.atleast_1d(statement["Action"]).tolist()
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in actions)
        assert f"`{statement['Sid']}`" in guide
        if "s3:ListBucket" in actions:
            assert "s3:prefix" in statement["Condition"]["StringLike"]
        elif actions[0].startswith("s3:"):
            assert str(statement["Resource"]).count("/") == 2
