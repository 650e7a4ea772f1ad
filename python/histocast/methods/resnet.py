"""The residual networks whose feature maps the published methods take as target tokens (He et al. 2016)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

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

    Randomly initialised; pretrained weights are the user's to load.
    """

    dim = 512

    def __init__(self, name: Name) -> None:
        super().__init__()
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
