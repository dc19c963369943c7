"""GPT-2 with less work than transformers' own: its last block looks at the wanted positions alone.

R rows, S positions, n wanted positions, K the most of a row, H heads, D head width, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Block


def wanted_states(trunk: GPT2Model, inputs_RSW: Tensor, first_R: Tensor, row_n: Tensor, column_n: Tensor) -> Tensor:
    """Last hidden states [n, W] at the positions first_R[row] + column; rows are padded at the right.

    Every other position is left out of the last block but for its keys and values: a prompt's are never looked at.
    """
    position_S = torch.arange(inputs_RSW.shape[1], device=inputs_RSW.device)
    hidden_RSW = trunk.drop(inputs_RSW + trunk.wpe(position_S))
    for block in trunk.h[:-1]:
        hidden_RSW = block(hidden_RSW)
    return trunk.ln_f(_last_block(trunk.h[-1], hidden_RSW, first_R, row_n, column_n))


def _last_block(block: GPT2Block, hidden_RSW: Tensor, first_R: Tensor, row_n: Tensor, column_n: Tensor) -> Tensor:
    attention = block.attn
    rows, length, width = hidden_RSW.shape
    most = int(column_n.max()) + 1 if len(column_n) else 0
    query, key, value = attention.c_attn(block.ln_1(hidden_RSW)).split(width, dim=2)
    column_K = torch.arange(most, device=first_R.device)
    wanted_RK = (first_R[:, None] + column_K).clamp(max=length - 1)
    query_RKW = query.gather(1, wanted_RK[..., None].expand(-1, -1, width))
    seen_RKS = torch.arange(length, device=first_R.device) <= wanted_RK[..., None]
    attended_RHKD = F.scaled_dot_product_attention(
        *(part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in (query_RKW, key, value)),
        attn_mask=seen_RKS[:, None],
        dropout_p=attention.attn_dropout.p if attention.training else 0.0,
        scale=attention.scaling,
    )
    attended_nW = attended_RHKD.transpose(1, 2).reshape(-1, width).index_select(0, row_n * most + column_n)
    hidden_nW = hidden_RSW.flatten(0, 1).index_select(0, row_n * length + first_R[row_n] + column_n)
    hidden_nW = hidden_nW + attention.resid_dropout(attention.c_proj(attended_nW))
    return hidden_nW + block.mlp(block.ln_2(hidden_nW))
