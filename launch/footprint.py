"""Memory and arithmetic of a stage from formulas: what `dry_run=true` predicts.

Memory of parameters, gradients and AdamW state is Rajbhandari et al. 2020; activations are what autograd keeps of one
micro-batch without recomputation, counted in this project's networks; arithmetic is two operations a weight and token,
and twice that again for a backward pass. Hours are measured, not computed: launch/forecast.py.
"""

from dataclasses import dataclass

from torch import nn
from transformers import GPT2Model

from models.language_model import trunk_of

BUCKET = 200_000_000  # gradients that DeepSpeed reduces at a time in stages 1 to 3, as Lightning sets it
WHOLE_BUCKET = 500_000_000  # and in stage 0
GATHERED = 1_000_000_000  # parameters that stage 3 holds at a time


@dataclass(frozen=True)
class Shape:
    """A transformer as the formulas see it."""

    layers: int
    width: int
    inner: int  # width of the MLP
    gated: bool  # Llama's MLP has a gate
    vocabulary: int
    blocks: int  # parameters in all layers
    skips: bool = False  # GPT-2's last layer is computed for answered tokens alone, but for keys and values

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
        skips = isinstance(trunk_of(model), GPT2Model)
        return cls(config.num_hidden_layers, config.hidden_size, inner, gated, config.vocab_size, blocks, skips)


def state_bytes(trainable: int, total: int, zero_stage: int, ranks: int, bf16: bool, accumulate: int = 1) -> float:
    """Bytes of parameters, gradients and AdamW state on each rank when a backward pass is done.

    fp32: 4 bytes a parameter, 4 a gradient, 8 of moments. bf16: 2, 2, and 12 of moments and float32 weights. DeepSpeed
    keeps such a copy of the weights from stage 1 on in fp32 too. Optimizer state is divided by the ranks from stage 1
    on, parameters in stage 3, gradients from stage 2 on: in stage 1, too, unless several micro-batches add theirs up.
    """
    width = 2 if bf16 else 4
    state = 12 if bf16 or zero_stage >= 1 else 8
    whole = zero_stage == 0 or (zero_stage == 1 and accumulate > 1)
    parameters = width * total / (ranks if zero_stage >= 3 else 1)
    gradients = width * trainable / (1 if whole else ranks)
    return parameters + gradients + state * trainable / (ranks if zero_stage >= 1 else 1)


def reducing_bytes(
    trainable: int,
    total: int,
    zero_stage: int,
    ranks: int,
    bf16: bool,
    accumulate: int = 1,
    bucket: int = BUCKET,
    gpu: bool = False,
) -> float:
    """Bytes that DeepSpeed takes on top of `state_bytes` at most, while a backward pass reduces gradients.

    Stage 0: a copy of the gradients. Stages 1 and 2: two buckets in turn and a copy of one, less the part of the
    gradients that stays on this rank and has not come yet; in stage 2 the gradients of earlier micro-batches stand
    beside. Stage 3: a bucket, and its copy or up to a billion parameters gathered, whichever is more. On a CPU memory
    that was never written is none; on a GPU a bucket takes its whole size.
    """
    width, filled = 2 if bf16 else 4, min(trainable, bucket)
    if zero_stage == 0:
        return width * min(trainable, WHOLE_BUCKET)
    if zero_stage == 3:
        return width * ((bucket if gpu else filled) + max(filled, min(total, GATHERED)))
    buckets = 2 * bucket if gpu else min(trainable, 2 * bucket)
    earlier = trainable / ranks if zero_stage == 2 and accumulate > 1 else 0
    return width * (buckets + filled - filled / ranks + earlier)


def activation_bytes(shape: Shape, tokens: float, answered: float, bf16: bool) -> float:
    """Bytes kept for the backward pass of `tokens` read, of which the head sees `answered`.

    Per token and layer: 9 widths (norms, attention) and the MLP before and after its activation, or 10.5 and four times
    the MLP where it has a gate; per answered token its logits. In a last layer that skips the others, 5 widths of every
    token (the first norm and the product behind it), and per answered token 5 (query, attention, the second norm) and
    the MLP.
    """
    layer = 10.5 * shape.width + 4 * shape.inner if shape.gated else 9 * shape.width + 2 * shape.inner
    floats = tokens * shape.layers * layer + answered * (shape.vocabulary + shape.width)
    if shape.skips:
        floats += (5 * shape.width - layer) * tokens + (5 * shape.width + 2 * shape.inner) * answered
    return floats * (2 if bf16 else 4)


def reading_flops(shape: Shape, tokens: float, answered: float, backward: bool) -> float:
    """Operations of reading `tokens`, of which the head sees `answered`."""
    weights = shape.blocks * tokens + shape.vocabulary * shape.width * answered
    if shape.skips:
        weights -= (shape.width**2 + 2 * shape.width * shape.inner) * (tokens - answered)
    return (6 if backward else 2) * weights
