"""Each published formula against a few lines that know nothing of the network's code but its weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from histocast.networks.alignst import AlignSt, AlignStConfig, GeneEncoder, GeneInteraction, NucleiChannel, SpotGraph
from histocast.networks.baselines import Bleep, BleepConfig
from histocast.networks.dkan import Dkan, DkanConfig, ExpressionEncoder
from histocast.networks.domainst import DomainSt, DomainStConfig, MixtureOfExperts
from histocast.networks.layers import Spots
from histocast.networks.trunk import Trunk, TrunkConfig

SPOTS, FEATURES, GENES, TEXT, DIM = 12, 6, 5, 7, 8
QUIET = {"depth": 1, "heads": 2, "ratio": 2, "dropout": 0.0}
TRUNK = {"dim": DIM, "sizes": {"fusion": QUIET, "context": QUIET, "neighbour": QUIET}}


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Double precision on one thread: differences are those of formulas."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


def made_spots() -> Spots:
    place = torch.arange(SPOTS)
    mask = torch.rand(SPOTS, 25) > 0.2
    mask[:, 12] = True
    return Spots(
        target=torch.randn(SPOTS, 3, FEATURES),
        neighbour=torch.randn(SPOTS, 25, FEATURES),
        neighbour_mask=mask,
        context=torch.randn(SPOTS, FEATURES),
        grid_xy=torch.stack([place % 4, place // 4], dim=1),
        nuclei=torch.rand(SPOTS, 2, 16, 16),
    )


def attend(layer: nn.Module, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K' / sqrt d) V, one head and one query after another: queries [q, dim], keys [k, dim]."""
    q = queries @ layer.query.weight.T
    k, v = (keys @ layer.key_value.weight.T).split(queries.shape[-1], dim=-1)
    width = queries.shape[-1] // layer.heads
    heads = []
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / width**0.5
        if mask is not None:
            scores[:, ~mask] = -torch.inf
        weights = torch.exp(scores) / torch.exp(scores).sum(dim=-1, keepdim=True)
        heads.append(weights @ v[:, part])
    return layer.out(torch.cat(heads, dim=-1))


def mse(first: Tensor, second: Tensor) -> Tensor:
    return ((first - second) ** 2).mean()


def pearson_loss(predicted: Tensor, labels: Tensor) -> float:
    pairs = zip(predicted.detach().numpy().T, labels.numpy().T, strict=True)
    return float(np.mean([1 - np.corrcoef(one, other)[0, 1] for one, other in pairs]))


def test_domainst_mixture_is_three_experts_under_a_dense_gate() -> None:
    mixture = MixtureOfExperts(DIM, ("concat", "additive", "attention"), dropout=0.0)
    image, text = torch.randn(SPOTS, DIM), torch.randn(GENES, DIM)
    mean = text.mean(dim=0)
    wanted = []
    for v in image:
        first, _, last = mixture.gate[0], mixture.gate[1], mixture.gate[2]
        scores = torch.exp(last(torch.clamp(first(v), min=0)))
        gate = scores / scores.sum()
        looked = attend(mixture.attention, v[None], text)[0]
        given = {"concat": torch.cat([v, mean]), "additive": v + mean, "attention": looked}
        answers = []
        for name, value in given.items():
            one, two = (part for part in mixture.experts[name].children() if isinstance(part, nn.Linear))
            answers.append(torch.clamp(two(torch.clamp(one(value), min=0)), min=0))
        wanted.append(mixture.out(sum(share * answer for share, answer in zip(gate, answers, strict=True))))
    torch.testing.assert_close(mixture(image, text), torch.stack(wanted))


def test_fusion_is_the_norm_of_two_looks_of_the_spots_context() -> None:
    trunk = Trunk(TrunkConfig.model_validate(TRUNK), features=FEATURES, genes=GENES, branches=("target",)).eval()
    spots = made_spots()
    scales = trunk(spots)
    block = trunk.fusion.blocks[0]

    def look(query: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        found = query + attend(block.attention, block.norm(query), block.norm_keys(keys), mask)
        return found + block.feed(found)

    for spot in range(SPOTS):
        query, mask = scales.context[spot : spot + 1], spots.neighbour_mask[spot]
        total = look(query, scales.target[spot], None) + look(query, scales.neighbour[spot], mask)
        centred = total - total.mean()
        wanted = centred / torch.sqrt((centred**2).mean() + 1e-5) * trunk.fusion.norm.weight + trunk.fusion.norm.bias
        torch.testing.assert_close(scales.fused[spot], wanted[0])


def test_expression_encoder_is_a_residual_under_a_norm() -> None:
    encoder = ExpressionEncoder(GENES, DIM, dropout=0.3).eval()
    labels = torch.randn(SPOTS, GENES)
    hidden = labels @ encoder.first.weight.T + encoder.first.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    inner = encoder.second[1]
    total = hidden + gelu @ inner.weight.T + inner.bias
    centred = total - total.mean(dim=-1, keepdim=True)
    normed = centred / torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + 1e-5)
    wanted = (normed * encoder.norm.weight + encoder.norm.bias) @ encoder.out.weight.T + encoder.out.bias
    torch.testing.assert_close(encoder(labels), wanted)


def branches_of(network: nn.Module, spots: Spots, names: tuple[str, ...]) -> dict[str, Tensor]:
    """What each scale's linear head makes of its tokens' mean over those that exist."""
    scales = network.trunk(spots)
    shown = spots.neighbour_mask[..., None]
    pooled = {
        "target": scales.target.mean(dim=1),
        "neighbour": (scales.neighbour * shown).sum(dim=1) / shown.sum(dim=1),
        "context": scales.context,
        "fused": scales.fused,
    }
    return {name: network.trunk.heads[name](pooled[name]) for name in names}


def test_the_whole_loss_of_domainst() -> None:
    config = {"trunk": TRUNK, "dropout": 0.0, "correlation": 0.0}
    text = torch.randn(GENES, TEXT)
    network = DomainSt(DomainStConfig.model_validate(config), features=FEATURES, genes=GENES, panel_text=text)
    # Predictions vary by about 1, beside which what keeps the correlation of a constant finite is nothing.
    network.read.weight.data.mul_(100)
    spots, labels, rows = made_spots(), torch.randn(SPOTS, GENES), torch.tensor([1, 4, 5, 9])
    predicted, truth = network(spots)[rows], labels[rows]
    wanted = mse(predicted, truth)
    for branch in branches_of(network, spots, ("target", "neighbour", "context")).values():
        wanted = wanted + 0.7 * mse(branch[rows], truth) + 0.3 * mse(predicted, branch[rows])
    found = network.losses(spots, labels, rows=rows, genes=torch.arange(GENES))
    torch.testing.assert_close(found.total, wanted)
    # Ours: half of 1 - Pearson besides.
    network.config = network.config.model_copy(update={"correlation": 0.5})
    more = network.losses(spots, labels, rows=rows, genes=torch.arange(GENES))
    assert float(more.total.detach()) == pytest.approx(
        float(wanted.detach()) + 0.5 * pearson_loss(predicted, truth), abs=1e-5
    )


@pytest.mark.parametrize(("weights", "thrice"), [("adaptive", 3.0), ("reciprocal", 1.0)])
def test_the_whole_loss_of_dkan(weights: str, thrice: float) -> None:
    released = {"keys": "fused", "direct": False, "correlation": 0.0, "contrast_rows": None, "weights": weights}
    paths = {"image": QUIET, "expression": QUIET, "text": QUIET}
    config = DkanConfig.model_validate({"trunk": TRUNK, "temperature": 0.08, **paths, **released})
    network = Dkan(config, features=FEATURES, genes=GENES, panel_text=torch.randn(GENES, TEXT))
    spots, labels, rows = made_spots(), torch.randn(SPOTS, GENES), torch.tensor([0, 3, 7])
    tokens, fused, measured = network.genes(), network.trunk(spots).fused, network.encode(labels)

    def path(encoder: nn.Module, key: Tensor) -> Tensor:
        """Gene tokens that look at one key, whose softmax is 1: every gene is given the same value."""
        block = encoder.blocks[0]
        value = (block.norm_keys(key) @ block.attention.key_value.weight.T)[DIM:]
        found = tokens + block.attention.out(value)
        return encoder.norm(found + block.feed(found))

    image = torch.stack([path(network.image, fused[row]) for row in rows])
    expression = torch.stack([path(network.expression, measured[row]) for row in rows])
    predicted, truth = (image @ network.read.weight.T + network.read.bias)[..., 0], labels[rows]
    torch.testing.assert_close(network(spots)[rows], predicted)
    supervised = mse(predicted, truth)
    for branch in branches_of(network, spots, ("target", "neighbour", "context", "fused")).values():
        supervised = supervised + 0.7 * mse(branch[rows], truth) + 0.3 * mse(branch[rows], predicted)
    pairs_image, pairs_expression = image.reshape(-1, DIM), expression.reshape(-1, DIM)
    cosines = torch.stack([functional.cosine_similarity(one[None], pairs_expression) for one in pairs_image]) / 0.08
    contrast = -(cosines.diagonal() - torch.log(torch.exp(cosines).sum(dim=1))).mean()
    total = contrast + thrice * supervised
    wanted = contrast / total * supervised + thrice * supervised / total * contrast
    found = network.losses(spots, labels, rows=rows, genes=torch.arange(GENES))
    torch.testing.assert_close(found.parts["supervised"], supervised)
    torch.testing.assert_close(found.parts["contrastive"], contrast)
    torch.testing.assert_close(found.total, wanted)
    assert len(pairs_image) == len(rows) * GENES


def quiet_alignst(**changes: object) -> AlignSt:
    config = AlignStConfig.model_validate(
        {"dim": DIM, "heads": 2, "input_dropout": 0, "dropout": 0, "alike": 2, **changes}
    )
    return AlignSt(config, features=FEATURES, genes=GENES, panel_text=torch.randn(GENES, TEXT))


def test_the_whole_loss_and_head_of_alignst() -> None:
    network, spots = quiet_alignst(), made_spots()
    labels, rows, genes = torch.randn(SPOTS, GENES), torch.tensor([0, 2, 5, 6, 11]), torch.tensor([4, 1, 2])
    patches = network.patch(network.means(spots.target.mean(dim=1), spots.neighbour, spots.neighbour_mask))
    patches = network.graph(patches, spots.context, spots.grid_xy)
    embedding = network._embed(None, patches)
    w = embedding @ network.weight.weight.T + network.weight.bias
    w = w / torch.sqrt((w**2).sum(dim=1, keepdim=True))
    b = embedding @ network.bias.weight[0] + network.bias.bias
    wanted = torch.stack([torch.stack([(h * w[gene]).sum() + b[gene] for gene in range(GENES)]) for h in patches])
    torch.testing.assert_close(network(spots), wanted)
    found = network.losses(spots, labels, rows=rows, genes=genes)
    predicted, truth = wanted[rows][:, genes], labels[rows][:, genes]
    loss = float(mse(predicted, truth).detach()) + 0.5 * pearson_loss(predicted, truth)
    assert float(found.total.detach()) == pytest.approx(loss, abs=1e-5)


def test_the_nuclei_channel_is_five_convolutions_that_a_patch_attends_to() -> None:
    channel = NucleiChannel(DIM, width=4, heads=2, dropout=0.0).eval()
    for part in channel.maps:
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    patch, nuclei = torch.randn(3, DIM), torch.rand(3, 2, 16, 16)
    maps = nuclei
    for layer in range(5):
        convolution, norm = channel.maps[3 * layer], channel.maps[3 * layer + 1]
        assert convolution.weight.shape[2:] == (3, 3)
        maps = functional.conv2d(maps, convolution.weight, stride=2 if layer % 2 == 0 else 1, padding=1)
        scale = norm.weight / torch.sqrt(norm.running_var + 1e-5)
        maps = torch.clamp(
            (maps - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None], min=0
        )
    assert maps.shape == (3, 4, 2, 2)
    keys = [torch.stack([channel.widen(one[:, y, x]) for y in range(2) for x in range(2)]) for one in maps]
    wanted = [one + attend(channel.attention, one[None], key)[0] for one, key in zip(patch, keys, strict=True)]
    torch.testing.assert_close(channel(patch, nuclei), torch.stack(wanted))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_prompts_are_mixed_at_the_rate_alpha(alpha: float) -> None:
    config = AlignStConfig(dim=DIM, heads=2, text_layers=1, dropout=0, prompts=3, prompt_rate=alpha)
    encoder = GeneEncoder(config)
    genes, patches = torch.randn(GENES, DIM), torch.randn(SPOTS, DIM)
    seen: list[Tensor] = []
    encoder.text.append(Watch(seen))
    encoder.visual.append(encoder.visual[0])
    encoder.project.append(encoder.project[0])
    encoder.gate.append(encoder.gate[0])
    encoder(genes, patches)
    visual = encoder.visual[0](encoder.visual_prompt[None], patches[None])[0]
    brought = visual @ encoder.project[0].weight.T + encoder.project[0].bias
    for gene in range(GENES):
        tokens = torch.cat([encoder.start, encoder.text_prompt, genes[gene : gene + 1]])
        after = encoder.text[0](tokens[None])[0]
        own = after[1:4]
        gate = 1 / (
            1 + torch.exp(-(torch.cat([own, brought], dim=1) @ encoder.gate[0].weight.T + encoder.gate[0].bias))
        )
        wanted = torch.cat([after[:1], (1 - alpha) * own + alpha * gate * brought, after[4:]])
        torch.testing.assert_close(seen[0][gene], wanted)


class Watch(nn.Module):
    """A layer that keeps what it is given."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append(tokens)
        return tokens


def test_genes_interact_by_a_tanh_attention_beside_themselves() -> None:
    layer = GeneInteraction(DIM, alike=2)
    genes, panel, near = torch.randn(3, DIM), torch.randn(GENES, DIM), torch.tensor([[0, 4], [2, 1], [3, 0]])
    wanted = []
    for z, places in zip(genes, near, strict=True):
        first, last = layer.score[0], layer.score[2]
        scores = torch.stack([last(torch.tanh(first(torch.cat([z, panel[place]])))) for place in places])[:, 0]
        weights = torch.exp(scores) / torch.exp(scores).sum()
        neighbours = sum(weight * panel[place] for weight, place in zip(weights, places, strict=True))
        wanted.append(layer.out.weight @ torch.cat([z, neighbours]) + layer.out.bias)
    torch.testing.assert_close(layer(genes, panel, near), torch.stack(wanted))


def test_a_graphsage_layer_joins_a_patch_with_the_mean_of_its_neighbours() -> None:
    config = AlignStConfig(dim=DIM, graph_layers=1, nearest=0, dropout=0)
    graph, spots, patches = SpotGraph(config), made_spots(), torch.randn(SPOTS, DIM)
    layer, norm = graph.layers[0], graph.norms[0]
    wanted = []
    for spot in range(SPOTS):
        x, y = spots.grid_xy[spot].tolist()
        near = [o for o, (a, b) in enumerate(spots.grid_xy.tolist()) if o != spot and max(abs(a - x), abs(b - y)) <= 1]
        joined = torch.cat([patches[spot], patches[near].mean(dim=0)])
        total = patches[spot] + torch.clamp(layer.weight @ joined + layer.bias, min=0)
        wanted.append(norm.weight * (total - total.mean()) / torch.sqrt(total.var(correction=0) + 1e-5) + norm.bias)
    torch.testing.assert_close(graph(patches, spots.context, spots.grid_xy), torch.stack(wanted))


def test_bleeps_loss_aims_at_the_likeness_within_both_sides() -> None:
    config = BleepConfig(dim=DIM, dropout=0.0, temperature=0.7)
    network = Bleep(config, features=FEATURES, genes=GENES, panel_text=None)
    spots, labels, rows = made_spots(), torch.randn(SPOTS, GENES), torch.tensor([2, 3, 8, 10])
    image = network.image(spots.target.mean(dim=1)[rows]).detach().numpy()
    expression = network.expression(labels[rows]).detach().numpy()

    def softmax(values: np.ndarray) -> np.ndarray:
        raised = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    across = image @ expression.T / 0.7
    aim = softmax((image @ image.T + expression @ expression.T) / 2 / 0.7)
    one = -(aim * np.log(softmax(across))).sum(axis=1).mean()
    # The other direction aims at the transposed likeness, with rows brought to a sum of 1.
    back = aim.T / aim.T.sum(axis=1, keepdims=True)
    other = -(back * np.log(softmax(across.T))).sum(axis=1).mean()
    found = network.losses(spots, labels, rows=rows, genes=torch.arange(GENES))
    assert float(found.total.detach()) == pytest.approx((one + other) / 2)


def test_bleep_retrieves_the_mean_of_the_nearest_training_spots() -> None:
    network = Bleep(BleepConfig(dim=DIM, retrieved=3), features=FEATURES, genes=GENES, panel_text=None).eval()
    known, spots = torch.randn(20, GENES), made_spots()
    network.remember(known)
    found = network(spots)
    bank = network.expression(known)
    for spot in range(SPOTS):
        query = network.image(spots.target[spot].mean(dim=0)[None])
        near = functional.cosine_similarity(query, bank).argsort(descending=True)[:3]
        torch.testing.assert_close(found[spot], known[near].mean(dim=0))
