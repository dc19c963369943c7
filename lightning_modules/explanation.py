"""Fine-tuning the explaining language model: L_e, mean over records of the mean over tokens of -log P (A.2, step 2).

B batch, P prompt tokens, T response tokens, V vocabulary, W width of the language model.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.prompts import PromptBatch
from lightning_modules.collectives import full_state, mean_over_ranks, sum_over_ranks, unsharded, world
from lightning_modules.fitting import FitConfig, adamw, trainable, warm_then_linear
from metrics.errors import InputError
from models.explainer import Explainer, save_explainer
from models.generation import generate
from models.language_model import LoraConfig, NewModelConfig
from models.sampling import uniforms


@dataclass(frozen=True)
class ExplanationConfig:
    """The explanation stage."""

    model: str = field(
        default="", metadata={"help": "Hugging Face name (NAME@REVISION) or folder of a causal LM; empty creates one"}
    )
    new_model: NewModelConfig = field(default_factory=NewModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    connector_epochs: int = field(
        default=1, metadata={"help": "first epochs, in which only connectors and soft vectors learn"}
    )
    connector_lr: float = field(default=1e-3, metadata={"help": "highest learning rate of connectors and soft vectors"})
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, batch_size=64, lr=1e-3, patience=2))
    samples: int = field(
        default=10_000, metadata={"help": "most train prompts sampled at the end: the fakes of the HQAR stage"}
    )
    init_from: str = field(
        default="", metadata={"help": "folder of a finished explanation stage to use instead of training"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.connector_epochs < self.fit.epochs:
            raise InputError(
                f"explanation.connector_epochs={self.connector_epochs} leaves no epoch of "
                f"explanation.fit.epochs={self.fit.epochs} in which the language model learns; lower it or raise that "
                "(explanation.fit.lr=0 keeps the language model as it is)"
            )


class ExplanationModule(pl.LightningModule):
    """Fits an `Explainer` in two phases: connectors first, then the language model or its adapters too."""

    def __init__(self, config: ExplanationConfig, explainer: Explainer, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.config, self.explainer, self.tokenizer = config, explainer, tokenizer
        self._sums: list[Tensor] = []
        self.max_new_tokens = 0  # set for generation
        self.sample_seed: int | None = None  # None generates greedily
        self.train()  # models are read in evaluation mode, and Lightning leaves modes as it finds them

    def losses(self, batch: PromptBatch) -> Tensor:
        """-log P of the explanation's tokens [B, T], zero where masked."""
        prompt_BPW = self.explainer.embed_prompt(
            batch.prompt_BP, batch.slot_BP, batch.user_BD, batch.item_BD, batch.sentiment_B
        )
        reading = self.explainer(
            prompt_BPW, batch.prompt_mask_BP, batch.response_BT, batch.response_mask_BT, batch.parts
        )
        return -reading.log_prob_BT

    def training_step(self, batch: PromptBatch, index: int) -> Tensor:
        """L_e over the global batch."""
        record_B = self.losses(batch).sum(1) / batch.response_mask_BT.sum(1).clamp(min=1)
        loss = (record_B * batch.weight_B).sum() * batch.scale
        self.log("explanation/train/loss", mean_over_ranks(loss.detach()))
        return loss

    def validation_step(self, batch: PromptBatch, index: int) -> None:
        """Sums for the loss by record and the perplexity by token."""
        loss_BT, weight_B = self.losses(batch), batch.weight_B
        record_B = loss_BT.sum(1) / batch.response_mask_BT.sum(1).clamp(min=1)
        tokens = (batch.response_mask_BT.sum(1) * weight_B).sum()
        sums = [(record_B * weight_B).sum(), weight_B.sum(), (loss_BT.sum(1) * weight_B).sum(), tokens]
        self._sums.append(torch.stack(sums))

    def on_validation_epoch_end(self) -> None:
        """Logs loss and perplexity over all ranks."""
        loss, records, nll, tokens = sum_over_ranks(torch.stack(self._sums).sum(0)).tolist()
        self._sums.clear()
        self.log("explanation/valid/loss", loss / max(records, 1))
        self.log("explanation/valid/perplexity", float(torch.tensor(nll / max(tokens, 1)).exp()))

    def configure_optimizers(self) -> dict:
        """Two groups: connectors learn throughout; the language model's rate is 0 in the connector epochs.

        At rate 0 AdamW leaves weights as they are, its decay included, so the first phase is exactly "LM frozen",
        within one optimizer, which is all that DeepSpeed takes.
        """
        steps = int(self.trainer.estimated_stepping_batches)
        first = steps * self.config.connector_epochs // max(1, self.config.fit.epochs)
        later = warm_then_linear(steps - first, self.config.fit.warmup)
        soft = [p for name, p in self.explainer.named_parameters() if not name.startswith("lm.")]
        groups = [{"params": soft, "lr": self.config.connector_lr}]
        factors = [warm_then_linear(steps, self.config.fit.warmup)]
        if learning := trainable(self.explainer.lm):
            groups.append({"params": learning, "lr": self.config.fit.lr})
            factors.append(lambda step: 0.0 if step < first else later(step - first))
        return adamw(groups, factors, self.config.fit.weight_decay)

    @torch.no_grad()
    def explain(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """(response [B, T], mask [B, T]) for prompts; collective under ZeRO-3."""
        was_training = self.explainer.training
        self.explainer.eval()
        uniform_BT = None
        if self.sample_seed is not None:
            uniform_BT = uniforms(self.sample_seed, 0, batch.record_B.tolist(), self.max_new_tokens)
        with unsharded(self.trainer.strategy.model, self.explainer):
            prompt_BPW = self.explainer.embed_prompt(
                batch.prompt_BP, batch.slot_BP, batch.user_BD, batch.item_BD, batch.sentiment_B
            )
            end, fill = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
            made = generate(
                self.explainer.lm, prompt_BPW, batch.prompt_mask_BP, end, fill, self.max_new_tokens, uniform_BT
            )
        self.explainer.train(was_training)
        return made.response_BT, made.mask_BT

    def predict_step(self, batch: PromptBatch, index: int) -> list[tuple[int, str]]:
        """(record, explanation) for each row that is not there for padding."""
        response_BT, _ = self.explain(batch)
        texts = self.tokenizer.batch_decode(response_BT, skip_special_tokens=True)
        rows = zip(batch.record_B.tolist(), texts, batch.weight_B.tolist(), strict=True)
        return [(record, " ".join(text.split())) for record, text, weight in rows if weight > 0]

    def export(self, folder: Path) -> None:
        """Writes language model (or adapters), tokenizer and connectors; collective."""
        state = full_state(self.explainer, keep=self._exported)
        if world()[0] == 0:
            save_explainer(folder, state, self.explainer, self.tokenizer)

    def _exported(self, name: str) -> bool:
        adapters_only = isinstance(self.explainer.lm, PeftModel)
        return not adapters_only or "lora_" in name or not name.startswith("lm.")
