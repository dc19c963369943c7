"""Generation from input embeddings with a key-value cache, greedy or with given random numbers.

B batch, P prompt tokens, T new tokens, V vocabulary, W width of the language model. The random numbers come from the
caller, a row for each sample of a record: it then gets the same text on any number of ranks and in any batch.
"""

import numpy as np
import torch
from torch import Tensor, nn

from models.explainer import positions


def uniforms(seed: int, iteration: int, records: list[int], length: int, samples: list[int] | None = None) -> Tensor:
    """Uniform numbers [B, T] in (0, 1), a function of seed, iteration, record id and sample number (0) alone."""
    rows = [
        np.random.Generator(np.random.Philox(key=[seed, iteration], counter=[0, sample, 0, record])).random(length)
        for record, sample in zip(records, samples or [0] * len(records), strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


def choose(logits_BV: Tensor, uniform_B: Tensor | None) -> Tensor:
    """The next tokens [B]: the likeliest, or by inversion of the distribution function at `uniform_B`."""
    if uniform_B is None:
        return logits_BV.argmax(-1)
    cumulative_BV = logits_BV.double().softmax(-1).cumsum(-1)
    # The last entry may fall short of 1 by rounding; scaling keeps the choice inside the vocabulary.
    target_B = uniform_B.to(cumulative_BV) * cumulative_BV[:, -1]
    return torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0].clamp(max=logits_BV.shape[-1] - 1)


@torch.no_grad()
def generate(
    lm: nn.Module,
    prompt_BPW: Tensor,
    prompt_mask_BP: Tensor,
    end: int,
    fill: int,
    length: int,
    uniform_BT: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Continues prompts by up to `length` tokens.

    Returns (response [B, length], mask [B, length]): the mask is 1 up to and with the end token, and `fill` stands
    behind it. `uniform_BT` samples at temperature 1; None is greedy.
    """
    batch, device = len(prompt_BPW), prompt_BPW.device
    response_BT = torch.full((batch, length), fill, dtype=torch.long, device=device)
    mask_BT = torch.zeros((batch, length), dtype=torch.long, device=device)
    going_B = torch.ones(batch, dtype=torch.bool, device=device)
    mask_BS = prompt_mask_BP.long()
    inputs, position = {"inputs_embeds": prompt_BPW}, positions(mask_BS)
    cache = None
    for step in range(length):
        output = lm(
            **inputs,
            attention_mask=mask_BS,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        token_B = choose(output.logits[:, -1].float(), None if uniform_BT is None else uniform_BT[:, step].to(device))
        token_B = torch.where(going_B, token_B, torch.full_like(token_B, fill))
        response_BT[:, step], mask_BT[:, step] = token_B, going_B.long()
        going_B = going_B & (token_B != end)
        if not going_B.any():
            break
        mask_BS = torch.cat([mask_BS, mask_BT[:, step : step + 1]], dim=1)
        inputs, position = {"input_ids": token_B[:, None]}, positions(mask_BS)[:, -1:]
    return response_BT, mask_BT
