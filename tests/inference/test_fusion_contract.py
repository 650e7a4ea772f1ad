"""Claim: torch, this process's onnxruntime and a real server give one result for the fusion graph of every method."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="methods are written in torch, which the predict path lacks")

from torch import nn  # noqa: E402

from histocast.artifacts import write_json  # noqa: E402
from histocast.bundle import Bundle, FusionSpec, TensorSpec, sha256_of_file  # noqa: E402
from histocast.errors import ConfigError  # noqa: E402
from histocast.inference import open_predictor  # noqa: E402
from histocast.inference.triton.model_repository import model_name  # noqa: E402
from histocast.networks.alignst import AlignSt, AlignStConfig  # noqa: E402
from histocast.networks.baselines import Bleep, BleepConfig, StNet, StNetConfig  # noqa: E402
from histocast.networks.dkan import Dkan, DkanConfig  # noqa: E402
from histocast.networks.domainst import DomainSt, DomainStConfig  # noqa: E402
from histocast.networks.ensemble import Ensemble, Member  # noqa: E402
from histocast.networks.layers import Config  # noqa: E402
from histocast.networks.network import Network  # noqa: E402
from histocast.networks.onnx_file import check_on_drawn_inputs, run_torch, write_onnx  # noqa: E402
from histocast.networks.ridge import RidgeOptions, ScaleMeans, fit_ridge  # noqa: E402
from histocast.release.half_precision import write_half_precision  # noqa: E402
from sample_bundle import DIM, write_bundle  # noqa: E402
from triton_server import Connect, RealServer  # noqa: E402

GENES, TEXT, REGION = 30, 7, 96
OUTPUTS = ("expression", "sd")
TOLERANCE = 1e-5

NETWORKS: dict[str, tuple[type[Network], type[Config], dict[str, Any]]] = {
    "dkan": (Dkan, DkanConfig, {"trunk": {"dim": 32}}),
    "domainst": (DomainSt, DomainStConfig, {"trunk": {"dim": 32}}),
    "alignst": (AlignSt, AlignStConfig, {"dim": 32}),
    "stnet": (StNet, StNetConfig, {}),
    "bleep": (Bleep, BleepConfig, {}),
}


@dataclass(frozen=True)
class Exported:
    """A method's module, and a bundle whose fusion graph is its export."""

    module: nn.Module
    names: tuple[str, ...]
    folder: Path
    bundle: Bundle


def made_inputs(spots: int, *, seed: int) -> dict[str, np.ndarray]:
    """Everything a method may take, of a region on a grid: features of the size that real ones have."""
    random = np.random.default_rng(seed)
    mask = random.random((spots, 25)) < 0.7
    mask[:, 12] = True
    target = random.normal(size=(spots, DIM)).astype(np.float32)
    neighbour = random.normal(size=(spots, 25, DIM)).astype(np.float32) * mask[:, :, None]
    neighbour[:, 12] = target
    place = np.arange(spots)
    return {
        "target": target,
        "neighbour": neighbour,
        "neighbour_mask": mask,
        "context": target,
        "grid_xy": np.stack([place % 10, place // 10], axis=1),
        "gene": np.random.default_rng(1).normal(size=(GENES, TEXT)).astype(np.float32),
        "nuclei": random.random((spots, 2, 16, 16), dtype=np.float32),
    }


def build_ridge() -> tuple[nn.Module, tuple[str, ...]]:
    names, options = ("target", "neighbour", "neighbour_mask"), RidgeOptions()
    inputs = made_inputs(120, seed=0)
    design = ScaleMeans(options.scales)(*(torch.from_numpy(inputs[name]) for name in names)).numpy()
    random = np.random.default_rng(1)
    labels = design @ random.normal(size=(design.shape[1], GENES)) + random.normal(size=(120, GENES))
    section = np.repeat([0, 1, 2, 3], 30)
    return fit_ridge(design, labels, section=section, group=section, options=options).module, names


def build_network(method: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Two members with weights as they are drawn before training, on a scale like that of logarithms of counts."""
    network, config, sizes = NETWORKS[method]
    text = torch.from_numpy(made_inputs(1, seed=0)["gene"])
    torch.manual_seed(0)
    networks = [network(config.model_validate(sizes), features=DIM, genes=GENES, panel_text=text) for _ in range(2)]
    for each in networks:
        if isinstance(each, Bleep):
            each.remember(torch.randn(200, GENES))
    members = [
        Member(
            each,
            offset=torch.rand(GENES) * 2,
            scale=torch.rand(GENES) + 0.2,
        )
        for each in networks
    ]
    module = Ensemble(members, residual_sd=torch.rand(GENES) + 0.2, panel_text=text).eval()
    return module, module.inputs


def export(method: str, folder: Path) -> Exported:
    module, names = build_ridge() if method == "ridge" else build_network(method)
    bundle = write_bundle(folder, gene_count=GENES)
    inputs = {name: value for name, value in made_inputs(40, seed=2).items() if name in names}
    inputs = {name: inputs[name] for name in names}
    axes = {name: "gene" if name == "gene" else "spot" for name in names}
    write_onnx(module, folder / "fusion.onnx", inputs=inputs, outputs=OUTPUTS, axis=axes)
    fusion = FusionSpec(
        file="fusion.onnx",
        sha256=sha256_of_file(folder / "fusion.onnx"),
        inputs=tuple(
            TensorSpec(name=name, dtype=str(value.dtype), shape=(axes[name], *value.shape[1:]))
            for name, value in inputs.items()
        ),
        outputs=tuple(
            TensorSpec(name=name, dtype="float32", shape=("spot", "gene" if "gene" in names else GENES))
            for name in OUTPUTS
        ),
        method=method,
        feeds={},
        region_spots=REGION,
    )
    exported = bundle.model_copy(update={"fusion": fusion})
    write_json(folder / "bundle.json", exported)
    return Exported(module, names, folder, exported)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    folder = tmp_path_factory.mktemp("methods")
    return {method: export(method, folder / method) for method in ("ridge", *NETWORKS)}


def test_torch_onnxruntime_and_a_server_agree_on_every_method(
    exported: dict[str, Exported], connect: Connect, start_server: Callable[..., RealServer]
) -> None:
    def fill(server: RealServer) -> None:
        models = [
            model for each in exported.values() for model in server.add(each.folder, each.bundle, names=("fusion",))
        ]
        assert models == [model_name("fusion", each.bundle.fusion) for each in exported.values()]

    server = start_server(fill=fill)
    for method, each in exported.items():
        served = connect(server.url, bundle=each.bundle, names=("fusion",))
        with open_predictor(each.folder, each.bundle, names=("fusion",), threads=2) as here:
            for spots in (1, 17, REGION):
                everything = made_inputs(spots, seed=spots)
                inputs = {name: everything[name] for name in each.names}
                expected = run_torch(each.module, inputs, outputs=OUTPUTS)
                in_process, on_server = here.infer("fusion", inputs), served.infer("fusion", inputs)
                for name in OUTPUTS:
                    scale = float(np.abs(expected[name]).max())
                    assert scale > 0.1
                    for found in (in_process, on_server):
                        np.testing.assert_allclose(
                            found[name] / scale, expected[name] / scale, rtol=0, atol=TOLERANCE, err_msg=method
                        )
                    np.testing.assert_allclose(on_server[name], in_process[name], rtol=0, atol=TOLERANCE * scale)


def test_every_graph_is_held_to_torch_on_other_lengths_than_it_was_exported_with(
    exported: dict[str, Exported], tmp_path: Path
) -> None:
    for method, each in exported.items():
        assert check_on_drawn_inputs(each.module, each.folder / "fusion.onnx", outputs=OUTPUTS) < 1e-4, method
    # A graph whose weights are another's.
    other = exported["stnet"].module
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    with pytest.raises(ConfigError, match="compared with torch"):
        check_on_drawn_inputs(other, exported["stnet"].folder / "fusion.onnx", outputs=OUTPUTS)
    with torch.no_grad():
        next(other.parameters()).sub_(1.0)


@pytest.mark.parametrize("method", ["dkan", "domainst", "stnet"])
def test_half_precision_says_nearly_the_same(exported: dict[str, Exported], method: str, tmp_path: Path) -> None:
    each = exported[method]
    difference = write_half_precision(each.folder / "fusion.onnx", tmp_path / "fusion.onnx")
    assert 1e-6 < difference < 5e-3
    # Where weights are most of the file.
    if method != "stnet":
        assert (tmp_path / "fusion.onnx").stat().st_size < 0.8 * (each.folder / "fusion.onnx").stat().st_size
    everything = made_inputs(17, seed=9)
    inputs = {name: everything[name] for name in each.names}
    expected = run_torch(each.module, inputs, outputs=OUTPUTS)
    shutil.copyfile(each.folder / "genes.parquet", tmp_path / "genes.parquet")
    fusion = each.bundle.fusion.model_copy(update={"sha256": sha256_of_file(tmp_path / "fusion.onnx")})
    bundle = each.bundle.model_copy(update={"fusion": fusion})
    with open_predictor(tmp_path, bundle, names=("fusion",), threads=1) as half:
        found = half.infer("fusion", inputs)
    for name in OUTPUTS:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], rtol=5e-3, atol=5e-3)


def test_what_half_precision_cannot_hold_is_refused(exported: dict[str, Exported], tmp_path: Path) -> None:
    """Weights a thousand times as large: sums above 65504 are infinite in half precision."""
    module, names = build_network("stnet")
    with torch.no_grad():
        for value in module.parameters():
            value.mul_(1e4)
    inputs = {name: made_inputs(40, seed=2)[name] for name in names}
    write_onnx(module, tmp_path / "large.onnx", inputs=inputs, outputs=OUTPUTS, axis="spot")
    with pytest.raises(ConfigError, match=r"(?s)in half precision.*take fp32"):
        write_half_precision(tmp_path / "large.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_a_method_that_takes_genes_is_asked_for_some_alone_wherever_it_runs(
    exported: dict[str, Exported], connect: Connect, start_server: Callable[..., RealServer]
) -> None:
    each = exported["dkan"]
    server = start_server(fill=lambda server: server.add(each.folder, each.bundle, names=("fusion",)))
    served = connect(server.url, bundle=each.bundle, names=("fusion",))
    everything = made_inputs(17, seed=3)
    inputs = {name: everything[name] for name in each.names}
    whole = served.infer("fusion", inputs)["expression"]
    some = served.infer("fusion", {**inputs, "gene": inputs["gene"][[3, 11]]})["expression"]
    assert some.shape == (17, 2)
    np.testing.assert_allclose(some, whole[:, [3, 11]], atol=1e-4)
