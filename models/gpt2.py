"""GPT-2 with less work than transformers' own: its last block reads the wanted positions alone.

R rows, S positions, N new ones of them, n wanted positions, K the most of a row, W width; H heads, D width of one. What
positions see is given as truths or as numbers that are added to scores (0 or -inf); if not given, all that is before.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block

from models.key_values import RoomyLayer


def wanted_states(trunk: GPT2Model, inputs_RSW: Tensor, first_R: Tensor, row_n: Tensor, column_n: Tensor) -> Tensor:
    """Last hidden states [n, W] at the positions first_R[row] + column; rows are padded at the right."""
    length = inputs_RSW.shape[1]
    column_S = torch.arange(length, device=inputs_RSW.device)
    hidden_RSW = _before_the_last_block(trunk, inputs_RSW, column_S)
    most = int(column_n.max()) + 1 if len(column_n) else 0
    wanted_RK = (first_R[:, None] + column_S[:most]).clamp(max=length - 1)
    seen_RKS = column_S <= wanted_RK[..., None]
    return trunk.ln_f(_last_block(trunk.h[-1], hidden_RSW, wanted_RK, seen_RKS, row_n * most + column_n))


def last_state(trunk: GPT2Model, inputs_RNW: Tensor, seen_RNS: Tensor, position_RN: Tensor, cache: Cache) -> Tensor:
    """Last hidden states [R, W] of the last position; the N new ones are read behind what the cache holds.

    `seen_RNS` as numbers: every layer would turn truths into them anew.
    """
    rows, new = position_RN.shape
    hidden_RNW = _before_the_last_block(trunk, inputs_RNW, position_RN, cache, seen_RNS)
    last_R1 = torch.full((rows, 1), new - 1, device=position_RN.device)
    row_R = torch.arange(rows, device=position_RN.device)
    return trunk.ln_f(_last_block(trunk.h[-1], hidden_RNW, last_R1, seen_RNS[:, -1:], row_R, cache))


def _before_the_last_block(
    trunk: GPT2Model,
    inputs_RNW: Tensor,
    position: Tensor,
    cache: Cache | None = None,
    seen_RNS: Tensor | None = None,
) -> Tensor:
    """What the other blocks make [R, N, W] of all positions, whose numbers are [N] or [R, N]."""
    hidden_RNW = trunk.drop(inputs_RNW + trunk.wpe(position))
    for block in trunk.h[:-1]:
        attended_RNW = _attend(block.attn, *_query_key_value(block, hidden_RNW), cache, seen_RNS)
        hidden_RNW = _behind_attention(block, hidden_RNW, attended_RNW)
    return hidden_RNW


def _last_block(
    block: GPT2Block,
    hidden_RNW: Tensor,
    wanted_RK: Tensor,
    seen_RKS: Tensor,
    select_n: Tensor,
    cache: Cache | None = None,
) -> Tensor:
    """What the block makes [n, W] of the positions `select_n` among the R x K wanted, which look at `seen_RKS`.

    All other positions have keys and values here and no more: nobody looks at what would become of them.
    """
    rows, new, width = hidden_RNW.shape
    query_RNW, key_RNW, value_RNW = _query_key_value(block, hidden_RNW)
    query_RKW = query_RNW.gather(1, wanted_RK[..., None].expand(-1, -1, width))
    attended_RKW = _attend(block.attn, query_RKW, key_RNW, value_RNW, cache, seen_RKS)
    attended_nW = attended_RKW.flatten(0, 1).index_select(0, select_n)
    place_RK = torch.arange(rows, device=wanted_RK.device)[:, None] * new + wanted_RK
    hidden_nW = hidden_RNW.flatten(0, 1).index_select(0, place_RK.flatten()[select_n])
    return _behind_attention(block, hidden_nW, attended_nW)


def _query_key_value(block: GPT2Block, hidden_RNW: Tensor) -> tuple[Tensor, ...]:
    return block.attn.c_attn(block.ln_1(hidden_RNW)).split(hidden_RNW.shape[-1], dim=2)


def _attend(
    attention: GPT2Attention,
    query_RKW: Tensor,
    key_RNW: Tensor,
    value_RNW: Tensor,
    cache: Cache | None = None,
    seen_RKS: Tensor | None = None,
) -> Tensor:
    """The heads' means of values [R, K, W], side by side."""
    query, key, value = (
        part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in (query_RKW, key_RNW, value_RNW)
    )
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
        if query.shape[2] == 1 and isinstance(layer := cache.layers[attention.layer_idx], RoomyLayer):
            return _attend_once(attention, query, *layer.rooms, seen_RKS)
    attended = F.scaled_dot_product_attention(
        *(query, key, value),
        attn_mask=None if seen_RKS is None else seen_RKS[:, None],
        dropout_p=attention.attn_dropout.p if attention.training else 0.0,
        is_causal=seen_RKS is None,
        scale=attention.scaling,
    )
    return attended.transpose(1, 2).flatten(2)


def _attend_once(
    attention: GPT2Attention, query_RH1D: Tensor, key_RHLD: Tensor, value_RHLD: Tensor, seen_R1S: Tensor
) -> Tensor:
    """Of one position a row [R, 1, W], over all L places of a room, of which those behind S are empty.

    Memory that is read from end to end comes twice as fast as one with gaps (docs/performance.md).
    """
    seen_R1L = F.pad(seen_R1S, (0, key_RHLD.shape[2] - seen_R1S.shape[2]), value=float("-inf"))
    score_RH1L = (query_RH1D * attention.scaling @ key_RHLD.transpose(2, 3)).add_(seen_R1L[:, None])
    chance_RH1L = attention.attn_dropout(score_RH1L.softmax(-1))
    return (chance_RH1L @ value_RHLD).transpose(1, 2).flatten(2)


def _behind_attention(block: GPT2Block, hidden: Tensor, attended: Tensor) -> Tensor:
    """The rest of the block [..., W]."""
    hidden = hidden + block.attn.resid_dropout(block.attn.c_proj(attended))
    return hidden + block.mlp(block.ln_2(hidden))
