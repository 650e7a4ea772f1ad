"""The networks: their sizes, their losses, and what must not change a prediction."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from histocast.encoders.resnet import ResNetTokens
from histocast.networks.alignst import AlignSt, AlignStConfig, SpotGraph, faithful_alignst, find_alike
from histocast.networks.baselines import Bleep, BleepConfig, StNet, StNetConfig
from histocast.networks.dkan import Dkan, DkanConfig, faithful_dkan
from histocast.networks.domainst import DomainSt, DomainStConfig, faithful_domainst
from histocast.networks.ensemble import Ensemble, Member, text_shares
from histocast.networks.layers import Config, Depth, GeneTokens, NeighbourEncoder, PositionStep, Spots
from histocast.networks.losses import contrastive_loss, correlation_loss, loss_weights, supervised_loss
from histocast.networks.network import Network

FEATURES, GENES, TEXT = 12, 9, 7
COLUMNS = 6


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small are slower on two threads than on one, and many times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made_spots(count: int = 20, *, seed: int = 0) -> Spots:
    random = torch.Generator().manual_seed(seed)
    place = torch.arange(count)
    return Spots(
        target=torch.randn(count, 1, FEATURES, generator=random),
        neighbour=torch.randn(count, 25, FEATURES, generator=random),
        neighbour_mask=torch.rand(count, 25, generator=random) > 0.2,
        context=torch.randn(count, FEATURES, generator=random),
        grid_xy=torch.stack([place % COLUMNS, place // COLUMNS], dim=1),
        nuclei=torch.rand(count, 2, 16, 16, generator=random),
    )


def made_text() -> Tensor:
    return torch.randn(GENES, TEXT, generator=torch.Generator().manual_seed(1))


def build(name: str, *, dropout: float | None = None, **changes: object) -> nn.Module:
    designs: dict[str, tuple[type[Network], type[Config]]] = {
        "dkan": (Dkan, DkanConfig),
        "domainst": (DomainSt, DomainStConfig),
        "alignst": (AlignSt, AlignStConfig),
        "stnet": (StNet, StNetConfig),
        "bleep": (Bleep, BleepConfig),
    }
    network, config = designs[name]
    torch.manual_seed(0)
    made = network(config.model_validate(changes), features=FEATURES, genes=GENES, panel_text=made_text())
    if dropout is not None:
        for part in made.modules():
            if isinstance(part, nn.Dropout):
                part.p = dropout
    return made


def parameters(*parts: nn.Module) -> float:
    return sum(value.numel() for part in parts for value in part.parameters()) / 1e6


def test_faithful_dkan_for_cscc_has_the_published_size_part_by_part() -> None:
    with torch.device("meta"):
        text = torch.zeros(250, 1024)
        config = faithful_dkan("cscc")
        network = Dkan(config, features=1024, genes=250, panel_text=text, target_features=ResNetTokens.dim)
        assert config.trunk.target_encoder == "resnet18"
        encoder = ResNetTokens(config.trunk.target_encoder)
    trunk = network.trunk
    found = {
        "fusion": parameters(trunk.fusion),
        "global": parameters(trunk.context),
        "neighbour": parameters(trunk.neighbour),
        "image path": parameters(network.image),
        "expression path": parameters(network.expression),
        "text path": parameters(network.genes),
        "expression encoder": parameters(network.encode),
        "heads": parameters(trunk.heads, network.read),
        "resnet18": parameters(encoder),
        "transform": parameters(trunk.transform),
    }
    stated = [25.19, 12.61, 25.20, 50.37, 50.37, 50.37, 2.36, 1.03, 11.18, 0.53]
    assert found == pytest.approx(dict(zip(found, stated, strict=True)), rel=0.01)
    assert parameters(network, encoder) == pytest.approx(229.2, rel=0.001)
    assert parameters(network, encoder) == pytest.approx(sum(found.values()))


# Depth, heads, ratio of the feed-forward layers and dropout of fusion / global / neighbour, as METHODS tabulates them.
PUBLISHED_TRUNK = {
    "her2st": ((1, 5, 4), (4, 8, 4), (4, 4, 4), (0.4, 0.3, 0.3)),
    "cscc": ((2, 2, 4), (8, 16, 16), (4, 1, 1), (0.1, 0.1, 0.3)),
    "stnet": ((3, 3, 4), (16, 8, 8), (4, 2, 4), (0.4, 0.1, 0.3)),
}
# Depths of DKAN's image / expression / text path, their heads, and the temperature of the contrast.
PUBLISHED_DKAN = {"her2st": ((4, 3, 3), 4, 0.1), "cscc": ((4, 4, 4), 8, 0.08), "stnet": ((4, 4, 4), 8, 0.1)}


def shape_of(blocks: nn.ModuleList) -> tuple[int, int, float, float]:
    """Depth, heads, ratio and dropout of a stack, read off its layers; the same in each."""
    found = {
        (
            block.attention.heads,
            block.feed[1].out_features / block.feed[1].in_features,
            *{part.p for part in block.modules() if isinstance(part, nn.Dropout)},
        )
        for block in blocks
    }
    (shape,) = found
    return (len(blocks), *shape)


@pytest.mark.parametrize("data_set", ["her2st", "cscc", "stnet"])
def test_faithful_configurations_build_with_their_published_sizes(data_set: str) -> None:
    with torch.device("meta"):
        text = torch.zeros(250, 1024)
        dkan = Dkan(faithful_dkan(data_set), features=1024, genes=250, panel_text=text)
        domainst = DomainSt(faithful_domainst(data_set), features=512, genes=250, panel_text=text[:, :512])
    for trunk, dim in ((dkan.trunk, 1024), (domainst.trunk, 512)):
        parts = (trunk.fusion.blocks, trunk.context.blocks, trunk.neighbour.blocks)
        assert [shape_of(part) for part in parts] == list(zip(*PUBLISHED_TRUNK[data_set], strict=True))
        assert trunk.heads["target"].in_features == dim
    depths, heads, temperature = PUBLISHED_DKAN[data_set]
    paths = (dkan.image.blocks, dkan.expression.blocks, dkan.genes.blocks)
    assert [shape_of(path) for path in paths] == [(depth, heads, 4, 0.3) for depth in depths]
    assert (dkan.config.temperature, dkan.config.distillation, dkan.config.weights) == (temperature, 0.3, "adaptive")
    # What is ours is off.
    assert (dkan.config.keys, dkan.config.direct, dkan.config.centre_text) == ("fused", False, False)
    assert (dkan.config.correlation, dkan.config.contrast_rows) == (0.0, None)
    config = domainst.config
    assert domainst.mixture is not None
    assert domainst.mixture.attention is not None
    assert (list(domainst.mixture.experts), domainst.mixture.attention.heads) == (
        ["concat", "additive", "attention"],
        4,
    )
    assert (config.dropout, config.correlation, config.distillation, config.centre_text) == (0.0, 0.0, 0.3, False)


def test_faithful_alignst_has_the_sizes_of_sgn() -> None:
    config = faithful_alignst()
    with torch.device("meta"):
        network = AlignSt(config, features=1024, genes=250, panel_text=torch.zeros(250, 1024))
    assert (config.dim, config.heads, config.nearest, config.correlation) == (256, 4, 5, 0.5)
    assert (config.scales, config.nuclei, config.interaction, config.spot_graph) == (("target",), True, True, True)
    assert len(network.prompt.text) == len(network.graph.layers) == 4
    convolutions = [part for part in network.nuclei.maps if isinstance(part, nn.Conv2d)]
    assert [part.kernel_size for part in convolutions] == [(3, 3)] * 5


@pytest.mark.parametrize(("name", "tokens"), [("resnet18", 49), ("resnet50_layer2", 784)])
def test_target_encoders_give_the_published_tokens(name: str, tokens: int) -> None:
    network = ResNetTokens(name).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, tokens, 512)


def test_supervised_loss_is_the_published_formula() -> None:
    predicted, labels, one, two = torch.randn(4, 5, 3)

    def mse(first: Tensor, second: Tensor) -> Tensor:
        return ((first - second) ** 2).mean()

    wanted = mse(predicted, labels) + sum(0.7 * mse(b, labels) + 0.3 * mse(predicted, b) for b in (one, two))
    assert supervised_loss(predicted, labels, [one, two], distillation=0.3) == pytest.approx(float(wanted))
    alone = mse(predicted, labels) + mse(one, labels)
    assert supervised_loss(predicted, labels, [one], distillation=0) == pytest.approx(float(alone))


def test_contrastive_loss_is_cross_entropy_over_cosines_in_one_direction() -> None:
    image, expression = torch.randn(2, 6, 4)
    total = 0.0
    for row in range(6):
        cosines = [float(functional.cosine_similarity(image[row], other, dim=0)) / 0.1 for other in expression]
        total -= cosines[row] - math.log(sum(math.exp(value) for value in cosines))
    assert contrastive_loss(image, expression, temperature=0.1) == pytest.approx(total / 6, rel=1e-4)


def test_adaptive_weights_follow_release_and_paper() -> None:
    supervised, contrastive = torch.tensor(2.0), torch.tensor(6.0)
    assert [float(w) for w in loss_weights(supervised, contrastive, kind="adaptive")] == [0.5, 0.5]
    fixed = loss_weights(supervised, contrastive, kind="fixed", contrast_share=0.1)
    assert [float(w) for w in fixed] == pytest.approx([0.9, 0.1])
    assert DkanConfig().contrast_weight <= 0.1
    assert DkanConfig().weights == "fixed"
    reciprocal = [float(w) for w in loss_weights(supervised, contrastive, kind="reciprocal")]
    assert reciprocal == pytest.approx([(1 / 2) / (1 / 2 + 1 / 6), (1 / 6) / (1 / 2 + 1 / 6)])
    assert not any(w.requires_grad for w in loss_weights(supervised.requires_grad_(), contrastive, kind="adaptive"))


def test_correlation_loss_is_one_minus_pearson() -> None:
    predicted, labels = torch.randn(2, 30, 4)
    wanted = torch.stack(
        [torch.corrcoef(torch.stack([p, y]))[0, 1] for p, y in zip(predicted.T, labels.T, strict=True)]
    )
    assert correlation_loss(predicted, labels) == pytest.approx(float(1 - wanted.mean()), abs=1e-5)
    assert correlation_loss(torch.ones(30, 4), labels) == pytest.approx(1.0)


def test_the_position_step_is_a_convolution_over_the_scattered_grid() -> None:
    spots = made_spots(17)
    step, tokens = PositionStep(5), torch.randn(17, 5)
    with torch.no_grad():
        step.bias.normal_()
        found = step(tokens, spots.grid_xy, spots.together())
        grid = torch.zeros(1, 5, 3, COLUMNS)
        grid[0, :, spots.grid_xy[:, 1], spots.grid_xy[:, 0]] = tokens.T
        kernel = step.weight.T.reshape(5, 1, 3, 3)
        wanted = functional.conv2d(grid, kernel, step.bias, padding=1, groups=5)
    gathered = wanted[0, :, spots.grid_xy[:, 1], spots.grid_xy[:, 0]].T
    torch.testing.assert_close(found, tokens + gathered, atol=1e-5, rtol=1e-5)


def test_neighbour_bias_depends_on_distance_alone() -> None:
    encoder = NeighbourEncoder(8, Depth(depth=1, heads=2, ratio=2, dropout=0))
    step = encoder.step
    assert step[0, 6] == step[6, 0] == step[24, 18] == step[4, 8]
    assert step[12, 13] != step[12, 17]
    assert len(step.unique()) == 25


SWITCHES = {
    "dkan": [
        {"trunk": {"multi_scale": False}},
        {"gene_text": False},
        {"keys": "fused"},
        {"direct": False},
        {"centre_text": False},
        {"contrastive": False},
        {"weights": "fixed"},
        {"weights": "reciprocal"},
        {"distillation": 0.0},
        {"contrast_rows": None},
    ],
    "domainst": [
        {"trunk": {"multi_scale": False}},
        {"gene_text": False},
        {"experts": []},
        {"experts": ["attention"]},
        {"distillation": 0.0},
    ],
    "alignst": [
        {"scales": ["target"]},
        {"gene_text": False},
        {"nuclei": True},
        {"prompts": 0},
        {"interaction": False},
        {"spot_graph": False},
    ],
}


@pytest.mark.parametrize(
    ("name", "changes"), [(name, change) for name, changes in SWITCHES.items() for change in [{}, *changes]], ids=str
)
def test_every_idea_can_be_switched_and_every_weight_learns(name: str, changes: dict[str, object]) -> None:
    network = build(name, **changes)
    labels = torch.randn(20, GENES)
    rows, genes = torch.arange(3, 15), torch.arange(1, GENES)
    losses = network.losses(made_spots(), labels, rows=rows, genes=genes)
    losses.total.backward()
    assert math.isfinite(float(losses.total.detach()))
    assert [key for key, value in network.named_parameters() if value.grad is None] == []
    assert network.eval()(made_spots()).shape == (20, GENES)


@pytest.mark.parametrize("name", ["dkan", "domainst", "alignst", "stnet", "bleep"])
def test_one_batch_is_learned_by_heart(name: str) -> None:
    changes = {"bleep": {"retrieved": 1}, "dkan": {"correlation": 0.0, "contrastive": False}}
    network = build(name, dropout=0.0, **changes.get(name, {"correlation": 0.0}))
    spots, labels = made_spots(), torch.randn(20, GENES, generator=torch.Generator().manual_seed(3))
    everything = {"rows": torch.arange(20), "genes": torch.arange(GENES)}
    if isinstance(network, Bleep):
        network.remember(labels)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-2 if name == "stnet" else 2e-3)
    for _ in range(200):
        optimiser.zero_grad()
        network.losses(spots, labels, **everything).total.backward()
        optimiser.step()
    with torch.no_grad():
        left = float(functional.mse_loss(network.eval()(spots), labels)) / float(labels.var())
    # A linear head of 12 features has 13 numbers a gene for 20 spots, and knows what least squares know of them.
    assert left < (least_squares(spots, labels) + 0.01 if name == "stnet" else 0.05)


def least_squares(spots: Spots, labels: Tensor) -> float:
    """Share of the variance that no linear map of the targets explains."""
    design = torch.cat([spots.target[:, 0], torch.ones(len(labels), 1)], dim=1)
    found = design @ torch.linalg.lstsq(design, labels).solution
    return float(((found - labels) ** 2).mean() / labels.var())


@pytest.mark.parametrize("name", ["dkan", "domainst", "alignst"])
def test_order_padding_and_other_regions_change_nothing(name: str) -> None:
    network = build(name, **({"nuclei": True} if name == "alignst" else {})).eval()
    spots, other = made_spots(20), made_spots(11, seed=5)
    with torch.no_grad():
        alone = network(spots)
        order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
        shuffled = network(Spots(**{k: v[order] for k, v in vars(spots).items() if v is not None}))
        torch.testing.assert_close(shuffled, alone[order], atol=2e-5, rtol=1e-4)
        beside = join(spots, other)
        packed = network(Spots(**beside, region=torch.tensor([0] * 20 + [1] * 11)))
        torch.testing.assert_close(packed[:20], alone, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(packed[20:], network(other), atol=2e-5, rtol=1e-4)
        padded = network(Spots(**beside, region=torch.tensor([0] * 20 + [-1] * 11)))
        torch.testing.assert_close(padded[:20], alone, atol=2e-5, rtol=1e-4)
        hidden = torch.where(spots.neighbour_mask[..., None], spots.neighbour, torch.tensor(9.0))
        hidden[:, 12] = spots.neighbour[:, 12]
        changed = Spots(**{**vars(spots), "neighbour": hidden})
        torch.testing.assert_close(network(changed), alone, atol=2e-5, rtol=1e-4)


def join(first: Spots, second: Spots) -> dict[str, Tensor]:
    return {name: torch.cat([value, getattr(second, name)]) for name, value in vars(first).items() if value is not None}


@pytest.mark.parametrize("name", ["dkan", "alignst"])
def test_a_gene_is_predicted_alike_whatever_else_is_asked_for(name: str) -> None:
    network, text = build(name).eval(), made_text()
    unseen = torch.randn(1, TEXT, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        panel = network(made_spots())
        some = network(made_spots(), torch.cat([text[[4, 2]], unseen]))
        alone = network(made_spots(), unseen)
    torch.testing.assert_close(some[:, :2], panel[:, [4, 2]], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(some[:, 2:], alone, atol=2e-5, rtol=1e-4)


def test_learned_tokens_are_as_many_as_the_panel() -> None:
    tokens = GeneTokens(None, genes=GENES, dim=8, size=None)
    assert tokens().shape == (GENES, 8)


def test_a_gene_is_no_neighbour_of_itself() -> None:
    text = made_text()
    near = find_alike(text, text, count=3)
    assert not (near == torch.arange(GENES)[:, None]).any()
    likeness = functional.normalize(text, dim=-1) @ functional.normalize(text, dim=-1).T
    assert likeness[0, near[0, 0]] == likeness[0].masked_fill(torch.arange(GENES) == 0, -2).max()


def test_the_spot_graph_joins_the_ring_and_the_nearest_in_features() -> None:
    spots = made_spots(20)
    graph = SpotGraph(AlignStConfig(nearest=0))
    weights = graph.neighbours(spots.context, spots.grid_xy)
    assert (weights[7] > 0).nonzero()[:, 0].tolist() == [0, 1, 2, 6, 8, 12, 13, 14]
    both = SpotGraph(AlignStConfig(nearest=5)).neighbours(spots.context, spots.grid_xy)
    assert ((both > 0).sum(dim=1) >= (weights > 0).sum(dim=1)).all()
    assert (both > 0).sum(dim=1).max() <= 13
    torch.testing.assert_close(both.sum(dim=1), torch.ones(20))
    few = SpotGraph(AlignStConfig(nearest=5)).neighbours(spots.context[:2], spots.grid_xy[:2])
    torch.testing.assert_close(few, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_the_ensemble_scales_back_and_unseen_genes_borrow_from_near_texts() -> None:
    members = [
        Member(build("dkan"), offset=torch.arange(GENES).float(), scale=torch.full((GENES,), 2.0)) for _ in range(2)
    ]
    for number, member in enumerate(members):
        nn.init.constant_(member.network.read.bias, float(number))
        nn.init.zeros_(member.network.read.weight)
        nn.init.zeros_(member.network.direct.weight)
        nn.init.zeros_(member.network.direct.bias)
    ensemble = Ensemble(members, residual_sd=torch.full((GENES,), 3.0), panel_text=made_text()).eval()
    spots = made_spots()
    given = (spots.target[:, 0], spots.neighbour, spots.neighbour_mask, spots.context, spots.grid_xy, made_text())
    with torch.no_grad():
        expression, sd = ensemble(*given)
    torch.testing.assert_close(expression, (torch.arange(GENES) + 1.0).expand(20, -1), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(sd, torch.full((20, GENES), math.sqrt(1 + 9)), atol=1e-3, rtol=1e-3)
    shares = text_shares(made_text()[:1] + 0.01, made_text())
    assert shares.sum() == pytest.approx(1.0, abs=1e-5)
    assert shares[0].argmax() == 0


def test_retrieval_answers_with_what_it_remembers() -> None:
    bank = torch.rand(30, GENES)
    network = Bleep(BleepConfig(retrieved=30), features=FEATURES, genes=GENES, panel_text=None).eval()
    network.remember(bank)
    torch.testing.assert_close(network(made_spots()), bank.mean(dim=0).expand(20, -1))
    few = Bleep(BleepConfig(retrieved=1), features=FEATURES, genes=GENES, panel_text=None).eval()
    few.remember(bank)
    found = few(made_spots())
    assert all((bank == row).all(dim=1).any() for row in found)
