"""GPT-2 with less work than transformers' own: its last block goes on with the wanted positions alone.

R rows, N new positions, the last K of which go on, S places of a cache, L places of its room; m tokens of packed rows,
n wanted ones; W width, H heads, D width of one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block

from models.kernels import attention
from models.key_values import RoomyLayer
from models.packed import PackedRows, attend_within


def states_at(trunk: GPT2Model, inputs_mW: Tensor, rows: PackedRows, position_m: Tensor, place_n: Tensor) -> Tensor:
    """Last hidden states [n, W] at `place_n` among the m tokens; `position_m` counts from 0 in each row."""
    hidden_mW = trunk.drop(inputs_mW + trunk.wpe(position_m))
    for block in trunk.h[:-1]:
        hidden_mW = _behind_attention(block, hidden_mW, _attend_packed(block, hidden_mW, rows))
    attended_mW = _attend_packed(trunk.h[-1], hidden_mW, rows)
    hidden_nW, attended_nW = (part_mW.index_select(0, place_n) for part_mW in (hidden_mW, attended_mW))
    return trunk.ln_f(_behind_attention(trunk.h[-1], hidden_nW, attended_nW))


def last_state(trunk: GPT2Model, inputs_RNW: Tensor, look_RNS: Tensor, position_RN: Tensor, cache: Cache) -> Tensor:
    """Last hidden states [R, W] of the last position; the N new ones are read behind what the cache holds.

    `look_RNS` is added to the scores of attention: 0 where a position looks, -inf where it does not.
    """
    hidden_RNW = trunk.drop(inputs_RNW + trunk.wpe(position_RN))
    for block in trunk.h[:-1]:
        hidden_RNW = _read_new(block, hidden_RNW, look_RNS, cache, hidden_RNW.shape[1])
    return trunk.ln_f(_read_new(trunk.h[-1], hidden_RNW, look_RNS, cache, 1)[:, 0])


def _read_new(block: GPT2Block, hidden_RNW: Tensor, look_RNS: Tensor, cache: Cache, last: int) -> Tensor:
    """What the block makes [R, last, W] of the last of the new positions; all of them leave keys and values."""
    module = block.attn
    query, key, value = (part_RNHD.transpose(1, 2) for part_RNHD in _query_key_value(block, hidden_RNW))
    key, value = cache.update(key, value, module.layer_idx)
    query, look_RKS = query[:, :, -last:], look_RNS[:, -last:]
    layer = cache.layers[module.layer_idx]
    if last == 1 and isinstance(layer, RoomyLayer) and query.device.type == "cpu":
        attended = _attend_once(module, query, *layer.rooms, look_RKS)
    else:
        look_R1KS, dropout = look_RKS[:, None], _dropout(module)
        attended = attention(query, key, value, look_R1KS, dropout_p=dropout, scale=module.scaling)
    return _behind_attention(block, hidden_RNW[:, -last:], attended.transpose(1, 2).flatten(2))


def _attend_once(
    module: GPT2Attention, query_RH1D: Tensor, key_RHLD: Tensor, value_RHLD: Tensor, look_R1S: Tensor
) -> Tensor:
    """Of one position a row [R, H, 1, D], over all places of a room, of which those behind S are empty.

    Memory that is read from end to end comes twice as fast as one with gaps (benchmarks/NOTES.md). Scores of bfloat16
    are made in float32, as wherever else a model attends.
    """
    look_R1L = F.pad(look_R1S, (0, key_RHLD.shape[2] - look_R1S.shape[2]), value=float("-inf"))
    wide = torch.promote_types(query_RH1D.dtype, torch.float32)
    score_RH1L = (query_RH1D.to(wide) * module.scaling) @ key_RHLD.to(wide).transpose(2, 3)
    chance_RH1L = score_RH1L.add_(look_R1L[:, None]).softmax(-1).to(value_RHLD.dtype)
    return F.dropout(chance_RH1L, _dropout(module)) @ value_RHLD


def _attend_packed(block: GPT2Block, hidden_mW: Tensor, rows: PackedRows) -> Tensor:
    """The heads' means of values [m, W], side by side; each token looks at what stands before it in its row."""
    parts_mHD = _query_key_value(block, hidden_mW)
    return attend_within(rows, parts_mHD, block.attn.scaling, _dropout(block.attn), causal=True).flatten(1)


def _query_key_value(block: GPT2Block, hidden: Tensor) -> list[Tensor]:
    """Three times [..., H, D]."""
    parts = block.attn.c_attn(block.ln_1(hidden)).split(hidden.shape[-1], dim=-1)
    return [part.unflatten(-1, (block.attn.num_heads, -1)) for part in parts]


def _dropout(module: GPT2Attention) -> float:
    return module.attn_dropout.p if module.training else 0.0


def _behind_attention(block: GPT2Block, hidden: Tensor, attended: Tensor) -> Tensor:
    """The rest of the block [..., W]."""
    hidden = hidden + block.attn.resid_dropout(block.attn.c_proj(attended))
    return hidden + block.mlp(block.ln_2(hidden))
