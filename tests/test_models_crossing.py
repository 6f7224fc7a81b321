"""Feature crossing against its formulas, in values and gradients, and as a part of the network."""

import itertools
import math

import numpy as np
import pytest
import torch

from models.backbones.base import BackboneConfig
from models.crossing import CrossNetwork, FactorisationMachine
from models.embedding import FieldOptions
from models.entire_space import EntireSpaceModel, ModelConfig
from models.objectives.base import TOWER

ROWS = (5, 7, 4)


def network(crossing: str = "none", options: tuple[FieldOptions, ...] | None = None, **settings) -> EntireSpaceModel:
    backbone = BackboneConfig(experts=2, expert_hidden=(8, 6))
    config = ModelConfig(embedding_width=4, embedding_scale=0.5, backbone=backbone, crossing=crossing, **settings)
    return EntireSpaceModel(config, ROWS, 2, ("ctr", "cvr"), seed=3, options=options)


def batch(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draws = np.random.default_rng(0)
    begins = np.cumsum([0, *ROWS[:-1]])
    ids = np.stack([begin + draws.integers(0, size, rows) for begin, size in zip(begins, ROWS, strict=True)], 1)
    return torch.from_numpy(ids), torch.from_numpy(draws.normal(size=(rows, 2)).astype(np.float32))


def test_a_machine_sums_the_products_of_all_pairs() -> None:
    torch.manual_seed(0)
    machine = FactorisationMachine(3 * 4 + 2, (4, 4, 4), 2).double()
    machine.first.data.normal_()
    machine.second.data.normal_()
    x_BI = torch.randn(6, 14, dtype=torch.float64)
    fields = x_BI[:, :12].view(6, 3, 4)
    for task in range(2):
        pairs = sum(fields[:, f] * fields[:, g] for f, g in itertools.combinations(range(3), 2))
        expected = x_BI @ machine.first[task] + pairs @ machine.second[task]
        torch.testing.assert_close(machine(x_BI)[task], expected)
    assert torch.autograd.gradcheck(machine, (x_BI.requires_grad_(),))


def test_fields_are_crossed_with_those_of_their_own_width() -> None:
    machine = FactorisationMachine(2 + 3 + 2 + 3 + 1, (2, 3, 2, 3), 1)
    x_BI = torch.randn(5, 11)
    one, two, three, four = x_BI[:, :2], x_BI[:, 2:5], x_BI[:, 5:7], x_BI[:, 7:10]
    torch.testing.assert_close(machine(x_BI)[0], (one * three).sum(1) + (two * four).sum(1))
    with pytest.raises(ValueError, match="two categorical features of the same embedding width"):
        FactorisationMachine(5, (2, 3), 1)


@pytest.mark.parametrize("rank", [0, 2])
def test_cross_layers_follow_their_formula(rank: int) -> None:
    torch.manual_seed(1)
    cross = CrossNetwork(5, layers=3, rank=rank)
    x = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    level = x
    for index, layer in enumerate(cross.layers):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        below = level @ cross.down[index].weight.detach().numpy().T if rank else level
        level = x * (below @ weight.T + bias) + level
    np.testing.assert_allclose(cross(torch.from_numpy(x)).detach().numpy(), level, rtol=1e-5, atol=1e-6)
    parameters = sum(parameter.numel() for parameter in cross.parameters())
    assert parameters == 3 * ((2 * 5 * rank if rank else 25) + 5)


def test_the_networks_logits_are_the_towers_plus_the_pairs() -> None:
    plain, crossed = network().eval(), network("fm").eval()
    ids, numeric = batch()
    vectors = [plain.embedding.tables[0].weight[ids[:, k]] for k in range(3)]
    products = sum((a * b).sum(1) for a, b in itertools.combinations(vectors, 2))
    for task in ("ctr", "cvr"):
        expected = plain(ids, numeric)[task] + products
        torch.testing.assert_close(crossed(ids, numeric)[task], expected)


@pytest.mark.parametrize("crossing", ["fm", "dcn_v2"])
def test_other_parts_begin_as_without_crossing(crossing: str) -> None:
    plain, crossed = network().state_dict(), network(crossing).state_dict()
    assert set(plain) < set(crossed)
    assert all(torch.equal(plain[name], crossed[name]) for name in plain)


def test_what_ends_in_the_tower_does_not_move_the_shared_embedding() -> None:
    model = network("fm").train()
    model.ending = ("cvr",)
    logits = model(*batch())
    torch.testing.assert_close(logits["cvr"], logits["cvr" + TOWER])
    logits["cvr" + TOWER].sum().backward()
    table = model.embedding.tables[0]
    assert float(table.touched.gradient().abs().sum()) == 0
    assert float(model.pairs.first.grad[1].abs().sum()) > 0
    assert float(model.pairs.first.grad[0].abs().sum()) == 0


@pytest.mark.parametrize("crossing", ["fm", "dcn_v2"])
def test_fields_of_own_widths_and_empty_batches(crossing: str) -> None:
    options = (FieldOptions(width=2), FieldOptions(), FieldOptions(width=2))
    model = network(crossing, options).train()
    assert model.embedding.output_widths == (2, 2, 4)
    logits = model(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 2))
    sum(logit.sum() for logit in logits.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in model.parameters())


def test_a_machine_learns_an_interaction_that_sums_cannot() -> None:
    """y = the parity of two fields: a logistic regression's log-loss stays at log 2."""
    config = ModelConfig(
        embedding_width=4,
        embedding_scale=0.3,
        tower_hidden=(),
        crossing="fm",
        backbone=BackboneConfig(name="shared_bottom", expert_hidden=(1,)),
    )
    model = EntireSpaceModel(config, (2, 2), 0, ("ctr",), seed=0).train()
    draws, target = parity()
    table = model.embedding.tables[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = loss_of(model(draws + torch.tensor([0, 2]), torch.zeros(256, 0))["ctr"], target)
        loss.backward()
        optimizer.step()
        table.weight.index_add_(0, table.touched.ids_U, table.touched.gradient(), alpha=-3.0)
    assert float(loss.detach()) < 0.1 * math.log(2)


@pytest.mark.parametrize(("layers", "best"), [(0, math.log(2)), (1, 0.0)])
def test_a_cross_layer_learns_it_for_a_linear_read_out(layers: int, best: float) -> None:
    torch.manual_seed(0)
    draws, target = parity()
    model = torch.nn.Sequential(CrossNetwork(2, layers, 0), torch.nn.Linear(2, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss = loss_of(model(2.0 * draws - 1).squeeze(1), target)
        loss.backward()
        optimizer.step()
    assert abs(float(loss.detach()) - best) < 0.1 * math.log(2)


def parity() -> tuple[torch.Tensor, torch.Tensor]:
    """256 rows of two fields of two values each, and whether they differ."""
    draws = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (256, 2)))
    return draws, (draws[:, 0] ^ draws[:, 1]).float()


def loss_of(logit: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logit, target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crossing": "fmm"}, "model.crossing must be one of none, fm, dcn_v2, got 'fmm'"),
        ({"cross_layers": 0}, "model.cross_layers must be at least 1"),
        ({"cross_rank": -1}, "model.cross_rank must be at least 0"),
    ],
)
def test_bad_settings_name_their_key(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)
