"""The hidden states from which given responses are predicted, of rows of unequal length.

B rows, P prompt tokens, T response tokens, S both, e = B S; R rows of a part, G with spare ones; m tokens read, n
wanted, x with spare ones, W width of the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Model

from models.gpt2 import states_at
from models.kernels import spare
from models.packed import PackedRows, packed_states, packs_by_kernel, packs_by_runs

FEW, TOGETHER = 64, 16  # of fewer rows so many neighbours are padded to their longest: many short runs take longer


class States(NamedTuple):
    """Of some rows: the last hidden states from which tokens are predicted, and the tokens' places in [B, T].

    Behind the n states there may be spare ones, which mean nothing.
    """

    hidden_xW: Tensor
    row_n: Tensor
    column_n: Tensor


@dataclass(frozen=True)
class Rows:
    """Prompts, padded at the left, and responses, padded at the right."""

    flat_eW: Tensor  # inputs of all rows with their padding
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
    """States of all responses: at once where a kernel reads packed rows, else in `parts` groups of like length.

    Groups that are not packed are moved to the left: padding stands at the right, where causal attention never looks.
    """
    at_once = packs_by_kernel(trunk, rows.flat_eW)
    read = _packed if at_once or packs_by_runs(trunk, rows.flat_eW) else _padded
    for row_R in rows.length_B.argsort(stable=True).tensor_split(1 if at_once else parts):
        yield read(trunk, rows, row_R)


def _padded(trunk: nn.Module, rows: Rows, row_R: Tensor) -> States:
    column_S = torch.arange(int(rows.length_B[row_R].max()), device=row_R.device)
    index_RS = (rows.start_B[row_R, None] + column_S).clamp(max=len(rows.flat_eW) - 1)
    inputs_RSW = rows.flat_eW.index_select(0, index_RS.flatten()).view(*index_RS.shape, -1)
    row_n, column_n = rows.answer_BT[row_R].nonzero(as_tuple=True)
    first_R = rows.prompt_B[row_R] - 1
    hidden_RSW = trunk(inputs_embeds=inputs_RSW, use_cache=False).last_hidden_state
    place_n = row_n * len(column_S) + first_R[row_n] + column_n
    return States(hidden_RSW.flatten(0, 1).index_select(0, _with_spare(place_n)), row_R[row_n], column_n)


def _packed(trunk: nn.Module, rows: Rows, row_R: Tensor) -> States:
    length_R = rows.length_B[row_R]
    if len(row_R) < FEW and not length_R.is_cuda:
        length_R = torch.cat([some.max().expand(len(some)) for some in length_R.split(TOGETHER)])
    more = spare(int(length_R.sum()), length_R.device)  # rows of one token, the first there is
    length_G, start_G = F.pad(length_R, (0, more), value=1), F.pad(rows.start_B[row_R], (0, more))
    packed = PackedRows.of(length_G)
    place_m = torch.arange(len(length_G), device=row_R.device).repeat_interleave(length_G)
    position_m = torch.arange(len(place_m), device=row_R.device) - packed.start_B1[place_m]
    index_m = (start_G[place_m] + position_m).clamp(max=len(rows.flat_eW) - 1)
    inputs_mW = rows.flat_eW.index_select(0, index_m)
    place_n, column_n = rows.answer_BT[row_R].nonzero(as_tuple=True)
    wanted_n = packed.start_B1[place_n] + rows.prompt_B[row_R][place_n] - 1 + column_n
    wanted_x = _with_spare(wanted_n)
    if isinstance(trunk, GPT2Model):
        hidden_xW = states_at(trunk, inputs_mW, packed, position_m, wanted_x)
    else:
        hidden_xW = packed_states(trunk, inputs_mW, packed, position_m).index_select(0, wanted_x)
    return States(hidden_xW, row_R[place_n], column_n)


def _with_spare(place_n: Tensor) -> Tensor:
    """Places [x], of which the spare ones are the first place."""
    return F.pad(place_n, (0, spare(len(place_n), place_n.device)))
