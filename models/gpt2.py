"""GPT-2 with less work than transformers' own: its last block reads the wanted positions alone.

R rows, S positions, N new ones of them, n wanted positions, K the most of a row, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Block


def wanted_states(trunk: GPT2Model, inputs_RSW: Tensor, first_R: Tensor, row_n: Tensor, column_n: Tensor) -> Tensor:
    """Last hidden states [n, W] at the positions first_R[row] + column; rows are padded at the right."""
    length = inputs_RSW.shape[1]
    column_S = torch.arange(length, device=inputs_RSW.device)
    hidden_RSW = trunk.drop(inputs_RSW + trunk.wpe(column_S))
    for block in trunk.h[:-1]:
        hidden_RSW = block(hidden_RSW)
    most = int(column_n.max()) + 1 if len(column_n) else 0
    wanted_RK = (first_R[:, None] + column_S[:most]).clamp(max=length - 1)
    seen_RKS = column_S <= wanted_RK[..., None]
    return trunk.ln_f(_last_block(trunk.h[-1], hidden_RSW, wanted_RK, seen_RKS, row_n * most + column_n))


def last_state(trunk: GPT2Model, inputs_RNW: Tensor, seen_RNS: Tensor, position_RN: Tensor, cache: Cache) -> Tensor:
    """Last hidden states [R, W] of the last position; the N new ones are read behind what the cache holds."""
    rows, new = position_RN.shape
    hidden_RNW = trunk.drop(inputs_RNW + trunk.wpe(position_RN))
    for block in trunk.h[:-1]:
        hidden_RNW = block(hidden_RNW, cache, seen_RNS[:, None])
    last_R1 = torch.full((rows, 1), new - 1, device=position_RN.device)
    row_R = torch.arange(rows, device=position_RN.device)
    return trunk.ln_f(_last_block(trunk.h[-1], hidden_RNW, last_R1, seen_RNS[:, -1:], row_R, cache))


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
    attention, (rows, new, width) = block.attn, hidden_RNW.shape
    query_RNW, key_RNW, value_RNW = attention.c_attn(block.ln_1(hidden_RNW)).split(width, dim=2)
    query_RKW = query_RNW.gather(1, wanted_RK[..., None].expand(-1, -1, width))
    query, key, value = (
        part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in (query_RKW, key_RNW, value_RNW)
    )
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    dropout = attention.attn_dropout.p if attention.training else 0.0
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=seen_RKS[:, None], dropout_p=dropout, scale=attention.scaling
    )
    attended_nW = attended.transpose(1, 2).reshape(-1, width).index_select(0, select_n)
    place_RK = torch.arange(rows, device=wanted_RK.device)[:, None] * new + wanted_RK
    hidden_nW = hidden_RNW.flatten(0, 1).index_select(0, place_RK.flatten()[select_n])
    hidden_nW = hidden_nW + attention.resid_dropout(attention.c_proj(attended_nW))
    return hidden_nW + block.mlp(block.ln_2(hidden_nW))
