"""Backbones against slow loops over experts and tasks, the identities between them, and what all of them owe."""

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone, BackboneConfig
from models.backbones.cgc import CGC, ExtractionLevel
from models.backbones.mmoe import MMoE
from models.backbones.omoe import OMoE
from models.backbones.ple import PLE
from models.layers import Experts, GroupLinear
from models.registry import BACKBONES, build_backbone

INPUTS, HIDDEN = 6, (5, 4)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def rows(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, INPUTS, generator=torch.Generator().manual_seed(seed))


def config(**settings) -> BackboneConfig:
    return BackboneConfig(**{"expert_hidden": HIDDEN, **settings})


def expert_by_hand(experts: Experts, index: int, x_BI: Tensor) -> Tensor:
    """One expert alone, layer by layer."""
    wide = experts.first.out_features // experts.experts
    part = slice(wide * index, wide * (index + 1))
    h = torch.relu(x_BI @ experts.first.weight[part].T + experts.first.bias[part])
    for weight, bias in zip(experts.weights, experts.biases, strict=True):
        h = torch.relu(h @ weight[index] + bias[index])
    return h


def level_by_hand(level: ExtractionLevel, inputs: list[Tensor]) -> list[Tensor]:
    """Tang et al. 2020 written down as loops: inputs and results are one tensor per task, then the shared one."""
    own, shared, tasks = level.own, level.shared, level.tasks
    outputs = []  # task 0's experts, task 1's, ..., the shared ones
    for group, count in enumerate([own] * tasks + [shared]):
        outputs += [expert_by_hand(level.experts, own * group + i, inputs[group]) for i in range(count)]
    mixtures = []
    for task in range(tasks):
        seen = outputs[own * task : own * (task + 1)] + outputs[own * tasks :]
        weight = level.gates.weight[(own + shared) * task : (own + shared) * (task + 1)]
        gate = (inputs[task] @ weight.T).softmax(1)
        mixtures.append(sum(gate[:, i : i + 1] * output for i, output in enumerate(seen)))
    if level.shared_gate is not None:
        gate = (inputs[tasks] @ level.shared_gate.weight.T).softmax(1)
        mixtures.append(sum(gate[:, i : i + 1] * output for i, output in enumerate(outputs)))
    return mixtures


@pytest.mark.parametrize("bias", [True, False])
def test_group_linear_is_one_linear_layer_per_group(bias: bool) -> None:
    torch.manual_seed(0)
    layer = GroupLinear(3, INPUTS, 4, bias=bias)
    x_GBI = torch.randn(3, 8, INPUTS)
    for group in range(3):
        part = slice(4 * group, 4 * (group + 1))
        offset = layer.bias[part] if bias else 0.0
        torch.testing.assert_close(layer(x_GBI[0])[group], x_GBI[0] @ layer.weight[part].T + offset, **CLOSE)
        torch.testing.assert_close(layer(x_GBI)[group], x_GBI[group] @ layer.weight[part].T + offset, **CLOSE)


def test_experts_may_each_read_an_input_of_their_own() -> None:
    torch.manual_seed(1)
    experts = Experts(INPUTS, experts=3, hidden=HIDDEN)
    x_XBI = torch.randn(3, 8, INPUTS)
    outputs_BXH = experts(x_XBI)
    for index in range(3):
        torch.testing.assert_close(outputs_BXH[:, index], expert_by_hand(experts, index, x_XBI[index]), **CLOSE)
    same_BXH = experts(x_XBI[0].expand(3, 8, INPUTS))
    torch.testing.assert_close(same_BXH, experts(x_XBI[0]), **CLOSE)


def test_omoe_is_its_formula() -> None:
    torch.manual_seed(2)
    omoe = OMoE(INPUTS, tasks=3, config=config(experts=3))
    x_BI = rows()
    gate_BX = (x_BI @ omoe.gate.weight.T).softmax(1)
    expected = sum(gate_BX[:, i : i + 1] * expert_by_hand(omoe.experts, i, x_BI) for i in range(3))
    mixtures = omoe(x_BI)
    assert len(mixtures) == 3
    for mixture_BH in mixtures:
        torch.testing.assert_close(mixture_BH, expected, **CLOSE)


@pytest.mark.parametrize(("own", "shared", "tasks"), [(1, 2, 2), (3, 1, 2), (2, 2, 4), (0, 3, 2), (2, 0, 3)])
def test_cgc_is_its_formula(own: int, shared: int, tasks: int) -> None:
    torch.manual_seed(3)
    cgc = CGC(INPUTS, tasks, config(task_experts=own, shared_experts=shared))
    x_BI = rows()
    expected = level_by_hand(cgc.level, [x_BI] * (tasks + 1))
    for ours, theirs in zip(cgc(x_BI), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize(("own", "shared", "tasks", "levels"), [(1, 2, 2, 2), (2, 1, 3, 3), (0, 3, 2, 2), (2, 0, 2, 2)])
def test_ple_is_its_formula(own: int, shared: int, tasks: int, levels: int) -> None:
    torch.manual_seed(4)
    ple = PLE(INPUTS, tasks, config(task_experts=own, shared_experts=shared, levels=levels))
    x_BI = rows()
    inputs = [x_BI] * (tasks + 1)
    for level in ple.levels:
        inputs = level_by_hand(level, inputs)
    for ours, theirs in zip(ple(x_BI), inputs, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


# --- identities ----------------------------------------------------------------------------------------------------


def test_mmoe_with_tied_gates_is_omoe() -> None:
    omoe, mmoe = OMoE(INPUTS, 2, config(experts=3)), MMoE(INPUTS, 2, config(experts=3))
    mmoe.experts.load_state_dict(omoe.experts.state_dict())
    mmoe.gates.weight.data = omoe.gate.weight.data.repeat(2, 1)
    for ours, theirs in zip(omoe(rows()), mmoe(rows()), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_ple_with_one_level_is_cgc() -> None:
    ple, cgc = PLE(INPUTS, 3, config(levels=1)), CGC(INPUTS, 3, config())
    cgc.level.load_state_dict(ple.levels[0].state_dict())  # strict: the parameters are the same, too
    for ours, theirs in zip(ple(rows()), cgc(rows()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_cgc_without_own_experts_is_mmoe() -> None:
    cgc, mmoe = CGC(INPUTS, 2, config(task_experts=0, shared_experts=3)), MMoE(INPUTS, 2, config(experts=3))
    mmoe.experts.load_state_dict(cgc.level.experts.state_dict())
    mmoe.gates.load_state_dict(cgc.level.gates.state_dict())
    for ours, theirs in zip(cgc(rows()), mmoe(rows()), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_no_gradient_from_one_task_to_anothers_own_experts() -> None:
    """In CGC, and in PLE with one level; the shared mixture of a PLE of two levels lets it through by design."""
    cgc = CGC(INPUTS, 2, config(task_experts=1, shared_experts=1))
    cgc(rows())[0].sum().backward()
    own, other, shared = cgc.level.experts.weights[0].grad.abs().sum(dim=(1, 2))
    assert (own > 0, other == 0, shared > 0) == (True, True, True)


# --- what every backbone owes --------------------------------------------------------------------------------------


def build(name: str, tasks: int = 3, **settings) -> Backbone:
    torch.manual_seed(5)
    return build_backbone(config(name=name, **settings), INPUTS, tasks)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_any_number_of_tasks_and_rows(name: str) -> None:
    for tasks in (1, 2, 5):
        backbone = build(name, tasks)
        for count in (0, 1, 7):
            representations = backbone(rows(count))
            assert [h.shape for h in representations] == [(count, backbone.output_width)] * tasks
    assert backbone.output_width == HIDDEN[-1]


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_parameter_learns(name: str) -> None:
    backbone = build(name)
    sum((task + 1) * h_BH.square().sum() for task, h_BH in enumerate(backbone(rows(64)))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_dropout_acts_in_training_alone_and_keeps_the_mean(name: str) -> None:
    backbone = build(name, expert_hidden=(4,), dropout=0.5, levels=1)
    x_BI = rows(4)
    assert torch.equal(backbone.eval()(x_BI)[0], backbone(x_BI)[0])
    expected_BH = backbone(x_BI)[0]
    backbone.train()
    assert not torch.equal(backbone(x_BI)[0], backbone(x_BI)[0])
    many_BH = torch.stack(backbone(x_BI.repeat(4000, 1))[0].view(4000, 4, -1).unbind(0)).mean(0)
    torch.testing.assert_close(many_BH, expected_BH, rtol=0.15, atol=0.02)  # one hidden layer: the mean is kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared_experts": -1}, r"model\.backbone\.shared_experts must be at least 0"),
        ({"task_experts": -1}, r"model\.backbone\.task_experts must be at least 0"),
        ({"levels": 0}, r"model\.backbone\.levels must be at least 1"),
        ({"shared_experts": 0, "task_experts": 0}, "a task needs an expert"),
    ],
)
def test_bad_settings_name_their_key(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackboneConfig(**settings)
