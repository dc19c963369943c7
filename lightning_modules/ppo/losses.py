"""The clipped losses of PPO (Schulman et al. 2017; methods A.5.7) and their health figures. Plain functions.

B sequences, T response tokens. Sums over unmasked tokens are divided by `tokens`, the number of tokens in
the whole optimizer step over ranks and micro-batches, so that the loss does not depend on how it is split.
"""

import torch
from torch import Tensor


def policy_loss(
    log_prob_BT: Tensor, old_log_prob_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor, clip: float, tokens: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(rho A, clip(rho, 1 - clip, 1 + clip) A) with rho = pi / pi_old.

    Returns (loss, figures): mean `ratio`, `approx_kl` = mean of (rho - 1) - log rho (never negative), `clip_fraction`.
    """
    log_ratio_BT = (log_prob_BT - old_log_prob_BT) * mask_BT
    ratio_BT = log_ratio_BT.exp()
    unclipped_BT, clipped_BT = -ratio_BT * advantage_BT, -ratio_BT.clamp(1 - clip, 1 + clip) * advantage_BT
    loss = (torch.maximum(unclipped_BT, clipped_BT) * mask_BT).sum() / tokens
    with torch.no_grad():
        figures = {
            "ratio": (ratio_BT * mask_BT).sum() / tokens,
            "approx_kl": (((ratio_BT - 1) - log_ratio_BT) * mask_BT).sum() / tokens,
            "clip_fraction": ((clipped_BT > unclipped_BT) * mask_BT).sum() / tokens,
        }
    return loss, figures


def value_loss(
    value_BT: Tensor, old_value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor, clip: float, tokens: Tensor
) -> Tensor:
    """max((V - G)^2, (clip(V, V_old - clip, V_old + clip) - G)^2)."""
    clipped_BT = old_value_BT + (value_BT - old_value_BT).clamp(-clip, clip)
    worst_BT = torch.maximum((value_BT - return_BT).square(), (clipped_BT - return_BT).square())
    return (worst_BT * mask_BT).sum() / tokens


def reference_kl(log_prob_BT: Tensor, ref_log_prob_BT: Tensor, mask_BT: Tensor, tokens: Tensor) -> Tensor:
    """GRPO's KL to the reference (Schulman's k3): mean of rho - 1 - log rho with rho = pi_ref / pi, never negative."""
    log_ratio_BT = (ref_log_prob_BT - log_prob_BT) * mask_BT
    return ((log_ratio_BT.exp() - 1 - log_ratio_BT) * mask_BT).sum() / tokens


def token_mean(value_BT: Tensor, mask_BT: Tensor, tokens: Tensor) -> Tensor:
    """This part's share of the mean over the unmasked tokens of the optimizer step."""
    return (value_BT * mask_BT).sum() / tokens


class AdaptiveKL:
    """The KL weight of Ziegler et al. 2019: it grows while the measured KL is above the target and shrinks below."""

    def __init__(self, coefficient: float, target: float, horizon: int) -> None:
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl: float, samples: int) -> None:
        """`kl` is the mean over sequences of their summed KL; a target of 0 keeps the coefficient."""
        if self.target > 0:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * samples / self.horizon
