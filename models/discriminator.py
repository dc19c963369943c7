"""The discriminator of high-quality text (HQAR; methods A.5.6): after each token, is this of the high-quality set?

B texts, T tokens, D width.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from models.kernels import with_faster_kernels
from models.language_model import load_trunk
from models.packed import packs_by_runs, states_of_texts


class Discriminator(nn.Module):
    """A causal trunk that shares the policy's tokenizer, and a linear head on each token."""

    def __init__(self, trunk: PreTrainedModel, begin: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.config.hidden_size, 1)
        self.begin = begin  # the token put before a text, so that its first token has something to its left

    @property
    def vocabulary(self) -> int:
        """Entries of the tokenizer that it reads."""
        return self.trunk.config.vocab_size

    def forward(self, text_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits z [B, T], zero where masked; P_D(token is of the high-quality set) = sigmoid(z), reading up to it."""
        ids_BS = torch.cat([torch.full_like(text_BT[:, :1], self.begin), text_BT], dim=1)
        if packs_by_runs(self.trunk, ids_BS):
            row_m, column_m, hidden_mD = states_of_texts(self.trunk, ids_BS, F.pad(mask_BT, (1, 0), value=1))
            logit_m = self.head(hidden_mD).squeeze(-1)
            return logit_m.new_zeros(ids_BS.shape).index_put((row_m, column_m), logit_m)[:, 1:]
        # All padding stands at the right, where causal attention never looks.
        hidden_BSD = self.trunk(input_ids=ids_BS, use_cache=False).last_hidden_state
        return self.head(hidden_BSD[:, 1:]).squeeze(-1) * mask_BT


def discriminator_loss(logits_BT: Tensor, mask_BT: Tensor, real_B: Tensor, smoothing: float) -> Tensor:
    """Loss [B] of each text: the mean over its tokens of BCE, with the target 1 - smoothing for high-quality ones."""
    target_BT = (real_B * (1 - smoothing))[:, None].expand_as(logits_BT)
    loss_BT = F.binary_cross_entropy_with_logits(logits_BT.float(), target_BT, reduction="none")
    return (loss_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)


def token_reward(logits_BT: Tensor, mask_BT: Tensor, clip: float) -> Tensor:
    """-log(1 - P_D) for each token [B, T], zero where masked; P_D is clipped to [clip, 1 - clip].

    -log(1 - sigmoid(z)) = softplus(z), which neither overflows nor meets log 0.
    """
    bound = float(torch.logit(torch.tensor(1 - clip))) if clip > 0 else float("inf")
    return F.softplus(logits_BT.float().clamp(-bound, bound)) * mask_BT


def sequence_reward(logits_BT: Tensor, mask_BT: Tensor, clip: float, reduce: str) -> Tensor:
    """R_HQAR [B]: `sum` as published, or `mean` over tokens, which does not pay for length."""
    total_B = token_reward(logits_BT, mask_BT, clip).sum(1)
    return total_B if reduce == "sum" else total_B / mask_BT.sum(1).clamp(min=1)


def begin_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What the discriminator reads before a text; GPT-2 has an end token only."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def new_discriminator(folder: str, layers: int, begin: int) -> Discriminator:
    """A discriminator on the first `layers` blocks of the causal language model in `folder`."""
    return Discriminator(load_trunk(folder, layers), begin)


def save_discriminator(folder: Path, state: dict[str, Tensor], discriminator: Discriminator) -> None:
    """Writes the gathered `state` (keys of `discriminator.state_dict()`) and the trunk's config."""
    discriminator.trunk.config.save_pretrained(folder)
    save_file(state, folder / "discriminator.safetensors", metadata={"begin": str(discriminator.begin)})


def load_discriminator(folder: Path, begin: int) -> Discriminator:
    """Reads what `save_discriminator` wrote."""
    trunk = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False), dtype=torch.float32)
    discriminator = Discriminator(with_faster_kernels(trunk), begin)
    discriminator.load_state_dict(load_file(folder / "discriminator.safetensors"))
    return discriminator
