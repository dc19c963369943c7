"""The two rewards of an explanation and their standardisation (methods A.2 steps 3 to 5).

B explanations, T tokens, D width of the encoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.contrastive import concept_text, encode_texts
from metrics.errors import InputError
from models.discriminator import Discriminator, sequence_reward, token_reward
from models.text_encoder import TextEncoder

GROUP = 256  # texts that are read together


@dataclass(frozen=True)
class Scores:
    """Raw rewards."""

    ccr_B: Tensor  # cosine of explanation and candidate concepts
    hqar_B: Tensor  # by sequence, reduced as configured
    hqar_BT: Tensor  # by token, zero where masked


class Scorer:
    """Scores explanations by the frozen reward models, which stay whole on every rank: they are small."""

    def __init__(
        self,
        encoder: TextEncoder,
        encoder_tokenizer: PreTrainedTokenizerBase,
        discriminator: Discriminator,
        policy_tokenizer: PreTrainedTokenizerBase,
        clip: float,
        reduce: str,
    ) -> None:
        entries = discriminator.vocabulary
        if entries < len(policy_tokenizer):
            raise InputError(
                f"the hqar stage's discriminator knows {entries} tokens and the policy's tokenizer has "
                f"{len(policy_tokenizer)}: it was trained for another model; train stage=hqar on this explanation stage"
            )
        self.encoder, self.encoder_tokenizer = encoder.eval(), encoder_tokenizer
        self.discriminator, self.policy_tokenizer = discriminator.eval(), policy_tokenizer
        self.clip, self.reduce = clip, reduce
        self._concepts: dict[str, Tensor] = {}

    def to(self, device: torch.device) -> None:
        """Moves the reward models."""
        self.encoder.to(device)
        self.discriminator.to(device)

    @torch.no_grad()
    def score(self, response_BT: Tensor, mask_BT: Tensor, candidates: list[list[str]]) -> Scores:
        """Rewards of responses given as the policy's tokens; `candidates` are the names C_uv of each."""
        texts = self.policy_tokenizer.batch_decode(response_BT.cpu(), skip_special_tokens=True)
        ccr_B = (self._encode(texts) * self._encode_concepts(candidates)).sum(-1)
        logits_BT = self._judge(response_BT, mask_BT)
        hqar_B = sequence_reward(logits_BT, mask_BT, self.clip, self.reduce)
        return Scores(ccr_B, hqar_B, token_reward(logits_BT, mask_BT, self.clip))

    def _encode(self, texts: list[str]) -> Tensor:
        device = next(self.encoder.parameters()).device
        ids_BS, mask_BS = encode_texts(self.encoder_tokenizer, texts)
        if ids_BS.shape[1] == 0:  # nothing but empty texts
            return torch.zeros(len(texts), self.encoder.model.config.hidden_size, device=device)
        ids_BS, mask_BS = ids_BS.long().to(device), mask_BS.to(device)
        found = torch.empty(len(texts), self.encoder.model.config.hidden_size, device=device)
        for rows, width in _groups(mask_BS.sum(1)):
            found[rows] = self.encoder(ids_BS[rows, :width], mask_BS[rows, :width])
        return found

    def _judge(self, response_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The discriminator's logits [B, T], zero behind the longest text of a group."""
        logits_BT = torch.zeros(response_BT.shape, device=response_BT.device)
        for rows, width in _groups(mask_BT.sum(1)):
            logits_BT[rows, :width] = self.discriminator(response_BT[rows, :width], mask_BT[rows, :width]).float()
        return logits_BT

    def _encode_concepts(self, candidates: list[list[str]]) -> Tensor:
        """Embeddings [B, D] of candidate lists, each encoded once in a run."""
        lists = [concept_text(names) for names in candidates]
        new = [text for text in dict.fromkeys(lists) if text not in self._concepts]
        if new:
            self._concepts.update(zip(new, self._encode(new), strict=True))
        return torch.stack([self._concepts[text] for text in lists])


def _groups(length_B: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows of like length together, and the longest of each group: less padding is read."""
    for rows in length_B.argsort(stable=True).split(GROUP):
        yield rows, max(int(length_B[rows].max()), 1)


class RunningMoments:
    """Mean and standard deviation of all values seen (Chan et al.'s merging of batches)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0.0, 0.0, 0.0

    def update(self, values_B: Tensor) -> None:
        """Adds the values of a batch over all ranks."""
        count, mean = len(values_B), float(values_B.double().mean())
        squares = float((values_B.double() - mean).square().sum())
        total, gap = self.count + count, mean - self.mean
        self._squares += squares + gap * gap * self.count * count / total
        self.mean += gap * count / total
        self.count = total

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load(self, state: dict[str, float]) -> None:
        """The inverse of `state`."""
        self.count, self.mean, self._squares = state["count"], state["mean"], state["squares"]

    @property
    def std(self) -> float:
        """Population standard deviation, not below 1e-4."""
        return max((self._squares / max(self.count, 1.0)) ** 0.5, 1e-4)
