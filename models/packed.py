"""Reading rows of unequal length one behind the other, without padding.

Padded to the longest, rows of explanations are a quarter padding even in groups of like length; attention that knows
where each row begins needs none. A GPU has a kernel for that in half precision; on a CPU neighbours of equal length
attend together. B rows, S places of a padded one, m tokens in all of them, x with spare ones, H heads, D width of a
head, W width of the model.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, BertModel, PretrainedConfig, PreTrainedModel

from models.kernels import attention, spare
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

    @functools.cached_property
    def runs(self) -> list[tuple[int, int]]:
        """(rows, length) of neighbours of equal length; empty rows are in none."""
        length, count = self.start_B1.diff().unique_consecutive(return_counts=True)
        return [(rows, length) for rows, length in zip(count.tolist(), length.tolist(), strict=True) if length]


class TextStates(NamedTuple):
    """Of the tokens of padded texts: where each stood in [B, S], and its last hidden state."""

    row_m: Tensor
    column_m: Tensor
    hidden_mW: Tensor


def packs_by_kernel(trunk: nn.Module, inputs: Tensor) -> bool:
    """Whether a model can read such inputs packed on a GPU: the kernel knows half precision, and no dropout."""
    config = trunk.config
    dropout = getattr(config, "attn_pdrop", None) or getattr(config, "attention_dropout", None) or 0.0
    fits = inputs.is_cuda and inputs.dtype in (torch.bfloat16, torch.float16)
    return fits and attends_plainly(config) and not (trunk.training and dropout > 0)


def packs_by_runs(model: nn.Module, inputs: Tensor) -> bool:
    """Whether a model can be read packed on a CPU; a GPU would wait for the many small steps."""
    bert = isinstance(model, BertModel) and not model.config.is_decoder
    known = bert or isinstance(model, PreTrainedModel) and attends_plainly(model.config)
    return inputs.device.type == "cpu" and known


def states_of_texts(model: nn.Module, ids_BS: Tensor, mask_BS: Tensor) -> TextStates:
    """Reads the tokens under the mask, shortest text first."""
    length_B = mask_BS.sum(1)
    order_B = length_B.argsort(stable=True)
    place_m, column_m = mask_BS[order_B].nonzero(as_tuple=True)
    row_m = order_B[place_m]
    # More rows, of one token each; at least one, or a rank whose texts are empty would have no gradients to add.
    more = spare(len(row_m), ids_BS.device) if len(row_m) else 1
    rows = PackedRows.of(F.pad(length_B[order_B], (0, more), value=1))
    ids_x, column_x = (F.pad(part_m, (0, more)) for part_m in (ids_BS[row_m, column_m], column_m))
    hidden_xW = packed_states(model, model.get_input_embeddings()(ids_x), rows, column_x)  # type: ignore[operator]
    return TextStates(row_m, column_m, hidden_xW[: len(row_m)])


def packed_states(trunk: nn.Module, inputs_mW: Tensor, rows: PackedRows, position_m: Tensor) -> Tensor:
    """Last hidden states [m, W]; `position_m` counts from 0 in each row."""
    with _attending(trunk.config):
        return trunk(
            inputs_embeds=inputs_mW[None], position_ids=position_m[None], use_cache=False, rows=rows
        ).last_hidden_state[0]


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
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention within each row [1, m, H, D], as transformers calls it."""
    heads = query_1HmD.shape[1]
    parts_mHD = [
        _as_many(part_1HmD, heads).squeeze(0).transpose(0, 1) for part_1HmD in (query_1HmD, key_1HmD, value_1HmD)
    ]
    return attend_within(rows, parts_mHD, scaling, dropout, module.is_causal)[None], None


def attend_within(
    rows: PackedRows, parts_mHD: list[Tensor], scaling: float | None, dropout: float, causal: bool
) -> Tensor:
    """Attention of queries, keys and values within each row [m, H, D]; on a GPU causal and without dropout."""
    if parts_mHD[0].is_cuda:
        if dropout or not causal:
            raise ValueError("packed rows on a GPU know causal attention without dropout alone")
        limits = (rows.start_B1, rows.start_B1, rows.longest, rows.longest)
        return varlen_attn(*parts_mHD, *limits, scale=scaling, window_size=(-1, 0))
    runs = rows.runs
    sizes = [count * length for count, length in runs]
    attended = []
    for (count, length), *run in zip(runs, *(part_mHD.split(sizes) for part_mHD in parts_mHD), strict=True):
        query, key, value = (part.unflatten(0, (count, length)).transpose(1, 2) for part in run)
        made = attention(query, key, value, dropout_p=dropout, is_causal=causal, scale=scaling)
        attended.append(made.transpose(1, 2).flatten(0, 1))
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _as_many(part_1HmD: Tensor, heads: int) -> Tensor:
    """Keys or values for each of the heads, several of which may share them."""
    shared = heads // part_1HmD.shape[1]
    return part_1HmD if shared == 1 else part_1HmD.repeat_interleave(shared, dim=1)


AttentionInterface.register(NAME, attend)
