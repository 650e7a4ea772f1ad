"""Claims: a model repository holds each graph once, whole, under a name and a configuration that follow from it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from histocast.bundle import Bundle, TensorSpec, sha256_of_file
from histocast.errors import ConfigError, MissingInputError, OutputError
from histocast.inference.triton.model_repository import (
    RepositoryOptions,
    is_batched,
    model_name,
    write_config,
    write_repository,
)
from histocast.inference.triton.server_command import server_environment
from known_encoders import write_encoder, write_shipped_bundle

GPU = RepositoryOptions(tensorrt=True, precision="fp16", gpu_memory_mb=2048, instances=3, max_batch_tiles=128)


def read_config(folder: Path) -> ModelConfig:
    """The configuration as the server's own schema reads it, which knows every field it may have."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_shipped_bundle(tmp_path / "bundle")


def test_each_graph_is_a_model_named_by_its_content(tmp_path: Path, bundle: Bundle) -> None:
    names = write_repository(tmp_path / "bundle", bundle, tmp_path / "models", options=RepositoryOptions())
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(names)
    for name, graph in zip(names, (*bundle.encoders, bundle.fusion), strict=True):
        assert re.fullmatch(r"(morphology|fusion)-[0-9a-f]{12}", name)
        folder = tmp_path / "models" / name
        assert sha256_of_file(folder / "1" / "model.onnx") == graph.sha256
        config = read_config(folder)
        assert config.name == name
        assert config.parameters["sha256"].string_value == graph.sha256
        assert config.backend == "onnxruntime"
        assert not config.response_cache.enable
        assert list(config.version_policy.specific.versions) == [1]
        assert {path.name for path in folder.rglob("*") if path.is_file()} == {"config.pbtxt", "model.onnx"}


def test_an_encoder_is_batched_and_the_fusion_graph_is_not(tmp_path: Path, bundle: Bundle) -> None:
    names = write_repository(tmp_path / "bundle", bundle, tmp_path / "models", options=GPU)
    encoder, fusion = (read_config(tmp_path / "models" / name) for name in names)
    assert encoder.max_batch_size == 128
    assert list(encoder.input[0].dims) == [32, 32, 3]
    assert encoder.HasField("dynamic_batching")
    assert (encoder.instance_group[0].count, fusion.instance_group[0].count) == (3, 1)
    assert encoder.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
    assert fusion.max_batch_size == 0
    assert [list(tensor.dims) for tensor in fusion.input] == [[-1, 6], [-1, 25, 6], [-1, 25]]
    assert not fusion.HasField("dynamic_batching")


def test_tensorrt_has_its_profiles_its_cache_and_its_limits(tmp_path: Path, bundle: Bundle) -> None:
    config = text_format.Parse(write_config("fusion", bundle.fusion, bundle, GPU), ModelConfig())
    tensorrt, cuda = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert tensorrt.name == "tensorrt"
    assert tensorrt.parameters["precision_mode"] == "FP16"
    assert tensorrt.parameters["trt_profile_min_shapes"] == "target:1x6,neighbour:1x25x6,neighbour_mask:1x25"
    assert tensorrt.parameters["trt_profile_max_shapes"].startswith("target:1024x6,")
    assert tensorrt.parameters["trt_engine_cache_path"].endswith(f"{model_name('fusion', bundle.fusion)}-fp16")
    assert tensorrt.parameters["trt_force_sequential_engine_build"] == "1", "instances share the cache"
    assert dict(cuda.parameters) == {"use_tf32": "0"}
    # The backend overwrites these options of the provider by the model's parameters, and by its defaults without them.
    assert config.parameters["gpu_mem_limit"].string_value == str(2048 * 2**20)
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1", "HEURISTIC"
    assert config.parameters["arena_extend_strategy"].string_value == "1", "kSameAsRequested"
    assert config.parameters["precision"].string_value == "fp16"
    warm_up = config.model_warmup[0]
    assert {name: list(tensor.dims) for name, tensor in warm_up.inputs.items()}["neighbour"] == [1024, 25, 6]
    assert warm_up.batch_size == 1, "the server skips a sample of batch size 0"


@pytest.mark.parametrize(
    ("precision", "mode", "tf32"), [("fp32", "FP32", "0"), ("tf32", "FP32", "1"), ("fp16", "FP16", "0")]
)
def test_float32_is_computed_in_tf32_where_that_is_asked_for_and_nowhere_else(
    bundle: Bundle, precision: str, mode: str, tf32: str
) -> None:
    options = RepositoryOptions.model_validate({"tensorrt": True, "precision": precision})
    config = text_format.Parse(write_config("fusion", bundle.fusion, bundle, options), ModelConfig())
    tensorrt, cuda = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (tensorrt.parameters["precision_mode"], cuda.parameters["use_tf32"]) == (mode, tf32)
    # An engine of one precision is none of another.
    assert tensorrt.parameters["trt_engine_cache_path"].endswith(precision)
    # TensorRT itself knows no option: a variable decides for the whole server.
    assert ("NVIDIA_TF32_OVERRIDE" in server_environment(tf32=precision == "tf32", environment={})) == (tf32 == "0")


def test_bundles_share_what_is_the_same_and_never_clash(tmp_path: Path, bundle: Bundle) -> None:
    other = write_shipped_bundle(tmp_path / "other", encoder=write_encoder(tmp_path / "other", scale=2.0))
    models = tmp_path / "models"
    first = write_repository(tmp_path / "bundle", bundle, models, options=RepositoryOptions())
    second = write_repository(tmp_path / "other", other, models, options=RepositoryOptions())
    assert first[0] != second[0]
    assert first[1] == second[1]
    assert len(list(models.iterdir())) == 3
    assert write_repository(tmp_path / "bundle", bundle, models, options=RepositoryOptions()) == first
    assert len(list(models.iterdir())) == 3


def test_a_graph_kept_out_by_its_licence_is_taken_where_the_user_put_it(tmp_path: Path, bundle: Bundle) -> None:
    gated = bundle.model_copy(update={"encoders": (bundle.encoders[0].model_copy(update={"file": None}),)})
    assert write_repository(tmp_path / "bundle", gated, tmp_path / "models", options=RepositoryOptions())
    (tmp_path / "bundle/encoders/morphology.onnx").unlink()
    with pytest.raises(MissingInputError, match="licence"):
        write_repository(tmp_path / "bundle", gated, tmp_path / "models", options=RepositoryOptions())


def test_an_axis_without_a_known_length_is_refused(bundle: Bundle) -> None:
    loose = bundle.fusion.model_copy(
        update={"inputs": (*bundle.fusion.inputs, TensorSpec(name="more", dtype="float32", shape=("spot", "token")))}
    )
    with pytest.raises(ConfigError, match="token"):
        write_config("fusion", loose, bundle, RepositoryOptions())


def test_names_fit_folders_and_rows_that_depend_on_one_another_are_never_joined(bundle: Bundle) -> None:
    encoder = bundle.encoders[0]
    assert model_name("uni/v2 é", encoder) == f"uni_v2__-{encoder.sha256[:12]}"
    assert is_batched("morphology", encoder)
    assert not is_batched("fusion", bundle.fusion)
    tokens = TensorSpec(name="table", dtype="float32", shape=("gene", 4))
    assert not is_batched("x", encoder.model_copy(update={"inputs": (*encoder.inputs, tokens)}))


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_repository(tmp_path / "bundle", bundle, tmp_path / "file", options=RepositoryOptions())


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp16"},
        {"backend": "python", "tensorrt": True},
        {"backend": "python", "gpu_memory_mb": 1},
        {"backend": "python", "precision": "tf32"},
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RepositoryOptions.model_validate(options)


def test_the_sizing_that_is_documented_follows_from_what_it_says_it_is_computed_from(root: Path) -> None:
    text = (root / "docs" / "serving.md").read_text()
    rows = re.findall(r"^\| [^|]*(?:T4|L4|A100|H200) \|.*", text, re.MULTILINE)
    assert len(rows) == 4
    assert "1,484 |" in (root / "docs" / "performance.md").read_text(), "tiles a second on two cores"
    for row in rows:
        *figures, cores = [cell.strip() for cell in row.split("|")[4:-1]]
        for cell in figures:
            if cell != "none":
                tiles_per_s, rate = (float(each.strip(" )").replace(",", "")) for each in cell.split("("))
                assert tiles_per_s == round(0.4 * rate / 0.12), row
        assert int(cores) == math.ceil(tiles_per_s * (2 / 1484 + 0.0003)), row
