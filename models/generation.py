"""Generation from input embeddings with a key-value cache, greedy or with given random numbers.

B responses, Q prompts of P tokens, T new tokens, W width of the model; R rows that still go on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache

from models.decoding_graph import fits_a_graph, generate_by_graph
from models.key_values import new_cache
from models.language_model import head_logits
from models.next_state import next_state, positions
from models.sampling import Generated, Limits, Sampling, choose

WORTH_MOVING = 0.25  # share of rows that must have ended before the others are moved together


@torch.no_grad()
def generate(
    lm: nn.Module,
    prompt_QPW: Tensor,
    prompt_mask_QP: Tensor,
    end: int,
    fill: int,
    length: int,
    uniform_BT: Tensor | None,
    prompt_B: Tensor | None = None,
    sampling: Sampling | None = None,
) -> Generated:
    """Continues prompts by up to `length` tokens; `fill` stands behind the end token.

    `uniform_BT` samples at temperature 1; None is greedy. `prompt_B` says which of the Q prompts each response
    continues (default: each its own): a prompt with several samples is read once.
    """
    limits, device = Limits(length, end, fill), prompt_QPW.device
    prompt_B = torch.arange(len(prompt_QPW), device=device) if prompt_B is None else prompt_B.to(device)
    mask_BS = prompt_mask_QP.long()
    uniform_BT = None if uniform_BT is None else uniform_BT.to(device)
    if fits_a_graph(lm):
        return generate_by_graph(lm, prompt_QPW, mask_BS, limits, uniform_BT, prompt_B, sampling)
    cache = new_cache(lm, mask_BS.shape[1] + length)
    hidden_BW = next_state(lm, cache, mask_BS, positions(mask_BS), prompt_QPW)
    if not torch.equal(prompt_B, torch.arange(len(prompt_QPW), device=device)):
        cache.batch_select_indices(prompt_B)
        hidden_BW, mask_BS = hidden_BW[prompt_B], mask_BS[prompt_B]
    return _continue(lm, cache, mask_BS, hidden_BW, limits, uniform_BT, sampling)


def _continue(
    lm: nn.Module,
    cache: Cache,
    mask_RS: Tensor,
    hidden_RW: Tensor,
    limits: Limits,
    uniform_BT: Tensor | None,
    sampling: Sampling | None,
) -> Generated:
    """Draws token by token; rows that have ended are taken out."""
    made = Generated.empty(hidden_RW, limits)
    row_R = torch.arange(len(mask_RS), device=mask_RS.device)
    going_R = torch.ones_like(row_R, dtype=torch.bool)
    for step in range(limits.length):
        uniform_R = None if uniform_BT is None else uniform_BT[row_R, step]
        token_R, log_prob_R = choose(head_logits(lm, hidden_RW).float(), uniform_R, sampling)
        made.response_BT[row_R, step] = torch.where(going_R, token_R, limits.fill)
        made.mask_BT[row_R, step] = going_R.long()
        made.log_prob_BT[row_R, step] = log_prob_R * going_R
        made.hidden_BTW[row_R, step] = hidden_RW * going_R[:, None]
        going_R = going_R & (token_R != limits.end)
        going = int(going_R.sum())
        if going == 0 or step == limits.length - 1:
            break
        if going <= (1 - WORTH_MOVING) * len(row_R):
            kept = going_R.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            row_R, going_R, token_R, mask_RS = row_R[kept], going_R[kept], token_R[kept], mask_RS[kept]
        mask_RS = F.pad(mask_RS, (0, 1), value=1)
        token_R1W = lm.get_input_embeddings()(token_R[:, None])
        hidden_RW = next_state(lm, cache, mask_RS, positions(mask_RS)[:, -1:], token_R1W)
    return made
