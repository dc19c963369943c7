"""One execution of a system: what its stages share."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from transformers import PreTrainedTokenizerBase

from callbacks.checkpoints import Checkpoints, Place
from callbacks.export_best import ExportBest
from callbacks.freed_memory import BoundFreedMemory, give_back_freed_memory
from callbacks.gradient_order import SameGradientOrder
from callbacks.guards import StopOnNonFinite
from callbacks.requests import Interrupted, Requests, stop_if_taken
from callbacks.samples import SampleTable
from callbacks.throughput import Explained, Throughput
from callbacks.watchdog import Watchdog
from datamodules.corpus import Corpus
from datamodules.evidence import Evidence
from datamodules.explanation import PromptData
from datamodules.graph import ConceptGraph, build_graph
from datamodules.importers.embedded import write_embedded
from datamodules.prompts import PromptBuilder
from launch.curves import continued_csv
from launch.engine import make_trainer
from launch.footprint import BUCKET
from launch.guessing import little_trained
from launch.hardware import use_cpu
from launch.resume import Found, resume_point
from launch.run_folder import RunFolder
from launch.schema import TrainConfig
from launch.wandb_logger import GuestWandbLogger
from lightning_modules.collectives import barrier, gather_objects, trainable_and_total, world
from lightning_modules.explanation import ExplanationModule
from lightning_modules.fitting import FitConfig
from lightning_modules.ppo.rewards import Scorer
from models.discriminator import begin_token, load_discriminator
from models.explainer import load_explainer
from models.language_model import load_tokenizer
from models.text_encoder import load_encoder

log = logging.getLogger("llm2er")


class Run:
    """One execution of a system: its config, its folder, and what several stages read."""

    def __init__(self, config: TrainConfig, requests: Requests | None = None) -> None:
        self.config, self.folder = config, RunFolder(config)
        self.requests = requests or Requests(self.folder.path)
        self.warnings: dict[str, list[str]] = {}  # by stage: what of it a reader must not overlook
        self.folder.open()
        self.folder.corpus = self.corpus.manifest["files"]["records.parquet"]

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus of `data.path`, or the embedded one, made on first use."""
        data = self.config.data
        if data.path:
            return Corpus.load(data.path)
        path = self.folder.path / "data"
        if world()[0] == 0 and not path.is_dir():
            write_embedded(data.embedded_users, data.embedded_items, self.config.seed, path)
        barrier()
        return Corpus.load(path)

    @cached_property
    def device(self) -> torch.device:
        """Where this rank computes."""
        if use_cpu(self.config.hardware):
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())

    @cached_property
    def graph(self) -> ConceptGraph:
        """The concept graph of the train split."""
        return build_graph(self.corpus, self.config.graph)

    def evidence(self, stage: str) -> Evidence:
        """What the rating stage found for every record."""
        return Evidence.load(self.folder.need("rating", stage) / "evidence.safetensors")

    def builder(self, stage: str, tokenizer: PreTrainedTokenizerBase) -> PromptBuilder:
        """Builds prompts in a tokenizer's ids."""
        return PromptBuilder(self.corpus, self.evidence(stage), tokenizer, self.config.prompt)

    def scorer(self, stage: str, tokenizer: PreTrainedTokenizerBase) -> Scorer:
        """Both reward models as their stages left them, reading the policy's tokens."""
        encoder, encoder_tokenizer = load_encoder(str(self.folder.need("ccr", stage)))
        discriminator = load_discriminator(self.folder.need("hqar", stage), begin_token(tokenizer))
        hqar = self.config.hqar
        return Scorer(encoder, encoder_tokenizer, discriminator, tokenizer, hqar.clip, hqar.reduce)

    def logger(self, stage: str, resumed: Found | None) -> list[Logger]:
        """Loggers of a stage; a W&B run a stage, grouped by the run's name."""
        if self.config.logger == "none":
            return []
        rows = resumed[1].log_rows if resumed else 0
        loggers: list[Logger] = [continued_csv(self.folder.path, stage, rows)]
        if self.config.logger == "wandb":
            name = self.folder.path.name
            loggers.append(
                GuestWandbLogger(
                    project=self.config.wandb_project,
                    group=name,
                    name=f"{name}/{stage}",
                    job_type=stage,
                    save_dir=self.folder.path,
                    id=self.wandb_id(stage),
                    resume="allow",
                )
            )
        return loggers

    def wandb_id(self, stage: str) -> str:
        """The same for every start of a run: its curves go on in one place."""
        return hashlib.sha256(f"{self.folder.identity()}/{stage}".encode()).hexdigest()[:16]

    def fit_stage(
        self,
        stage: str,
        module: pl.LightningModule,
        data: pl.LightningDataModule | None,
        callbacks: list,
        reads: str,
        **options: object,
    ) -> None:
        """Trains a stage from its newest checkpoint, or from the beginning. `reads` tells the console from what."""
        config, folder = self.config, self.folder.stage(stage)
        folder.mkdir(parents=True, exist_ok=True)
        resumed = resume_point(self.folder, stage)
        place = Place(
            stage=stage,
            folder=self.folder.checkpoints(stage),
            export=self.folder.export(stage),
            log_file=folder / "metrics.csv",
            config=self.folder.state_config(stage),
            versions=self.folder.versions,
            wandb_id=self.wandb_id(stage) if config.logger == "wandb" else "",
            copy=gather_objects(self.folder.lock.token)[0][:8],
            taken_by=self.folder.lock.taken_by,
        )
        checkpoints = Checkpoints(config.checkpoint, place, self.requests, resumed, whole_epochs=stage == "ppo")
        callbacks = [*callbacks, BoundFreedMemory(), Watchdog(stage, config.hardware.hang_timeout, folder), checkpoints]
        zero = config.zero.stage
        by_order = zero in (1, 2) or (zero == 3 and trainable_and_total(module)[0] > BUCKET)  # ZeRO 3 sorts a bucket
        if by_order and world()[1] > 1:
            callbacks = [SameGradientOrder(), *callbacks]  # first: what it finds explains what other guards would
        trainer = make_trainer(
            config.zero,
            config.hardware,
            folder,
            self.logger(stage, resumed),
            callbacks,
            converted=resumed is not None and resumed[1].universal,
            **options,
        )
        self.announce(stage, module, reads)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(resumed[0]) if resumed else None)
        finally:
            self.close(trainer)  # W&B writes what it has only now

    def fit(
        self,
        stage: str,
        module: pl.LightningModule,
        data: pl.LightningDataModule,
        monitor: str,
        mode: str,
        reads: str,
    ) -> float:
        """Fits with early stopping, keeps the best export, returns the best monitored value."""
        fit: FitConfig = getattr(self.config, stage).fit
        data.workers = self.config.data.workers
        best = ExportBest(monitor, mode, self.folder.export(stage), self.folder.lock.taken_by)
        callbacks = [
            StopOnNonFinite(self.config.loss_spike),
            Throughput(stage, data.batch_size / fit.accumulate),
            EarlyStopping(monitor, mode=mode, patience=fit.patience),
            best,
        ]
        if isinstance(module, ExplanationModule):
            callbacks.append(SampleTable(data.builder, self.folder.stage(stage)))
        torch.manual_seed(self.config.seed + 1 + world()[0])  # weights are made; dropout differs between ranks
        self.fit_stage(
            stage,
            module,
            data,
            callbacks,
            reads,
            max_epochs=fit.epochs,
            accumulate_grad_batches=fit.accumulate,
            gradient_clip_val=fit.clip or None,
        )
        return float(best.best or 0.0)

    def stop_if_asked(self, after: str) -> None:
        """Ends the run between two stages if all ranks agree that it was asked to; collective."""
        wish = self.requests.agree(False, self.device)
        if wish.stop:
            raise Interrupted(f"{after}; stopped by {wish.reason}; the same command goes on", wish.requeue)

    def stop_if_taken(self) -> None:
        """Before a product is written: ends this copy of the job if another one owns the run folder; collective."""
        stop_if_taken(self.folder.lock.taken_by)

    def announce(self, stage: str, module: pl.LightningModule, reads: str) -> None:
        """Says what a stage is about to do, and from what."""
        (learning, total), config = trainable_and_total(module), self.config
        log.info(
            "%s: training %s of %s parameters on %d ranks (ZeRO stage %d, %s); reads %s",
            *(stage, f"{learning:,}", f"{total:,}", world()[1], config.zero.stage, config.hardware.precision, reads),
        )
        if stage != "rating" or config.rating.model.id_embeddings:  # else its tables of users and items stay zero
            self.warn(stage, little_trained(module))

    def warn(self, stage: str, sentences: list[str]) -> None:
        """Says what must not be overlooked, and keeps it for `stage.json`; the run goes on."""
        for sentence in sentences:
            log.warning("WARNING: %s: %s", stage, sentence)
        self.warnings.setdefault(stage, []).extend(sentences)

    def summary(self, stage: str, figures: dict, weak: list[str]) -> dict:
        """What `stage.json` says of a stage: its figures, and its warnings, of which `weak` are the last."""
        self.warn(stage, weak)
        return figures | ({"warnings": self.warnings[stage]} if self.warnings[stage] else {})

    def close(self, trainer: pl.Trainer) -> None:
        """Ends the loggers of a stage."""
        for logger in trainer.loggers:
            logger.finalize("success")
            if isinstance(logger, GuestWandbLogger):
                logger.close()

    def generate(
        self, explainer_folder: Path, records: np.ndarray, stage: str, sample_seed: int | None = None
    ) -> dict[int, str]:
        """Explanations of records by a finished explainer: greedy, or sampled; sharded over ranks, by record id."""
        give_back_freed_memory()
        tokenizer = load_tokenizer(str(explainer_folder / "lm"))
        module = ExplanationModule(self.config.explanation, load_explainer(explainer_folder), tokenizer)
        module.max_new_tokens, module.sample_seed = self.config.prompt.max_new_tokens, sample_seed
        folder, hardware = self.folder.stage(stage), self.config.hardware
        watchdog = Watchdog(stage, hardware.hang_timeout, folder)
        batch_size = self.config.result.batch_size
        explained = Explained(stage, len(records), batch_size * world()[1])
        trainer = make_trainer(self.config.zero, hardware, folder, False, [watchdog, explained])
        log.info("explaining %d records with %s", len(records), explainer_folder)
        data = PromptData(self.builder(stage, tokenizer), records, batch_size)
        batches = trainer.predict(module, datamodule=data)
        found = {record: text for part in gather_objects(batches) for batch in part for record, text in batch}
        return {record: found[record] for record in records.tolist()}
