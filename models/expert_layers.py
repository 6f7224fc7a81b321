"""The layers of a mixture's experts, and the gates that read the same input, as one node of the graph.

Experts and gates of one input are one matrix product forward and two backward; ReLU and its derivative are taken where
the numbers lie. Against one node a layer that saves a product with each gate, its sum into the gradient of the input,
and five passes over the largest tensor of a step, which is in no cache any more when it is read again.

Shapes: B rows, I inputs, X experts, H widths of their layers, G gate logits in all.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

IMAGES, LEAST = 16, 2048
"""From so many images on torch gives a convolution of single points to oneDNN; with fewer rows MKL is as fast."""


class ExpertLayers(torch.autograd.Function):
    """(X, x_BI, gates_GI, first weight (X H, I), first bias (X H), then weight_XIH and bias_X1H of each layer after it)
    -> (outputs_BXH after ReLU, logits_BG = x gates^T).

    With y_1 = relu(x W_1^T + b_1) and y_l = relu(y_(l-1) W_l + b_l); the derivative of ReLU at 0 is 0, as torch's.
    """

    @staticmethod
    def forward(
        ctx: Any, experts: int, x_BI: Tensor, gates_GI: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor
    ) -> Any:
        width = len(weight)
        both = torch.cat([weight, gates_GI])
        bias_of_both = torch.cat([bias, bias.new_zeros(len(gates_GI))])
        first = product(x_BI, both, bias_of_both)
        torch.relu_(first[:, :width])
        h_XBH = by_expert(first[:, :width], experts)
        layers = []
        for weight_XIH, bias_X1H in zip(rest[::2], rest[1::2], strict=True):
            h_XBH = torch.relu_(torch.baddbmm(bias_X1H, h_XBH, weight_XIH))
            layers.append(h_XBH)
        ctx.save_for_backward(x_BI, both, first, *layers, *rest[::2])
        ctx.width, ctx.experts = width, experts
        return h_XBH.transpose(0, 1), first[:, width:].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BXH: Tensor, grad_BG: Tensor) -> Any:
        x_BI, both, first, *saved = ctx.saved_tensors
        width, experts = ctx.width, ctx.experts
        layers, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        inputs = [by_expert(first[:, :width], experts), *layers]
        found: list[Tensor] = []
        grad = torch.empty_like(first)
        first_XBH = by_expert(grad[:, :width], experts)
        grad_XBH = grad_BXH.transpose(0, 1)
        for layer in reversed(range(len(layers))):
            own_XBH = torch.ops.aten.threshold_backward(grad_XBH, layers[layer], 0)
            found = [torch.bmm(inputs[layer].transpose(1, 2), own_XBH), own_XBH.sum(1, keepdim=True), *found]
            back_XHI = weights[layer].transpose(1, 2)
            grad_XBH = torch.bmm(own_XBH, back_XHI) if layer else torch.bmm(own_XBH, back_XHI, out=first_XBH)
        # in place where a product has just written it
        torch.ops.aten.threshold_backward.grad_input(
            grad[:, :width] if layers else grad_BXH.flatten(1), first[:, :width], 0, grad_input=grad[:, :width]
        )
        grad[:, width:] = grad_BG
        grad_both = grad.t() @ x_BI
        grad_x = product(grad, both.t()) if ctx.needs_input_grad[1] else None
        return None, grad_x, grad_both[width:], grad_both[:width], grad[:, :width].sum(0), *found


def product(x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b (B, O); on a CPU as a convolution of images of one column, if there are enough rows.

    They are the same numbers in the same places, but torch gives float32 products to MKL and convolutions to oneDNN,
    which needs 7 to 14% less time for those of a training step (Zen 4, one thread).
    """
    (rows, inputs), outputs = x_BI.shape, len(weight_OI)
    if rows < LEAST or rows % IMAGES or x_BI.device.type != "cpu" or x_BI.dtype != torch.float32:
        return functional.linear(x_BI, weight_OI, bias_O)
    images = x_BI.view(IMAGES, rows // IMAGES, 1, inputs).permute(0, 3, 1, 2)
    found = functional.conv2d(images, weight_OI.reshape(outputs, inputs, 1, 1), bias_O)
    return found.permute(0, 2, 3, 1).reshape(rows, outputs)


def by_expert(joined: Tensor, experts: int) -> Tensor:
    """The columns (B, X H) of all experts as (X, B, H), the same memory."""
    return joined.unflatten(1, (experts, -1)).transpose(0, 1)
