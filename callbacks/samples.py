"""The same few validation prompts explained after every validation: on disk, and as a table where W&B is used."""

import hashlib
import json
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from callbacks.durable import write_durably
from datamodules.prompts import PromptBuilder
from lightning_modules.collectives import world


class SampleTable(pl.Callback):
    """Writes `samples.jsonl`; user ids are hashed in what leaves the machine."""

    def __init__(self, builder: PromptBuilder, folder: Path, count: int = 8) -> None:
        self.builder, self.folder = builder, folder
        self.records = builder.corpus.rows("valid")[:count].tolist()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Every rank generates the same texts (the call is collective under ZeRO-3); rank 0 writes them."""
        batch = self.builder.batch(self.records, None)
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        response_BT, _ = module.explain(batch)  # type: ignore[operator]
        texts = self.builder.tokenizer.batch_decode(response_BT, skip_special_tokens=True)
        if world()[0] != 0:
            return
        corpus = self.builder.corpus
        rows = [
            {
                "epoch": trainer.current_epoch,
                "user": hashlib.sha256(corpus.users[corpus.user_R[record]].encode()).hexdigest()[:12],
                "item": corpus.items[corpus.item_R[record]],
                "reference": corpus.explanations[record],
                "explanation": " ".join(text.split()),
            }
            for record, text in zip(self.records, texts, strict=True)
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "samples_by_epoch.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        # A run that goes on repeats the epoch that was cut off.
        lines = [line for line in lines if line and json.loads(line)["epoch"] < trainer.current_epoch]
        write_durably(
            path, "".join(line + "\n" for line in [*lines, *(json.dumps(r, ensure_ascii=False) for r in rows)])
        )
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("samples", columns=list(rows[0]), data=[list(row.values()) for row in rows])
