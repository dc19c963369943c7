"""Log-probabilities of chosen tokens and entropies from logits, without a float32 table of the vocabulary.

n tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 2**19  # entries of the table that are handled at a time: its temporaries stay in cache


def log_probs_and_entropy(logits_nV: Tensor, chosen_n: Tensor, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
    """(log softmax at the chosen entries [n], entropies [n] in nats), both float32.

    The backward pass overwrites `logits_nV` with its gradient: nobody else may need them.
    """
    return _Chosen.apply(logits_nV, chosen_n, entropy_gradient)


def log_sum_exp(logits_nV: Tensor, chance_nV: Tensor) -> Tensor:
    """log sum exp [n] of logits whose softmax is known: z - log p of the likeliest, far faster than `logsumexp`."""
    return logits_nV.amax(1) - chance_nV.amax(1).log()


class _Chosen(torch.autograd.Function):
    """d log p_c / dz = [v = c] - p,  dH / dz = -p (log p + H)."""

    @staticmethod
    def forward(ctx: Any, logits_nV: Tensor, chosen_n: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        total_n, entropy_n = (torch.empty(len(logits_nV), device=logits_nV.device) for _ in range(2))
        for rows in _blocks(*logits_nV.shape):
            logits_RV = logits_nV[rows].float()
            chance_RV = logits_RV.softmax(1)
            total_n[rows] = log_sum_exp(logits_RV, chance_RV)
            entropy_n[rows] = total_n[rows] - chance_RV.mul_(logits_RV).sum(1)
        log_prob_n = logits_nV.gather(1, chosen_n[:, None])[:, 0].float() - total_n
        ctx.save_for_backward(logits_nV, chosen_n, total_n, entropy_n)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_n)
        ctx.entropy_gradient = entropy_gradient
        return log_prob_n, entropy_n

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits_nV, chosen_n, total_n, entropy_n = ctx.saved_tensors
        grad_n, entropy_grad_n = gradients
        for rows in _blocks(*logits_nV.shape):
            logits_RV = logits_nV[rows].float()
            grad_RV = logits_RV.softmax(1)
            if ctx.entropy_gradient:
                factor_RV = logits_RV.sub_(total_n[rows, None]).add_(entropy_n[rows, None])
                factor_RV.mul_(entropy_grad_n[rows, None]).add_(grad_n[rows, None])
                grad_RV.mul_(factor_RV).neg_()
            else:
                grad_RV.mul_(-grad_n[rows, None])
            grad_RV.scatter_add_(1, chosen_n[rows, None], grad_n[rows, None])
            logits_nV[rows] = grad_RV.to(logits_nV.dtype)
        return logits_nV, None, None


def _blocks(n: int, vocabulary: int) -> list[slice]:
    step = max(1, BLOCK // vocabulary)
    return [slice(start, start + step) for start in range(0, n, step)]
