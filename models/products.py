"""Linear layers in float32 on a CPU by oneDNN: torch leaves these products to MKL.

Where a processor has AVX-512 but is not Intel's, MKL takes its AVX2 path and oneDNN is twice as fast
(docs/performance.md). n rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

WORTH_IT = 2**21  # multiplications below which setting up a product of a new shape costs more than it gains


def linear(inputs: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """torch.nn.functional.linear, by the faster of the two libraries."""
    if not worth_it(inputs, weight_OI):
        return F.linear(inputs, weight_OI, bias_O)
    outputs_nO = _Linear.apply(inputs.reshape(-1, inputs.shape[-1]), weight_OI, bias_O)
    return outputs_nO.view(*inputs.shape[:-1], -1)


def worth_it(inputs: Tensor, weight_OI: Tensor) -> bool:
    """Whether oneDNN gets it: sharded weights, autocast and other devices or types are torch's own business."""
    plain = inputs.device.type == "cpu" and inputs.dtype == weight_OI.dtype == torch.float32
    large = inputs.numel() * len(weight_OI) >= WORTH_IT
    return plain and large and torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")


def times(a_nI: Tensor, b_OI: Tensor, bias_O: Tensor | None = None, gelu: bool = False) -> Tensor:
    """a b^T + bias, or the GELU of it by tanh, without a gradient."""
    after, kind = ("gelu", "tanh") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(a_nI, b_OI, bias_O, after, [], kind)


class _Linear(torch.autograd.Function):
    """Y = X W^T + b;  dX = dY W,  dW = dY^T X,  db = sum of dY over rows."""

    @staticmethod
    def forward(ctx: Any, inputs_nI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs_nI, weight_OI)
        return times(inputs_nI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inputs_nI, weight_OI), grad_nO = ctx.saved_tensors, gradients[0]
        inputs, weight, bias = ctx.needs_input_grad
        weight_grad_OI = None
        if weight:  # the shorter side first, which is the faster way round
            outputs, width = weight_OI.shape
            t_OI = outputs <= width
            weight_grad_OI = times(grad_nO.t(), inputs_nI.t()) if t_OI else times(inputs_nI.t(), grad_nO.t()).t()
        return (
            times(grad_nO, weight_OI.t()) if inputs else None,
            weight_grad_OI,
            grad_nO.sum(0) if bias else None,
        )


class Linear(nn.Linear):
    """torch's layer through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        return linear(input, self.weight, self.bias)


class GPT2Linear(Conv1D):
    """GPT-2's layer, whose weight is [I, O], through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        return linear(x, self.weight.t(), self.bias)


FASTER = {nn.Linear: Linear, Conv1D: GPT2Linear}


def with_faster_products(model: nn.Module) -> nn.Module:
    """The model, its linear layers turned into those of this file; weights and names stay."""
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))
    return model
