"""Log-probabilities of chosen tokens and entropies from logits, without a float32 table of the vocabulary.

n tokens, V vocabulary.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK = {"cpu": 2**19, "cuda": 2**27}  # entries handled at a time: temporaries stay in cache, or are small


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
        summary = _fused(_summary_by_row) if logits_nV.is_cuda else _summary
        for rows in _blocks(logits_nV):
            total_n[rows], entropy_n[rows] = summary(logits_nV[rows])
        log_prob_n = logits_nV.gather(1, chosen_n[:, None])[:, 0].float() - total_n
        ctx.save_for_backward(logits_nV, chosen_n, total_n, entropy_n)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_n)
        ctx.entropy_gradient = entropy_gradient
        return log_prob_n, entropy_n

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits_nV, *of_rows = ctx.saved_tensors
        grad_n, entropy_grad_n = gradients
        of_rows += [grad_n, entropy_grad_n if ctx.entropy_gradient else None]
        gradient = _fused(_gradient_by_entry) if logits_nV.is_cuda else _gradient
        for rows in _blocks(logits_nV):
            gradient(logits_nV[rows], *(None if part is None else part[rows] for part in of_rows))
        return logits_nV, None, None


def _summary(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """(log sum exp, entropy) [R] in float32."""
    logits_RV = logits_RV.float()
    chance_RV = logits_RV.softmax(1)
    total_R = log_sum_exp(logits_RV, chance_RV)
    return total_R, total_R - chance_RV.mul_(logits_RV).sum(1)


def _gradient(
    logits_RV: Tensor,
    chosen_R: Tensor,
    total_R: Tensor,
    entropy_R: Tensor,
    grad_R: Tensor,
    entropy_grad_R: Tensor | None,
) -> None:
    """Puts the logits' gradient in their place."""
    given_RV, logits_RV = logits_RV, logits_RV.float()
    grad_RV = logits_RV.softmax(1)
    if entropy_grad_R is not None:
        factor_RV = logits_RV.sub_(total_R[:, None]).add_(entropy_R[:, None])
        factor_RV.mul_(entropy_grad_R[:, None]).add_(grad_R[:, None])
        grad_RV.mul_(factor_RV).neg_()
    else:
        grad_RV.mul_(-grad_R[:, None])
    grad_RV.scatter_add_(1, chosen_R[:, None], grad_R[:, None])
    given_RV.copy_(grad_RV)


def _summary_by_row(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """`_summary` without a table besides the given one, if it is compiled."""
    logits_RV = logits_RV.float()
    most_R1 = logits_RV.amax(1, keepdim=True)
    part_RV = (logits_RV - most_R1).exp()
    sum_R = part_RV.sum(1)
    total_R = most_R1[:, 0] + sum_R.log()
    return total_R, total_R - (part_RV * logits_RV).sum(1) / sum_R


def _gradient_by_entry(
    logits_RV: Tensor,
    chosen_R: Tensor,
    total_R: Tensor,
    entropy_R: Tensor,
    grad_R: Tensor,
    entropy_grad_R: Tensor | None,
) -> None:
    """`_gradient` without a table besides the given one, if it is compiled."""
    log_prob_RV = logits_RV.float() - total_R[:, None]
    factor_RV = grad_R[:, None]
    if entropy_grad_R is not None:
        factor_RV = factor_RV + entropy_grad_R[:, None] * (log_prob_RV + entropy_R[:, None])
    is_chosen_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device) == chosen_R[:, None]
    logits_RV.copy_(torch.where(is_chosen_RV, grad_R[:, None], 0.0) - log_prob_RV.exp() * factor_RV)


@functools.cache
def _fused(function: Callable) -> Callable:
    """The function as one kernel, where there is what compiling it takes."""
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    can = importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))
    return torch.compile(function, dynamic=True) if can else function


def _blocks(logits_nV: Tensor) -> list[slice]:
    step = max(1, BLOCK[logits_nV.device.type] // logits_nV.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits_nV), step)]
