"""Reading new tokens behind what a key-value cache holds.

R rows, N new tokens of each, S places of the cache, W width of the model.
"""

import torch
from torch import Tensor, nn
from transformers import Cache, GPT2Model

from models.gpt2 import last_state
from models.language_model import trunk_of


def positions(mask_RS: Tensor) -> Tensor:
    """Position ids under left padding: GPT-2's plain forward would count the padding, unlike its generation."""
    return (mask_RS.cumsum(-1) - 1).clamp(min=0)


def next_state(
    lm: nn.Module,
    cache: Cache,
    mask_RS: Tensor,
    position_RN: Tensor,
    inputs_RNW: Tensor,
    place_N: Tensor | None = None,
) -> Tensor:
    """Reads the inputs behind what the cache holds; the last position's hidden states [R, W].

    `mask_RS` is 0 on padding, `place_N` the columns of the new tokens in it, which are its last if not given.
    """
    trunk = trunk_of(lm)
    if place_N is None and not isinstance(trunk, GPT2Model):  # transformers makes the mask
        return _last_of(trunk, cache, mask_RS, position_RN, inputs_RNW)
    column_S = torch.arange(mask_RS.shape[1], device=mask_RS.device)
    own_N1 = (column_S[-inputs_RNW.shape[1] :] if place_N is None else place_N)[:, None]
    # Padding sees itself: a row of attention that sees nothing is not a number in some kernels.
    seen_RNS = (column_S <= own_N1) & (mask_RS[:, None].bool() | (column_S == own_N1))
    # As numbers that are added to scores: each layer would turn truths into them anew.
    look_RNS = inputs_RNW.new_zeros(seen_RNS.shape).masked_fill_(~seen_RNS, float("-inf"))
    if isinstance(trunk, GPT2Model):
        return last_state(trunk, inputs_RNW, look_RNS, position_RN, cache)
    return _last_of(trunk, cache, look_RNS[:, None], position_RN, inputs_RNW)


def _last_of(trunk: nn.Module, cache: Cache, mask: Tensor, position_RN: Tensor, inputs_RNW: Tensor) -> Tensor:
    options = {"attention_mask": mask, "position_ids": position_RN, "past_key_values": cache, "use_cache": True}
    return trunk(inputs_embeds=inputs_RNW, **options).last_hidden_state[:, -1]
