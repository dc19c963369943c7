"""The hidden states from which given responses are predicted, of rows of unequal length.

B rows, P prompt tokens, T response tokens, S both; R rows of a part; m tokens read, n wanted, W
width of the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import GPT2Model

from models.gpt2 import wanted_states
from models.packed import PackedRows, packed_states, packs

AT_ONCE = 4  # parts of a batch that a GPU reads together where it cannot read all: one would leave it idle


class States(NamedTuple):
    """Of some rows: the last hidden states from which tokens are predicted, and the tokens' places in [B, T]."""

    hidden_nW: Tensor
    row_n: Tensor
    column_n: Tensor


@dataclass(frozen=True)
class Rows:
    """Prompts, padded at the left, and responses, padded at the right."""

    flat_xW: Tensor  # inputs of all rows with their padding
    start_B: Tensor  # where in it a row begins behind its padding
    prompt_B: Tensor  # tokens of its prompt
    answer_BT: Tensor  # mask of its response

    @classmethod
    def of(cls, prompt_BPW: Tensor, prompt_mask_BP: Tensor, response_BTW: Tensor, response_mask_BT: Tensor) -> "Rows":
        """From embedded prompts and responses with their masks."""
        whole_BSW, prompt_B = torch.cat([prompt_BPW, response_BTW], dim=1), prompt_mask_BP.sum(1)
        row_B = torch.arange(len(whole_BSW), device=prompt_B.device)
        start_B = row_B * whole_BSW.shape[1] + prompt_mask_BP.shape[1] - prompt_B
        return cls(whole_BSW.flatten(0, 1), start_B, prompt_B, response_mask_BT)

    @property
    def length_B(self) -> Tensor:
        """Tokens to be read: without a response's last, since nobody looks at what comes of it."""
        return self.prompt_B + (self.answer_BT.sum(1) - 1).clamp(min=0)


def read_rows(trunk: nn.Module, rows: Rows, parts: int) -> Iterator[States]:
    """States of all responses: packed without padding where that can be, else in `parts` groups of like length.

    Groups are moved to the left: all padding stands at the right, where causal attention never looks.
    """
    if packs(trunk, rows.flat_xW):
        yield _packed(trunk, rows)
        return
    parts = max(1, parts // AT_ONCE) if rows.flat_xW.is_cuda else parts
    for row_R in rows.length_B.argsort(stable=True).tensor_split(parts):
        yield _part(trunk, rows, row_R)


def _part(trunk: nn.Module, rows: Rows, row_R: Tensor) -> States:
    column_S = torch.arange(int(rows.length_B[row_R].max()), device=row_R.device)
    index_RS = (rows.start_B[row_R, None] + column_S).clamp(max=len(rows.flat_xW) - 1)
    inputs_RSW = rows.flat_xW.index_select(0, index_RS.flatten()).view(*index_RS.shape, -1)
    row_n, column_n = rows.answer_BT[row_R].nonzero(as_tuple=True)
    first_R = rows.prompt_B[row_R] - 1
    if isinstance(trunk, GPT2Model):
        hidden_nW = wanted_states(trunk, inputs_RSW, first_R, row_n, column_n)
    else:
        hidden_RSW = trunk(inputs_embeds=inputs_RSW, use_cache=False).last_hidden_state
        place_n = row_n * len(column_S) + first_R[row_n] + column_n
        hidden_nW = hidden_RSW.flatten(0, 1).index_select(0, place_n)
    return States(hidden_nW, row_R[row_n], column_n)


def _packed(trunk: nn.Module, rows: Rows) -> States:
    length_B = rows.length_B
    packed = PackedRows.of(length_B)
    row_m = torch.arange(len(length_B), device=length_B.device).repeat_interleave(length_B)
    position_m = torch.arange(len(row_m), device=row_m.device) - packed.start_B1[row_m]
    row_n, column_n = rows.answer_BT.nonzero(as_tuple=True)
    place_n = packed.start_B1[row_n] + rows.prompt_B[row_n] - 1 + column_n
    inputs_mW = rows.flat_xW.index_select(0, rows.start_B[row_m] + position_m)
    hidden_mW = packed_states(trunk, inputs_mW, packed, position_m)
    return States(hidden_mW.index_select(0, place_n), row_n, column_n)
