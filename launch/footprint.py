"""Memory and arithmetic of a stage from formulas: what `dry_run=true` predicts.

Memory of parameters, gradients and AdamW state is Rajbhandari et al. 2020; activations are what autograd keeps of one
micro-batch without recomputation, counted in this project's networks; arithmetic is two operations a weight and token,
and twice that again for a backward pass. The two shares are measured on CPU (docs/performance.md).
"""

import time
from dataclasses import dataclass

import torch
from torch import nn

from models.products import linear

READING = 0.58  # of the matmul rate is reached where whole sequences are read, forward or backward
DECODING = 0.39  # and where tokens are sampled one after the other


@dataclass(frozen=True)
class Shape:
    """A transformer as the formulas see it."""

    layers: int
    width: int
    inner: int  # width of the MLP
    gated: bool  # Llama's MLP has a gate
    vocabulary: int
    blocks: int  # parameters in all layers

    @classmethod
    def of(cls, model: nn.Module) -> "Shape":
        """Of a Hugging Face model, which may be on the meta device; its own weights, without adapters."""
        config = model.config.get_text_config()
        inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
        outside = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        if (head := model.get_output_embeddings()) is not None:
            outside.add(id(head.weight))
        own = {name: p for name, p in model.named_parameters() if id(p) not in outside and "lora_" not in name}
        blocks, gated = sum(p.numel() for p in own.values()), any("gate_proj" in name for name in own)
        return cls(config.num_hidden_layers, config.hidden_size, inner, gated, config.vocab_size, blocks)


def state_bytes(trainable: int, total: int, zero_stage: int, ranks: int, bf16: bool) -> float:
    """Bytes of parameters, gradients and AdamW state on each rank.

    fp32: 4 bytes a parameter, 4 a gradient, 8 of moments. bf16: 2, 2, and 12 of moments and float32 weights. DeepSpeed
    keeps such a copy of the weights from stage 1 on in fp32 too. Each stage divides one more part by the ranks.
    """
    width = 2 if bf16 else 4
    state = 12 if bf16 or zero_stage >= 1 else 8
    parameters = width * total / (ranks if zero_stage >= 3 else 1)
    gradients = width * trainable / (ranks if zero_stage >= 2 else 1)
    return parameters + gradients + state * trainable / (ranks if zero_stage >= 1 else 1)


def activation_bytes(shape: Shape, tokens: float, answered: float, bf16: bool) -> float:
    """Bytes kept for the backward pass of `tokens` read, of which the head sees `answered`.

    Per token and layer: 9 widths (norms, attention) and the MLP before and after its activation, or 10.5 and four times
    the MLP where it has a gate; per answered token its logits.
    """
    layer = 10.5 * shape.width + 4 * shape.inner if shape.gated else 9 * shape.width + 2 * shape.inner
    floats = tokens * shape.layers * layer + answered * (shape.vocabulary + shape.width)
    return floats * (2 if bf16 else 4)


def reading_flops(shape: Shape, tokens: float, answered: float, backward: bool) -> float:
    """Operations of reading `tokens`, of which the head sees `answered`."""
    weights = shape.blocks * tokens + shape.vocabulary * shape.width * answered
    return (6 if backward else 2) * weights


def matmul_rate(bf16: bool, device: str = "cpu") -> float:
    """Operations a second of a large linear layer, measured now; the best of a few, for the machine may be shared."""
    side = 1024 if device == "cpu" else 8192
    table = torch.ones(side, side, dtype=torch.bfloat16 if bf16 else torch.float32, device=device)
    best = float("inf")
    for _ in range(8):
        begin = time.perf_counter()
        linear(table, table)[0, 0].item()
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best
