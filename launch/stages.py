"""The stages of LLM2ER-EQR (methods A.2): each reads folders, trains one network, and writes one folder.

rating -> evidence -> explanation -> ccr, hqar -> ppo. What one stage hands to the next stands in the run folder and
nowhere else, so that any stage can be run alone, elsewhere, or taken from another run.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger, WandbLogger
from transformers import PreTrainedTokenizerBase

from callbacks.checkpoints import Checkpoints, Place
from callbacks.export_best import ExportBest
from callbacks.guards import PPOGuards, StopOnNonFinite
from callbacks.held_out import HeldOutEvaluation
from callbacks.requests import Interrupted, Requests
from callbacks.samples import SampleTable
from callbacks.throughput import Throughput
from callbacks.watchdog import Watchdog
from datamodules.contrastive import ContrastiveData
from datamodules.corpus import Corpus
from datamodules.evidence import Evidence
from datamodules.explanation import ExplanationData, PromptData
from datamodules.graph import ConceptGraph, build_graph, fold_of_records
from datamodules.importers.embedded import write_embedded
from datamodules.prompts import PromptBuilder
from datamodules.quality import QualityData, read_high_quality, select_high_quality
from datamodules.rating import RatingData
from datamodules.rollout_prompts import RolloutPrompts
from datamodules.sampling import NeighborSampler
from launch.curves import continued_csv
from launch.engine import make_trainer, use_cpu
from launch.evaluate import train_knowledge
from launch.resume import Found, resume_point
from launch.run_folder import RunFolder
from launch.schema import TrainConfig
from lightning_modules.ccr import CCRModule
from lightning_modules.collectives import barrier, gather_objects, trainable_and_total, world
from lightning_modules.explanation import ExplanationModule
from lightning_modules.fitting import FitConfig
from lightning_modules.hqar import HQARModule
from lightning_modules.ppo.adversary import Adversary
from lightning_modules.ppo.module import PPOModule
from lightning_modules.ppo.rewards import Scorer
from lightning_modules.rating import RatingModule, infer_evidence, load_rating_model
from models.discriminator import load_discriminator, new_discriminator
from models.explainer import load_explainer, new_explainer
from models.language_model import check_context, create_language_model, load_tokenizer
from models.text_encoder import create_encoder, load_encoder

log = logging.getLogger("llm2er")


class Run:
    """One execution of a system: its config, its folder, and what several stages read."""

    def __init__(self, config: TrainConfig, requests: Requests | None = None) -> None:
        self.config, self.folder = config, RunFolder(config)
        self.requests = requests or Requests(self.folder.path)
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
                WandbLogger(
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
        **options: object,
    ) -> None:
        """Trains a stage from its newest checkpoint, or from the beginning."""
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
            taken_by=self.folder.lock.taken_by,
        )
        checkpoints = Checkpoints(config.checkpoint, place, self.requests, resumed, whole_epochs=stage == "ppo")
        callbacks = [*callbacks, Watchdog(stage, config.hardware.hang_timeout, folder), checkpoints]
        trainer = make_trainer(
            config.zero,
            config.hardware,
            folder,
            self.logger(stage, resumed),
            callbacks,
            converted=resumed is not None and resumed[1].universal,
            **options,
        )
        self.announce(stage, module)
        trainer.fit(module, datamodule=data, ckpt_path=str(resumed[0]) if resumed else None)
        self.close(trainer)

    def fit(
        self, stage: str, module: pl.LightningModule, data: pl.LightningDataModule, monitor: str, mode: str
    ) -> float:
        """Fits with early stopping, keeps the best export, returns the best monitored value."""
        fit: FitConfig = getattr(self.config, stage).fit
        best = ExportBest(monitor, mode, self.folder.export(stage))
        callbacks = [
            StopOnNonFinite(self.config.loss_spike),
            Throughput(stage, fit.batch_size / fit.accumulate),
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
            max_epochs=fit.epochs,
            accumulate_grad_batches=fit.accumulate,
            gradient_clip_val=fit.clip or None,
        )
        return float(best.best or 0.0)

    def stop_if_asked(self, after: str) -> None:
        """Ends the run between two stages if all ranks agree that it was asked to; collective."""
        device = torch.device("cpu") if use_cpu(self.config.hardware) else torch.device("cuda")
        wish = self.requests.agree(False, device)
        if wish.stop:
            raise Interrupted(f"{after}; stopped by {wish.reason}; the same command goes on", wish.requeue)

    def announce(self, stage: str, module: pl.LightningModule) -> None:
        """Says what a stage is about to do."""
        learning, total = trainable_and_total(module)
        log.info(
            "%s: training %s of %s parameters on %d ranks (ZeRO stage %d, %s)",
            *(stage, f"{learning:,}", f"{total:,}", world()[1], self.config.zero.stage, self.config.hardware.precision),
        )

    def close(self, trainer: pl.Trainer) -> None:
        """Ends the loggers of a stage."""
        for logger in trainer.loggers:
            logger.finalize("success")
            if isinstance(logger, WandbLogger) and world()[0] == 0:
                logger.experiment.finish()

    def generate(
        self, explainer_folder: Path, records: np.ndarray, stage: str, sample_seed: int | None = None
    ) -> dict[int, str]:
        """Explanations of records by a finished explainer: greedy, or sampled; sharded over ranks, by record id."""
        tokenizer = load_tokenizer(str(explainer_folder / "lm"))
        module = ExplanationModule(self.config.explanation, load_explainer(explainer_folder), tokenizer)
        module.max_new_tokens, module.sample_seed = self.config.prompt.max_new_tokens, sample_seed
        trainer = make_trainer(self.config.zero, self.config.hardware, self.folder.stage(stage), False, [])
        log.info("explaining %d records with %s", len(records), explainer_folder)
        data = PromptData(self.builder(stage, tokenizer), records, self.config.result.batch_size)
        batches = trainer.predict(module, datamodule=data)
        found = {record: text for part in gather_objects(batches) for batch in part for record, text in batch}
        return {record: found[record] for record in records.tolist()}


def rating(run: Run) -> dict:
    """Trains the HGT rating model, then reads evidence for every record."""
    config = run.config
    pl.seed_everything(config.seed, verbose=False)
    module = RatingModule(config.rating, run.graph, run.corpus, config.graph.leave_one_out)
    fit = config.rating.fit
    sampler = None
    if config.graph.sampling == "neighbor":
        sampler = NeighborSampler(run.graph, config.rating.model.layers, config.graph.neighbors, config.seed)
    loo = config.graph.leave_one_out
    data = RatingData(run.corpus, fit.batch_size, fit.accumulate, config.seed, sampler, loo)
    rmse = run.fit("rating", module, data, "rating/valid/rmse", "min")
    barrier()
    export = run.folder.export("rating")
    model = load_rating_model(export, run.graph)
    fold_R = fold_of_records(run.corpus, config.graph, config.seed)
    evidence = infer_evidence(model, run.graph, run.corpus, fold_R, config.graph, config.seed)
    if world()[0] == 0:
        evidence.save(export / "evidence.safetensors")
    return {"valid_rmse": rmse}


def explanation(run: Run) -> dict:
    """Fine-tunes the language model on the prompts; then samples train prompts, the fakes of the HQAR stage."""
    config = run.config
    evidence = run.evidence("explanation")
    folder = run.folder.stage("explanation")
    name = config.explanation.model or str(folder / "base")
    if not config.explanation.model and world()[0] == 0:
        texts = [run.corpus.explanations[record] for record in run.corpus.rows("train").tolist()]
        texts += [config.prompt.instruction, *run.corpus.concepts]
        positions = config.prompt.max_prompt_tokens + config.prompt.max_new_tokens
        create_language_model(texts, config.explanation.new_model, positions, Path(name), config.seed)
    barrier()
    pl.seed_everything(config.seed, verbose=False)
    tokenizer = load_tokenizer(name)
    explainer = new_explainer(name, evidence.users_FND.shape[-1], config.explanation.lora)
    check_context(explainer.lm, config.prompt.max_prompt_tokens, config.prompt.max_new_tokens)
    module = ExplanationModule(config.explanation, explainer, tokenizer)
    module.max_new_tokens = config.prompt.max_new_tokens
    fit = config.explanation.fit
    data = ExplanationData(run.builder("explanation", tokenizer), fit.batch_size, fit.accumulate, config.seed)
    loss = run.fit("explanation", module, data, "explanation/valid/loss", "min")
    barrier()
    export, records = run.folder.export("explanation"), run.corpus.rows("train")
    if len(records) > config.explanation.samples:
        order = np.random.Generator(np.random.Philox(key=[config.seed, 6])).permutation(len(records))
        records = np.sort(records[order[: config.explanation.samples]])
    sampled = run.generate(export, records, "explanation", sample_seed=config.seed)
    if world()[0] == 0:
        write_jsonl(export / "samples.jsonl", [{"record": r, "explanation": text} for r, text in sampled.items()])
    return {"valid_loss": loss}


def ccr(run: Run) -> dict:
    """Trains the encoder that tells whether a text is about given concepts."""
    config, folder = run.config, run.folder.stage("ccr")
    evidence = run.evidence("ccr")
    name = config.ccr.model or str(folder / "base")
    if not config.ccr.model and world()[0] == 0:
        texts = [run.corpus.explanations[record] for record in run.corpus.rows("train").tolist()]
        create_encoder(texts + run.corpus.concepts, config.ccr.new_model, Path(name), config.seed)
    barrier()
    pl.seed_everything(config.seed, verbose=False)
    encoder, tokenizer = load_encoder(name)
    fit = config.ccr.fit
    data = ContrastiveData(run.corpus, evidence, tokenizer, fit.batch_size, fit.accumulate, config.seed)
    module = CCRModule(config.ccr, encoder, tokenizer)
    accuracy = run.fit("ccr", module, data, "ccr/valid/retrieval_accuracy", "max")
    return {"valid_retrieval_accuracy": accuracy}


def high_quality_texts(run: Run) -> list[str]:
    """The set H; says what each filter left."""
    config = run.config.hqar.high_quality
    if config.file:
        texts = read_high_quality(config.file)
        log.info("hqar: %d high-quality explanations from %s", len(texts), config.file)
        return texts
    records, steps = select_high_quality(run.corpus, config)
    log.info("hqar: high-quality set by filters: %s", ", ".join(f"{name} {count}" for name, count in steps))
    return [run.corpus.explanations[record] for record in records.tolist()]


def hqar(run: Run) -> dict:
    """Trains the discriminator of high-quality texts against samples of the fine-tuned model."""
    config = run.config
    source = run.folder.need("explanation", "hqar")
    tokenizer = load_tokenizer(str(source / "lm"))
    builder = run.builder("hqar", tokenizer)
    samples = [row["explanation"] for row in read_jsonl(source / "samples.jsonl")]
    high = high_quality_texts(run)
    # As many of each, drawn by lot: record order is the order of the source file.
    count, rng = min(len(high), len(samples)), np.random.Generator(np.random.Philox(key=[config.seed, 4]))
    real, sampled = (
        [builder.response(texts[i]) for i in rng.permutation(len(texts))[:count]] for texts in (high, samples)
    )
    pl.seed_everything(config.seed, verbose=False)
    discriminator = new_discriminator(str(source / "lm"), config.hqar.layers, begin_token(tokenizer))
    module = HQARModule(config.hqar, discriminator)
    fit = config.hqar.fit
    data = QualityData(real, sampled, tokenizer.pad_token_id, fit.batch_size, fit.accumulate, config.seed)
    loss = run.fit("hqar", module, data, "hqar/valid/loss", "min")
    if world()[0] == 0:
        write_jsonl(run.folder.export("hqar") / "high_quality.jsonl", [{"explanation": text} for text in high])
    return {"valid_loss": loss, "high_quality_texts": len(high), "used": count}


def ppo(run: Run) -> dict:
    """Fine-tunes the explainer by PPO on both rewards; keeps the policy that is best on held-out prompts."""
    config = run.config
    source = run.folder.need("explanation", "ppo")
    tokenizer = load_tokenizer(str(source / "lm"))
    builder = run.builder("ppo", tokenizer)
    pl.seed_everything(config.seed, verbose=False)
    scorer = run.scorer("ppo", tokenizer)
    adversary = None
    if config.ppo.discriminator_every:
        high = read_jsonl(run.folder.need("hqar", "ppo") / "high_quality.jsonl")
        real = [builder.response(row["explanation"]) for row in high]
        fill, lr = tokenizer.pad_token_id, config.ppo.discriminator_lr
        adversary = Adversary(scorer.discriminator, real, fill, config.hqar.smoothing, lr, config.seed)
    prompts = RolloutPrompts(builder, config.ppo.rollout_batch_size, config.seed, config.ppo.samples_per_prompt)
    policy = load_explainer(source)
    check_context(policy.lm, config.prompt.max_prompt_tokens, config.prompt.max_new_tokens)
    module = PPOModule(
        config.ppo,
        policy,
        tokenizer,
        scorer,
        prompts,
        config.prompt.max_new_tokens,
        config.seed,
        adversary,
    )
    held_out = HeldOutEvaluation(
        run.folder.export("ppo"),
        (run.corpus.user_R.tolist(), run.corpus.item_R.tolist()),
        train_knowledge(run.corpus),
        config.ppo.eval_every,
        {"ccr": config.ppo.lambda_ccr, "hqar": config.ppo.lambda_hqar},
        config.ppo.max_distinct_2_drop,
    )
    run.fit_stage(
        "ppo",
        module,
        None,
        [
            StopOnNonFinite(),
            Throughput("ppo", config.ppo.mini_batch_size / config.ppo.accumulate / config.ppo.epochs),
            PPOGuards(config.ppo.guards),
            held_out,
        ],
        max_epochs=config.ppo.iterations,
        accumulate_grad_batches=config.ppo.accumulate,
        gradient_clip_val=config.ppo.clip or None,
    )
    return {"held_out_before": held_out.history[0], "held_out_kept": held_out.kept}


TRAINED: dict[str, Callable[[Run], dict]] = {
    "rating": rating,
    "explanation": explanation,
    "ccr": ccr,
    "hqar": hqar,
    "ppo": ppo,
}


def begin_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What the discriminator reads before a text; GPT-2 has an end token only."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: Path) -> list[dict]:
    """Reads what `write_jsonl` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
