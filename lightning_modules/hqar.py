"""The discriminator of the high-quality alignment reward: token-level binary cross-entropy (methods A.2, A.5.6).

B texts, T tokens. R_HQAR = -sum over tokens of log(1 - P_D).
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.quality import HighQualityConfig, QualityBatch
from lightning_modules.collectives import full_state, mean_over_ranks, sum_over_ranks, world
from lightning_modules.fitting import FitConfig, one_group
from metrics.errors import InputError
from models.discriminator import Discriminator, discriminator_loss, save_discriminator


@dataclass(frozen=True)
class HQARConfig:
    """The HQAR stage, and how its reward is read."""

    layers: int = field(default=2, metadata={"help": "blocks of the policy's language model used as trunk"})
    smoothing: float = field(default=0.1, metadata={"help": "label smoothing of high-quality texts"})
    reduce: str = field(
        default="mean", metadata={"help": "mean over tokens, or sum as published, which pays for length"}
    )
    clip: float = field(default=0.01, metadata={"help": "P_D is kept in [clip, 1 - clip]; 0 leaves it unbounded"})
    high_quality: HighQualityConfig = field(default_factory=HighQualityConfig)
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=4, batch_size=128, lr=3e-4, patience=2))
    init_from: str = field(default="", metadata={"help": "folder of a finished hqar stage to use instead of training"})

    def __post_init__(self) -> None:
        if self.reduce not in ("mean", "sum"):
            raise InputError(f"hqar.reduce={self.reduce}: use mean or sum")
        if not 0 <= self.clip < 0.5 or not 0 <= self.smoothing < 0.5:
            raise InputError(f"hqar.clip={self.clip} and hqar.smoothing={self.smoothing}: must be in [0, 0.5)")


class HQARModule(pl.LightningModule):
    """Fits a `Discriminator` on texts of H against samples of the tuned language model."""

    def __init__(self, config: HQARConfig, discriminator: Discriminator) -> None:
        super().__init__()
        self.config, self.discriminator = config, discriminator
        self._sums: list[Tensor] = []
        self.train()  # models are read in evaluation mode, and Lightning leaves modes as it finds them

    def training_step(self, batch: QualityBatch, index: int) -> Tensor:
        """L_D over the global batch."""
        logits_BT = self.discriminator(batch.text_BT, batch.mask_BT)
        loss_B = discriminator_loss(logits_BT, batch.mask_BT, batch.real_B, self.config.smoothing)
        loss = (loss_B * batch.weight_B).sum() * batch.scale
        self.log("hqar/train/loss", mean_over_ranks(loss.detach()))
        return loss

    def validation_step(self, batch: QualityBatch, index: int) -> None:
        """Sums for loss, token accuracy and text accuracy."""
        logits_BT = self.discriminator(batch.text_BT, batch.mask_BT)
        loss_B = discriminator_loss(logits_BT, batch.mask_BT, batch.real_B, self.config.smoothing)
        kept_BT = batch.mask_BT * batch.weight_B[:, None]
        token_right_BT = ((logits_BT > 0) == (batch.real_B[:, None] > 0.5)) * kept_BT
        text_right_B = ((logits_BT * batch.mask_BT).sum(1) > 0) == (batch.real_B > 0.5)
        sums = [(loss_B * batch.weight_B).sum(), batch.weight_B.sum(), token_right_BT.sum(), kept_BT.sum()]
        self._sums.append(torch.stack([*sums, (text_right_B * batch.weight_B).sum()]))

    def on_validation_epoch_end(self) -> None:
        """Logs loss and accuracies over all ranks."""
        loss, texts, token_right, tokens, text_right = sum_over_ranks(torch.stack(self._sums).sum(0)).tolist()
        self._sums.clear()
        self.log("hqar/valid/loss", loss / max(texts, 1))
        self.log("hqar/valid/token_accuracy", token_right / max(tokens, 1))
        self.log("hqar/valid/text_accuracy", text_right / max(texts, 1))

    def configure_optimizers(self) -> dict:
        """AdamW with warm-up and linear decay."""
        return one_group(self.discriminator, self.config.fit, int(self.trainer.estimated_stepping_batches))

    def export(self, folder: Path) -> None:
        """Writes the discriminator; collective."""
        state = full_state(self.discriminator)
        if world()[0] == 0:
            save_discriminator(folder, state, self.discriminator)
