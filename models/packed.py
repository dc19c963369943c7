"""Reading rows of unequal length one behind the other, without padding, on a GPU in half precision.

Padded to the longest, rows of explanations are a quarter padding even in groups of like length; attention that knows
where each row begins needs none. B rows, m tokens in all of them, n of them wanted, H heads, D width of a head, W width
of the model.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PretrainedConfig

from models.language_model import attends_plainly

NAME = "packed_rows"  # under which transformers knows `attend`


@dataclass(frozen=True)
class PackedRows:
    """Where each row begins among the m tokens, and how long the longest is."""

    start_B1: Tensor  # int32, its last entry is m
    longest: int

    @classmethod
    def of(cls, length_B: Tensor) -> "PackedRows":
        """Rows of these lengths."""
        start_B1 = torch.cat([length_B.new_zeros(1), length_B.cumsum(0)])
        return cls(start_B1.int(), int(length_B.max()))


def packs(trunk: nn.Module, inputs: Tensor) -> bool:
    """Whether a model can read such inputs packed: the kernel knows half precision on a GPU, and no dropout."""
    config = trunk.config
    dropout = getattr(config, "attn_pdrop", None) or getattr(config, "attention_dropout", None) or 0.0
    fits = inputs.is_cuda and inputs.dtype in (torch.bfloat16, torch.float16)
    return fits and attends_plainly(config) and not (trunk.training and dropout > 0)


def packed_states(trunk: nn.Module, inputs_mW: Tensor, rows: PackedRows, position_m: Tensor, place_n: Tensor) -> Tensor:
    """Last hidden states [n, W] at `place_n`; `position_m` counts from 0 in each row."""
    with _attending(trunk.config):
        states_1mW = trunk(
            inputs_embeds=inputs_mW[None], position_ids=position_m[None], use_cache=False, rows=rows
        ).last_hidden_state
    return states_1mW[0].index_select(0, place_n)


@contextlib.contextmanager
def _attending(config: PretrainedConfig) -> Iterator[None]:
    usual, config._attn_implementation = config._attn_implementation, NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


def attend(
    module: nn.Module,
    query_1HmD: Tensor,
    key_1HmD: Tensor,
    value_1HmD: Tensor,
    attention_mask: Tensor | None,
    rows: PackedRows,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Causal attention within each row [1, m, H, D], as transformers calls it."""
    heads = query_1HmD.shape[1]
    query_mHD, key_mHD, value_mHD = (
        _as_many(part_1HmD, heads).squeeze(0).transpose(0, 1) for part_1HmD in (query_1HmD, key_1HmD, value_1HmD)
    )
    limits = (rows.start_B1, rows.start_B1, rows.longest, rows.longest)
    return varlen_attn(query_mHD, key_mHD, value_mHD, *limits, scale=scaling, window_size=(-1, 0))[None], None


def _as_many(part_1HmD: Tensor, heads: int) -> Tensor:
    """Keys or values for each of the heads, several of which may share them."""
    shared = heads // part_1HmD.shape[1]
    return part_1HmD if shared == 1 else part_1HmD.repeat_interleave(shared, dim=1)


AttentionInterface.register(NAME, attend)
