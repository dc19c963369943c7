"""The encoder of the concept-consistency reward, trained by contrast (methods A.2 step 3, A.5.5).

B pairs, D width. R_CCR = cos(f(explanation), f(candidate concepts)).
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.contrastive import PairBatch
from lightning_modules.collectives import full_state, gather_rows, sum_over_ranks, world
from lightning_modules.fitting import FitConfig, one_group
from metrics.errors import InputError
from models.language_model import NewModelConfig
from models.text_encoder import TextEncoder, info_nce


@dataclass(frozen=True)
class CCRConfig:
    """The CCR stage."""

    model: str = field(
        default="",
        metadata={"help": "Hugging Face name (NAME@REVISION) or folder of a BERT-class encoder; empty creates one"},
    )
    new_model: NewModelConfig = field(default_factory=lambda: NewModelConfig(layers=2))
    temperature: float = field(default=0.05, metadata={"help": "tau of the contrastive loss"})
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=8, batch_size=128, lr=5e-4, patience=2))
    init_from: str = field(default="", metadata={"help": "folder of a finished ccr stage to use instead of training"})

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"ccr.temperature={self.temperature}: must be above 0")


class CCRModule(pl.LightningModule):
    """Fits a `TextEncoder`; the negatives of a pair are all other pairs of the micro-batch, over all ranks."""

    def __init__(self, config: CCRConfig, encoder: TextEncoder, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.config, self.encoder, self.tokenizer = config, encoder, tokenizer
        self._sums: list[Tensor] = []
        self.train()  # models are read in evaluation mode, and Lightning leaves modes as it finds them

    def _everywhere(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Embeddings of the pairs of all ranks (texts, concept lists); only this rank's own carry gradient.

        Each rank computes the loss of the whole micro-batch. Its gradient through this rank's rows, summed over
        ranks, is then exactly that of one rank with all rows: negatives' gradients included.
        """
        kept = batch.weight_B > 0
        text_BD = self.encoder(batch.text_BS, batch.text_mask_BS)[kept]
        concepts_BD = self.encoder(batch.concepts_BS, batch.concepts_mask_BS)[kept]
        rank, ranks = world()
        if ranks == 1:
            return text_BD, concepts_BD
        counts = gather_rows(torch.tensor([len(text_BD)], device=self.device)).tolist()
        start = sum(counts[:rank])
        whole = []
        for own_BD in (text_BD, concepts_BD):
            all_BD = gather_rows(own_BD)
            whole.append(torch.cat([all_BD[:start], own_BD, all_BD[start + len(own_BD) :]]))
        return whole[0], whole[1]

    def training_step(self, batch: PairBatch, index: int) -> Tensor:
        """InfoNCE in both directions, mean over the global batch."""
        loss = info_nce(*self._everywhere(batch), self.config.temperature) * batch.scale
        self.log("ccr/train/loss", loss.detach() / world()[1])
        return loss

    def validation_step(self, batch: PairBatch, index: int) -> None:
        """How often a text is nearer to its own concept list than to any other of its batch."""
        text_BD, concepts_BD = self._everywhere(batch)
        right = ((text_BD @ concepts_BD.T).argmax(1) == torch.arange(len(text_BD), device=self.device)).sum()
        loss = info_nce(text_BD, concepts_BD, self.config.temperature)
        self._sums.append(torch.stack([right.float(), loss, torch.tensor(float(len(text_BD)), device=self.device)]))

    def on_validation_epoch_end(self) -> None:
        """Logs accuracy and loss; every rank has seen all rows, so the sums are divided by the ranks."""
        right, loss, count = (sum_over_ranks(torch.stack(self._sums).sum(0)) / world()[1]).tolist()
        self._sums.clear()
        self.log("ccr/valid/retrieval_accuracy", right / max(count, 1))
        self.log("ccr/valid/loss", loss / max(count, 1))

    def configure_optimizers(self) -> dict:
        """AdamW with warm-up and linear decay."""
        return one_group(self.encoder, self.config.fit, int(self.trainer.estimated_stepping_batches))

    def export(self, folder: Path) -> None:
        """Writes the encoder as a Hugging Face folder; collective."""
        state = full_state(self.encoder.model)
        if world()[0] == 0:
            self.encoder.model.save_pretrained(folder, state_dict=state)
            self.tokenizer.save_pretrained(folder)
