"""Tokens drawn from a model's distributions by given random numbers.

The random numbers come from the caller, a row for each sample of a record: it gets the same text on any number of ranks
and in any batch. B responses, T new tokens, V vocabulary, W width of the model.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 128  # entries of the vocabulary whose chances are summed up first, see `_drawn`


@dataclass(frozen=True)
class Sampling:
    """What is kept of a distribution before it is sampled."""

    top_k: int = 0  # the k likeliest tokens; 0 keeps all
    top_p: float = 1.0  # the fewest likeliest tokens that together have this chance


@dataclass(frozen=True)
class Limits:
    """Where responses end."""

    length: int  # T, the most tokens of one
    end: int  # the token behind which nothing comes
    fill: int  # stands behind it


@dataclass
class Generated:
    """Responses and what was computed on the way."""

    response_BT: Tensor
    mask_BT: Tensor  # 1 up to and with the end token
    log_prob_BT: Tensor  # log pi of the tokens under the whole vocabulary, float32; zero where masked
    hidden_BTW: Tensor  # last hidden states from which the tokens were predicted; zero where masked

    @classmethod
    def empty(cls, hidden_BW: Tensor, limits: Limits) -> "Generated":
        """For as many responses as there are hidden states, no token said yet."""
        (batch, width), length = hidden_BW.shape, limits.length
        return cls(
            torch.full((batch, length), limits.fill, dtype=torch.long, device=hidden_BW.device),
            torch.zeros((batch, length), dtype=torch.long, device=hidden_BW.device),
            torch.zeros((batch, length), device=hidden_BW.device),
            hidden_BW.new_zeros((batch, length, width)),
        )


def uniforms(seed: int, iteration: int, records: list[int], length: int, samples: list[int] | None = None) -> Tensor:
    """Uniform numbers [B, T] in (0, 1), a function of seed, iteration, record id and sample number (0) alone."""
    rows = [
        np.random.Generator(np.random.Philox(key=[seed, iteration], counter=[0, sample, 0, record])).random(length)
        for record, sample in zip(records, samples or [0] * len(records), strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


def choose(logits_BV: Tensor, uniform_B: Tensor | None, sampling: Sampling | None = None) -> tuple[Tensor, Tensor]:
    """(next tokens [B], their log-probabilities [B] under the whole vocabulary).

    The likeliest, or by inversion of the distribution function at `uniform_B`.
    """
    chance_BV = logits_BV.softmax(-1)
    if uniform_B is None:
        token_B1 = logits_BV.argmax(-1, keepdim=True)
    elif sampling is not None and (sampling.top_k or sampling.top_p < 1):
        logits_BK, token_BK = _likeliest(logits_BV, sampling)
        token_B1 = token_BK.gather(1, _drawn(logits_BK.softmax(-1), uniform_B))
    else:
        token_B1 = _drawn(chance_BV, uniform_B)
    # The logarithm of a chance is as exact as logit - log sum exp until the chance is below 1e-38, which is not drawn.
    return token_B1[:, 0], chance_BV.gather(1, token_B1)[:, 0].log()


def _drawn(chance_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Entries [B, 1] with these chances.

    In two steps, the sum of each block and then the entries of one: a running sum over the whole vocabulary in float64
    would take longer than the last layer of a small model.
    """
    missing = -chance_BV.shape[1] % BLOCK
    padded_BV = F.pad(chance_BV, (0, missing)) if missing else chance_BV  # padding by nothing copies all of it
    chance_BGN = padded_BV.unflatten(1, (-1, BLOCK))
    until_BG = chance_BGN.sum(-1).double().cumsum(-1)
    target_B1 = uniform_B[:, None].to(until_BG) * until_BG[:, -1:]
    block_B1 = torch.searchsorted(until_BG, target_B1, right=True).clamp(max=until_BG.shape[1] - 1)
    target_B1 = target_B1 - F.pad(until_BG, (1, 0)).gather(1, block_B1)
    within_BN = chance_BGN.gather(1, block_B1[..., None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    # The last entry may fall short of the block's sum by rounding; the clamp keeps the choice at the last likely one.
    target_B1 = torch.minimum(target_B1, within_BN[:, -1:] * (1 - 1e-15))
    return block_B1 * BLOCK + torch.searchsorted(within_BN, target_B1, right=True)


def _likeliest(logits_BV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(logits, tokens) [B, K], likeliest first; what top_p leaves out has -inf."""
    logits_BK, token_BK = logits_BV.topk(min(sampling.top_k or logits_BV.shape[1], logits_BV.shape[1]), dim=-1)
    chance_BK = logits_BK.softmax(-1)
    before_BK = chance_BK.cumsum(-1) - chance_BK
    return logits_BK.masked_fill(before_BK >= sampling.top_p, float("-inf")), token_BK
