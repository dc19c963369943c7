"""Rewards by token, generalised advantage estimation, whitening, group baselines (methods A.5.7). Plain functions.

B sequences, T response tokens. `mask_BT` is 1 on response tokens, end token included, and 0 on padding at the right.
"""

import torch
from torch import Tensor


def token_rewards(
    log_prob_BT: Tensor, ref_log_prob_BT: Tensor, mask_BT: Tensor, score_BT: Tensor, beta: float
) -> Tensor:
    """r_t = score_t - beta (log pi(e_t) - log pi_ref(e_t)), zero where masked."""
    return (score_BT - beta * (log_prob_BT - ref_log_prob_BT)) * mask_BT


def at_last_token(score_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Places a sequence's score [B] at its last token [B, T]; a sequence without tokens gets nothing."""
    position_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B1 = mask_BT.sum(1, keepdim=True) - 1
    return (position_T == last_B1) * score_B[:, None]


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016) for responses that end.

    delta_t = r_t + gamma V_{t+1} - V_t with V = 0 behind the last token; A_t = delta_t + gamma lam A_{t+1}.
    Returns (advantages, returns = advantages + values), zero where masked.
    """
    values_BT, rewards_BT = values_BT * mask_BT, rewards_BT * mask_BT
    advantage_B, advantages = torch.zeros_like(values_BT[:, 0]), []
    next_value_B = torch.zeros_like(advantage_B)
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = (delta_B + gamma * lam * advantage_B) * mask_BT[:, t]
        next_value_B = values_BT[:, t]
        advantages.append(advantage_B)
    advantages_BT = torch.stack(advantages[::-1], dim=1)
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def whiten(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the unmasked entries, zero where masked."""
    count = mask_BT.sum().clamp(min=1)
    mean = (values_BT * mask_BT).sum() / count
    centred_BT = (values_BT - mean) * mask_BT
    variance = centred_BT.square().sum() / count
    return centred_BT * torch.rsqrt(variance + 1e-8)


def group_relative(reward_B: Tensor, group: int) -> Tensor:
    """GRPO (Shao et al. 2024): (R - mean) / std within each run of `group` samples of one prompt.

    The standard deviation is that of a sample (n - 1); a group of equal rewards gets zeros.
    """
    reward_PG = reward_B.view(-1, group)
    centred_PG = reward_PG - reward_PG.mean(1, keepdim=True)
    return (centred_PG / (reward_PG.std(1, keepdim=True) + 1e-4)).flatten()


def leave_one_out(reward_B: Tensor, group: int) -> Tensor:
    """RLOO (Ahmadian et al. 2024): R less the mean reward of the other `group` - 1 samples of its prompt."""
    reward_PG = reward_B.view(-1, group)
    others_PG = (reward_PG.sum(1, keepdim=True) - reward_PG) / (group - 1)
    return (reward_PG - others_PG).flatten()
