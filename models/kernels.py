"""Faster kernels for the layers of transformers' models on a CPU; the functions, weights and names stay.

Large products in float32 go to oneDNN, where torch takes MKL: on processors with AVX-512 that are not Intel's MKL keeps
to AVX2, and oneDNN is up to twice as fast (benchmarks/NOTES.md). GELU is part of the product before it where nothing is
learnt; else its approximation by tanh goes without tanh. In bfloat16 torch takes oneDNN itself, but attention and GELU
are slower than in float32. n rows, I inputs, O outputs, b entries of a block.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import GELUActivation, NewGELUActivation
from transformers.models.bert.modeling_bert import BertIntermediate
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.pytorch_utils import Conv1D

WORTH_IT = 2**21  # multiplications below which setting up a product of a new shape costs more than it gains
PLAIN = ("none", [], "")  # nothing behind oneDNN's product
ROWS = 64  # for which a weight is reordered: from a few rows on the order is the same


def linear(
    inputs: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, reordered_OI: Tensor | None = None
) -> Tensor:
    """torch.nn.functional.linear, large products by oneDNN; `reordered_OI` is the weight in its order."""
    if not _ours(inputs, weight_OI):
        return F.linear(inputs, weight_OI, bias_O)
    inputs_nI = inputs.reshape(-1, inputs.shape[-1])
    if torch.is_grad_enabled():
        outputs_nO = _Linear.apply(inputs_nI, bias_O, weight_OI)
    else:
        outputs_nO = _times(inputs_nI, weight_OI, bias_O, reordered_OI)
    return outputs_nO.view(*inputs.shape[:-1], len(weight_OI))


def _ours(inputs: Tensor, weight_OI: Tensor) -> bool:
    """Whether it is computed here: autocast and other devices or types are torch's own business."""
    plain = inputs.device.type == "cpu" and inputs.dtype == weight_OI.dtype and inputs.dtype in _multiplied()
    return plain and not torch.is_autocast_enabled("cpu")


def _worth_it(rows: int, weight_OI: Tensor) -> bool:
    return rows * weight_OI.numel() >= WORTH_IT


@functools.cache
def _multiplied() -> tuple[torch.dtype, ...]:
    """The types of numbers that oneDNN multiplies on this processor."""
    if not torch.backends.mkldnn.is_available():
        return ()
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


def _times(a_nI: Tensor, b_OI: Tensor, bias_O: Tensor | None = None, reordered_OI: Tensor | None = None) -> Tensor:
    """a b^T + bias."""
    if _worth_it(len(a_nI), b_OI):
        return torch.ops.mkldnn._linear_pointwise(a_nI, b_OI if reordered_OI is None else reordered_OI, bias_O, *PLAIN)
    return a_nI @ b_OI.t() if bias_O is None else torch.addmm(bias_O, a_nI, b_OI.t())


def spare(rows: int, device: torch.device) -> int:
    """How many rows to add on a CPU, at most one in 32, for products to have shapes that come again.

    oneDNN keeps something of each of the last 1024 shapes, in the midst of large arrays: with rows of always another
    number fine-tuning grew from 1 to 3 GiB in 400 steps. A smaller store of it takes 6 ms a product
    (benchmarks/NOTES.md).
    """
    return -rows % 2 ** max(0, rows.bit_length() - 6) if device.type == "cpu" else 0


class _Linear(torch.autograd.Function):
    """Y = X W^T + b;  dX = dY W,  dW = dY^T X,  db = sum of dY over rows.

    For every number of rows: DeepSpeed adds up the ranks' gradients as they come, and where one rank's product is worth
    it another's may not be. torch's own layer hands on the bias's gradient first, DeepSpeed's in ZeRO-3 the weight's.
    """

    @staticmethod
    def forward(ctx: Any, inputs_nI: Tensor, bias_O: Tensor | None, weight_OI: Tensor) -> Tensor:
        inputs, _, weight = ctx.needs_input_grad  # beside a frozen weight its inputs are not kept
        ctx.save_for_backward(inputs_nI if weight else None, weight_OI if inputs else None)
        return _times(inputs_nI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inputs_nI, weight_OI), grad_nO = ctx.saved_tensors, gradients[0]
        inputs, bias, weight = ctx.needs_input_grad
        weight_grad_OI = None
        if weight:  # the shorter side first, which is the faster way round
            t_OI = grad_nO.shape[1] <= inputs_nI.shape[1]
            weight_grad_OI = _times(grad_nO.t(), inputs_nI.t()) if t_OI else _times(inputs_nI.t(), grad_nO.t()).t()
        return (
            _times(grad_nO, weight_OI.t()) if inputs else None,
            grad_nO.sum(0) if bias else None,
            weight_grad_OI,
        )


class Linear(nn.Linear):
    """torch's layer through `linear`."""

    reordered_OI: Tensor | None = None

    @property
    def weight_OI(self) -> Tensor:
        """The weight as `linear` takes it."""
        return self.weight

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        return linear(input, self.weight_OI, self.bias, self.reordered_OI)


@contextlib.contextmanager
def reordered(layer: nn.Module) -> Iterator[None]:
    """Inside, small products find the layer's weight, which must stay as it is, in the order in which they read it."""
    if type(layer) is not Linear or not _ours(layer.weight, layer.weight) or not _worth_it(ROWS, layer.weight):
        yield
        return
    layer.reordered_OI = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
    try:
        yield
    finally:
        layer.reordered_OI = None


class GPT2Linear(Conv1D):
    """GPT-2's layer, whose weight is [I, O], through `linear`."""

    @property
    def weight_OI(self) -> Tensor:
        """The weight as `linear` takes it."""
        return self.weight.t()

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        return linear(x, self.weight_OI, self.bias)


class GPT2FeedForward(GPT2MLP):
    """GPT-2's layer through `linear_then_gelu`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., W] to [..., W]."""
        return self.dropout(self.c_proj(linear_then_gelu(self.c_fc, self.act, hidden_states)))


class BertFeedForward(BertIntermediate):
    """The first half of BERT's layer through `linear_then_gelu`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., W] to [..., I]."""
        return linear_then_gelu(self.dense, self.intermediate_act_fn, hidden_states)


def linear_then_gelu(layer: nn.Module, activation: nn.Module, inputs: Tensor) -> Tensor:
    """activation(layer(inputs)), in one kernel where it is a GELU behind a product of oneDNN and nothing is learnt.

    In bfloat16 never: the one kernel does not round in between, and what is read must be what is learnt from.
    """
    known = type(layer) in (Linear, GPT2Linear) and isinstance(activation, nn.GELU)
    # A weight sharded by ZeRO-3 is whole only in its layer's own forward pass.
    whole = known and inputs.dtype == torch.float32 and not hasattr(layer.weight, "ds_id")
    if not whole or torch.is_grad_enabled() or not _ours(inputs, layer.weight_OI):
        return activation(layer(inputs))
    inputs_nI = inputs.reshape(-1, inputs.shape[-1])
    if not _worth_it(len(inputs_nI), layer.weight_OI):
        return activation(layer(inputs))
    how = ("gelu", [], activation.approximate)
    outputs_nO = torch.ops.mkldnn._linear_pointwise(inputs_nI, layer.weight_OI, layer.bias, *how)
    return outputs_nO.view(*inputs.shape[:-1], -1)


class TanhGELU(nn.GELU):
    """GELU's approximation by tanh; on a CPU by a logistic function, whose kernel is six times as fast."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, input: Tensor) -> Tensor:
        """Of any shape."""
        plain = input.device.type == "cpu" and input.dtype in (torch.float32, torch.bfloat16)
        return _TanhGELU.apply(input) if plain else super().forward(input)


class _TanhGELU(torch.autograd.Function):
    """x (1 + tanh u) / 2 = x sigmoid(2 u) with 2 u = x (A + B x^2). What is kept is the derivative, not x.

    y = x s with s = sigmoid(2 u);  dy / dx = s + y (1 - s) (A + 3 B x^2).
    """

    A = math.sqrt(8 / math.pi)
    B = 0.044715 * A
    BLOCK = 2**18  # entries at a time, in float32: what is made on the way stays in cache

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        a, one = torch.tensor(_TanhGELU.A), torch.ones(())
        for first in range(0, x.numel(), _TanhGELU.BLOCK):
            block = slice(first, first + _TanhGELU.BLOCK)
            x_b = x.view(-1)[block].float()
            s_b = torch.addcmul(a, x_b, x_b, value=_TanhGELU.B).mul_(x_b).sigmoid_()
            y_b = x_b * s_b
            y.view(-1)[block] = y_b
            if slope is not None:
                more_b = torch.addcmul(a, x_b, x_b, value=3 * _TanhGELU.B).mul_(y_b)
                slope.view(-1)[block] = s_b.lerp_(one, more_b)
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return ctx.saved_tensors[0].mul_(gradients[0])  # in its place: new memory would take longer than the product


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """torch's scaled_dot_product_attention [..., H, S, D] with a mask that is added to the scores.

    Of bfloat16 on a CPU it is computed in float32: its kernel takes four times as long backwards.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        parts = (query.float(), key.float(), value.float())
        return F.scaled_dot_product_attention(*parts, None if mask is None else mask.float(), **options).bfloat16()
    return F.scaled_dot_product_attention(query, key, value, mask, **options)


FASTER = {nn.Linear: Linear, Conv1D: GPT2Linear, GPT2MLP: GPT2FeedForward, BertIntermediate: BertFeedForward}
GELUS = {NewGELUActivation: TanhGELU, GELUActivation: nn.GELU}  # the first is composed of eight kernels


def with_faster_kernels(model: nn.Module) -> nn.Module:
    """The model, its layers turned into those of this file."""
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))
        for name, child in list(module.named_children()):
            if type(child) in GELUS:
                setattr(module, name, GELUS[type(child)]())
    return model
