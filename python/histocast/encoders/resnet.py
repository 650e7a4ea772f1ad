"""The residual networks whose feature maps the published methods take as target tokens (He et al. 2016)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from histocast.encoders.encoder_cards import EncoderCard
from histocast.errors import ConfigError

Name = Literal["resnet18", "resnet50_layer2"]

PLANS: dict[Name, tuple[bool, tuple[int, ...]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet50_layer2": (True, (3, 4)),
}
"""Bottlenecks or not, and blocks a layer; DomainST cuts ResNet50 after its second."""


class Residual(nn.Module):
    """One residual block: two 3 x 3 convolutions, or a 1-3-1 bottleneck four times as wide at its end."""

    def __init__(self, channels: int, width: int, *, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = width * (4 if bottleneck else 1)
        plan = (
            [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
            if bottleneck
            else [(channels, width, 3, stride), (width, width, 3, 1)]
        )
        steps: list[nn.Module] = []
        for inward, outward, size, step in plan:
            steps += [
                nn.Conv2d(inward, outward, size, stride=step, padding=size // 2, bias=False),
                nn.BatchNorm2d(outward),
                nn.ReLU(),
            ]
        self.path = nn.Sequential(*steps[:-1])
        same = stride == 1 and channels == out
        self.skip: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
        )
        self.channels = out

    def forward(self, maps: Float[Tensor, "tile channel row column"]) -> Float[Tensor, "tile channel2 row2 column2"]:
        """The maps after the block."""
        return torch.relu(self.path(maps) + self.skip(maps))


class ResNetTokens(nn.Module):
    """Tiles to the tokens of the last feature map: 49 of 512 (ResNet18) or 784 of 512 (ResNet50, two layers).

    Randomly initialised; `load_torchvision` takes pretrained weights.
    """

    dim = 512

    def __init__(self, name: Name) -> None:
        super().__init__()
        self.name = name
        bottleneck, depths = PLANS[name]
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: list[Residual] = []
        channels = 64
        for layer, depth in enumerate(depths):
            for place in range(depth):
                stride = 2 if layer and not place else 1
                blocks.append(Residual(channels, 64 * 2**layer, stride=stride, bottleneck=bottleneck))
                channels = blocks[-1].channels
        self.blocks = nn.Sequential(*blocks)

    def forward(self, tiles: Float[Tensor, "spot 3 row column"]) -> Float[Tensor, "spot token 512"]:
        """Tokens, row-major over the feature map."""
        return self.blocks(self.stem(tiles)).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


def imagenet_card(name: Name, *, tile_px: int, um_per_px: float) -> EncoderCard:
    """What goes into the network and comes out, with the colours of ImageNet; it sees tiles at their own size."""
    _, depths = PLANS[name]
    patch_px = 2 ** (1 + len(depths))
    # Each of its strides rounds up.
    grid = -(-tile_px // patch_px)
    return EncoderCard(
        name=name,
        title=f"{name}, as the published methods take it",
        source="the user",
        licence="as the user's weights",
        gated=False,
        reference="He et al. 2016, CVPR",
        architecture=name,
        arguments={},
        input_px=grid * patch_px if tile_px % patch_px else tile_px,
        um_per_px=um_per_px,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        pooling="mean",
        registers=0,
        patch_px=patch_px,
        dim=ResNetTokens.dim,
        parameters_m={"resnet18": 11.2, "resnet50_layer2": 1.4}[name],
    )


def load_torchvision(network: ResNetTokens, path: Path) -> None:
    """Fill the network from the weights of a whole ResNet, named as torchvision and timm name them.

    Raises `MissingInputError` or `DataError`: the file is absent or holds no tensors; `ConfigError`: a tensor is
    missing or of another shape.
    """
    from histocast.encoders.weights_file import read_tensors

    given = read_tensors(path)
    names = dict(_torchvision_names(network))
    found: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        part, _, kind = key.rpartition(".")
        source = given.get(f"{names[part]}.{kind}")
        # Counts batches, which only a running mean without momentum asks for.
        if source is None and kind == "num_batches_tracked":
            source = value
        if source is None or source.shape != value.shape:
            raise ConfigError(
                f"{names[part]}.{kind} {'missing' if source is None else list(source.shape)}",
                expected=f"the weights of a ResNet, {list(value.shape)} there",
                where=str(path),
                advice=f"give the weights of the network that {network.name} is the beginning of",
            )
        found[key] = source
    network.load_state_dict(found)


def _torchvision_names(network: ResNetTokens) -> Iterator[tuple[str, str]]:
    """Name here and name there of every layer with tensors."""
    bottleneck, depths = PLANS[network.name]
    yield from (("stem.0", "conv1"), ("stem.1", "bn1"))
    places = [f"layer{layer + 1}.{place}" for layer, depth in enumerate(depths) for place in range(depth)]
    for number, place in enumerate(places):
        for step in range(3 if bottleneck else 2):
            yield f"blocks.{number}.path.{3 * step}", f"{place}.conv{step + 1}"
            yield f"blocks.{number}.path.{3 * step + 1}", f"{place}.bn{step + 1}"
        yield from ((f"blocks.{number}.skip.{part}", f"{place}.downsample.{part}") for part in (0, 1))
