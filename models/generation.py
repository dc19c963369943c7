"""Generation from input embeddings with a key-value cache, greedy or with given random numbers.

B responses, Q prompts of P tokens, T new tokens, V vocabulary, W width of the model; R rows that still go on. The
random numbers come from the caller, a row for each sample of a record: it gets the same text on any number of ranks
and in any batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GPT2Model
from transformers.cache_utils import DynamicLayer

from models.explainer import positions
from models.gpt2 import last_state
from models.language_model import head_logits, trunk_of
from models.log_probs import log_sum_exp

BLOCK = 128  # entries of the vocabulary whose chances are summed up first, see `choose`
WORTH_MOVING = 0.25  # share of rows that must have ended before the others are moved together


@dataclass(frozen=True)
class Sampling:
    """What is kept of a distribution before it is sampled."""

    top_k: int = 0  # the k likeliest tokens; 0 keeps all
    top_p: float = 1.0  # the fewest likeliest tokens that together have this chance


@dataclass
class Generated:
    """Responses and what was computed on the way."""

    response_BT: Tensor
    mask_BT: Tensor  # 1 up to and with the end token
    log_prob_BT: Tensor  # log pi of the tokens under the whole vocabulary, float32; zero where masked
    hidden_BTW: Tensor  # last hidden states from which the tokens were predicted; zero where masked


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
    if uniform_B is None:
        most_B, token_B = logits_BV.max(-1)
        return token_B, most_B - logits_BV.logsumexp(-1)
    if sampling is not None and (sampling.top_k or sampling.top_p < 1):
        logits_BK, token_BK = _likeliest(logits_BV, sampling)
        place_B1 = choose(logits_BK, uniform_B)[0][:, None]
        return token_BK.gather(1, place_B1)[:, 0], logits_BK.gather(1, place_B1)[:, 0] - logits_BV.logsumexp(-1)
    chance_BV = logits_BV.softmax(-1)
    # In two steps, the sum of each block and then the entries of one: a running sum over the whole vocabulary in
    # float64 would take longer than the last layer of a small model.
    chance_BGN = F.pad(chance_BV, (0, -chance_BV.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    until_BG = chance_BGN.sum(-1).double().cumsum(-1)
    target_B1 = uniform_B[:, None].to(until_BG) * until_BG[:, -1:]
    block_B1 = torch.searchsorted(until_BG, target_B1, right=True).clamp(max=until_BG.shape[1] - 1)
    target_B1 = target_B1 - F.pad(until_BG, (1, 0)).gather(1, block_B1)
    within_BN = chance_BGN.gather(1, block_B1[..., None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    # The last entry may fall short of the block's sum by rounding; the clamp keeps the choice at the last likely one.
    target_B1 = torch.minimum(target_B1, within_BN[:, -1:] * (1 - 1e-15))
    token_B1 = block_B1 * BLOCK + torch.searchsorted(within_BN, target_B1, right=True)
    return token_B1[:, 0], logits_BV.gather(1, token_B1)[:, 0] - log_sum_exp(logits_BV, chance_BV)


def _likeliest(logits_BV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(logits, tokens) [B, K], likeliest first; what top_p leaves out has -inf."""
    logits_BK, token_BK = logits_BV.topk(min(sampling.top_k or logits_BV.shape[1], logits_BV.shape[1]), dim=-1)
    chance_BK = logits_BK.softmax(-1)
    before_BK = chance_BK.cumsum(-1) - chance_BK
    return logits_BK.masked_fill(before_BK >= sampling.top_p, float("-inf")), token_BK


class RoomyLayer(DynamicLayer):
    """Keys and values [B, heads, length, width] written into room that is made once, where DynamicLayer copies all."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.length = room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple:
        """Appends, and returns all of it so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [s.new_empty(*s.shape[:2], self.room, s.shape[3]) for s in (key_states, value_states)]
        end = self.length + key_states.shape[2]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, self.length : end] = new
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the given rows, in their order; a row may come several times."""
        self._room = [room.index_select(0, indices) for room in self._room]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (room[:, :, : self.length] for room in self._room)


def _new_cache(lm: nn.Module, room: int) -> Cache:
    config = lm.config.get_text_config(decoder=True)
    if set(getattr(config, "layer_types", None) or ["full_attention"]) <= {"full_attention"}:
        return Cache(layers=[RoomyLayer(room) for _ in range(config.num_hidden_layers)])
    return DynamicCache(config=lm.config)  # sliding windows and linear attention have layers of their own


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
    device = prompt_QPW.device
    prompt_B = torch.arange(len(prompt_QPW), device=device) if prompt_B is None else prompt_B.to(device)
    batch, mask_RS = len(prompt_B), prompt_mask_QP.long()
    uniform_BT = None if uniform_BT is None else uniform_BT.to(device)
    cache = _new_cache(lm, mask_RS.shape[1] + length)
    hidden_RW = _step(lm, cache, mask_RS, prompt_QPW)
    if not torch.equal(prompt_B, torch.arange(len(prompt_QPW), device=device)):
        cache.batch_select_indices(prompt_B)
        hidden_RW, mask_RS = hidden_RW[prompt_B], mask_RS[prompt_B]
    made = Generated(
        torch.full((batch, length), fill, dtype=torch.long, device=device),
        torch.zeros((batch, length), dtype=torch.long, device=device),
        torch.zeros((batch, length), device=device),
        hidden_RW.new_zeros((batch, length, hidden_RW.shape[1])),
    )
    row_R = torch.arange(batch, device=device)
    going_R = torch.ones_like(row_R, dtype=torch.bool)
    for step in range(length):
        uniform_R = None if uniform_BT is None else uniform_BT[row_R, step]
        token_R, log_prob_R = choose(head_logits(lm, hidden_RW).float(), uniform_R, sampling)
        made.response_BT[row_R, step] = torch.where(going_R, token_R, fill)
        made.mask_BT[row_R, step] = going_R.long()
        made.log_prob_BT[row_R, step] = log_prob_R * going_R
        made.hidden_BTW[row_R, step] = hidden_RW * going_R[:, None]
        going_R = going_R & (token_R != end)
        going = int(going_R.sum())
        if going == 0 or step == length - 1:
            break
        if going <= (1 - WORTH_MOVING) * len(row_R):
            kept = going_R.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            row_R, going_R, token_R, mask_RS = row_R[kept], going_R[kept], token_R[kept], mask_RS[kept]
        mask_RS = F.pad(mask_RS, (0, 1), value=1)
        hidden_RW = _step(lm, cache, mask_RS, lm.get_input_embeddings()(token_R[:, None]))
    return made


def _step(lm: nn.Module, cache: Cache, mask_RS: Tensor, inputs_RNW: Tensor) -> Tensor:
    """Reads the inputs behind what the cache holds; the last position's hidden states [R, W]."""
    trunk, position_RN = trunk_of(lm), positions(mask_RS)[:, -inputs_RNW.shape[1] :]
    if isinstance(trunk, GPT2Model):
        return last_state(trunk, inputs_RNW, mask_RS, position_RN, cache)
    output = trunk(
        inputs_embeds=inputs_RNW,
        attention_mask=mask_RS,
        position_ids=position_RN,
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state[:, -1]
