"""Experts and gates as one node of the graph against the same layers as autograd takes them."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.backbones.base import BackboneConfig
from models.expert_layers import LEAST, ExpertLayers, product
from models.layers import Experts
from models.registry import build_backbone


def tensors(hidden: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x (7, 5), gates (3, 5) and the weights of two experts of these widths."""
    torch.manual_seed(0)
    experts = Experts(5, 2, hidden).to(dtype)
    rest = [own for pair in zip(experts.weights, experts.biases, strict=True) for own in pair]
    own = [torch.randn(7, 5), torch.randn(3, 5), experts.first.weight, experts.first.bias, *rest]
    return [tensor.detach().to(dtype).requires_grad_() for tensor in own]


@pytest.mark.parametrize("hidden", [(4,), (4, 3), (4, 3, 2)])
def test_the_derivatives_are_those_of_finite_differences(hidden: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(lambda *own: ExpertLayers.apply(2, *own), tensors(hidden))


def test_outputs_are_those_of_the_formula() -> None:
    x_BI, gates_GI, weight, bias, weight_XIH, bias_X1H = tensors((4, 3))
    outputs_BXH, logits_BG = ExpertLayers.apply(2, x_BI, gates_GI, weight, bias, weight_XIH, bias_X1H)
    torch.testing.assert_close(logits_BG, x_BI @ gates_GI.T)
    for expert in range(2):
        part = slice(4 * expert, 4 * expert + 4)
        h_BH = torch.relu(x_BI @ weight[part].T + bias[part])
        torch.testing.assert_close(outputs_BXH[:, expert], torch.relu(h_BH @ weight_XIH[expert] + bias_X1H[expert]))


@pytest.mark.parametrize("name", ["mmoe", "omoe", "cgc", "ple"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backbones_train_alike_with_and_without_it(name: str, dtype: torch.dtype) -> None:
    """Equal but for the last bits: sums of products are taken in another order."""
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name, expert_hidden=(16, 8)), 12, 2).to(dtype)
    x_BI = torch.randn(50, 12, dtype=dtype)
    found = []
    for one_node in (True, False):
        for module in backbone.modules():
            if isinstance(module, Experts):
                module.one_node = one_node
        x = x_BI.clone().requires_grad_()
        backbone.zero_grad()
        outputs = backbone(x)
        assert any("ExpertLayers" in name_of(output) for output in outputs) == one_node
        torch.stack([(1 + task) * output.square().sum() for task, output in enumerate(outputs)]).sum().backward()
        found.append([*outputs, x.grad, *(weight.grad for weight in backbone.parameters())])
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def name_of(output: Tensor) -> str:
    """The nodes behind a tensor."""
    seen, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [further for further, _ in node.next_functions]
    return " ".join(node.name() for node in seen)


def test_an_input_without_gradient_costs_none() -> None:
    x_BI, *weights = tensors((4, 3))
    outputs_BXH, logits_BG = ExpertLayers.apply(2, x_BI.detach(), *weights)
    (outputs_BXH.sum() + logits_BG.sum()).backward()
    assert x_BI.grad is None
    assert all(weight.grad is not None for weight in weights)


def test_bfloat16_is_float32_within_its_rounding() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(expert_hidden=(16, 8)), 12, 2)
    x_BI = torch.randn(50, 12)
    exact = torch.stack(backbone(x_BI))
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.stack(backbone(x_BI))
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.02)
    rough.float().sum().backward()
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in backbone.parameters())


@pytest.mark.parametrize("rows", [LEAST, LEAST + 8, LEAST - 16, 0])
def test_a_product_is_that_of_a_linear_layer(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is taken as a convolution (rows that images share evenly, and enough of them) or not; the weight may
    be a transposed one."""
    asked, proper = [], functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *own: asked.append(1) or proper(*own))
    torch.manual_seed(0)
    x_BI, weight_IO, bias_O = torch.randn(rows, 24), torch.randn(24, 10), torch.randn(10)
    found_BO = product(x_BI, weight_IO.t(), bias_O)
    assert found_BO.is_contiguous()
    torch.testing.assert_close(found_BO, x_BI @ weight_IO + bias_O, rtol=1e-5, atol=1e-5)
    assert bool(asked) == (rows == LEAST)
    double = product(x_BI.double(), weight_IO.double().t())
    torch.testing.assert_close(double, x_BI.double() @ weight_IO.double(), rtol=1e-12, atol=1e-12)
