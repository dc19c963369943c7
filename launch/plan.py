"""What a run would take, without taking it: parameters, memory and steps of each stage (`dry_run=true`).

Networks are built on the meta device: they have shapes and no storage.
"""

import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BertModel, GPT2LMHeadModel

from datamodules.batches import BatchPlan
from datamodules.corpus import Corpus
from datamodules.graph import build_graph
from datamodules.importers.embedded import write_embedded
from datamodules.rating import batch_that_fits
from launch.engine import prepare_cpu
from launch.footprint import Shape, activation_bytes, reducing_bytes, state_bytes
from launch.forecast import Forecast, Lengths, fitting_seconds, ppo_seconds, room_for
from launch.hardware import use_cpu
from launch.llm2er_eqr import LLM2ER_EQR
from launch.schema import STAGES, TrainConfig
from lightning_modules.collectives import trainable_and_total
from lightning_modules.fitting import FitConfig
from lightning_modules.ppo.config import PPOConfig
from lightning_modules.rating import check_candidates
from metrics.errors import InputError
from models.explainer import Connector
from models.hgt import RatingModel
from models.language_model import at_revision, new_gpt2_config, with_adapters
from models.text_encoder import new_bert_config

SPLITS = {stage.name: stage.splits for stage in LLM2ER_EQR.stages} | {"result": ("train", "test")}  # by who reads


@dataclass(frozen=True)
class StagePlan:
    """Size of one stage."""

    name: str
    trainable: int
    total: int
    steps: int
    activations: float = 0.0  # bytes of the longest micro-batch of a rank; 0: not predicted
    seconds: float = 0.0  # on this machine; 0: not forecast


def describe_plan(config: TrainConfig) -> str:
    """The table that `dry_run=true` prints; reads the corpus, checks it and all batch sizes, trains nothing."""
    from launch.preflight import check_models, what_is_cut, what_is_hidden

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    check_models(config, STAGES if config.stage == "all" else (config.stage,))
    bf16 = config.hardware.precision == "bf16"
    device = "cpu" if use_cpu(config.hardware) else "cuda"
    lines = [
        f"{'stage':<12}{'trainable':>15}{'parameters':>15}{'states':>9}{'reducing':>10}{'activations':>13}"
        f"{'steps':>9}{'hours':>9}"
    ]
    corpus = _corpus(config)
    for plan in plan_stages(config, corpus, ranks):
        sizes, stage = (plan.trainable, plan.total), config.zero.stage
        accumulate = config.ppo.accumulate if plan.name == "ppo" else getattr(config, plan.name).fit.accumulate
        states = state_bytes(*sizes, stage, ranks, bf16, accumulate) / 2**30
        reducing = reducing_bytes(*sizes, stage, ranks, bf16, accumulate, gpu=device == "cuda") / 2**30
        kept = f"{plan.activations / 2**30:.3f}" if plan.activations else "-"
        hours = f"{plan.seconds / 3600:.3f}" if plan.seconds else "-"
        memory = f"{plan.trainable:>15,}{plan.total:>15,}{states:>9.3f}{reducing:>10.3f}{kept:>13}"
        lines.append(f"{plan.name:<12}{memory}{plan.steps:>9,}{hours:>9}")
    lines += [*what_is_hidden(config, len(corpus.rows("train")), ranks), *what_is_cut(config, corpus)]
    lines.append(
        f"ZeRO stage {config.zero.stage} on {ranks} ranks, {config.hardware.precision}; GiB a rank: states are "
        "parameters, gradients and optimizer state after a backward pass, reducing what DeepSpeed's buckets add in it, "
        "activations those of the longest micro-batch; at most so many optimizer steps; hours if every rank is as fast "
        f"as this machine's {device}, on which a few layers were timed just now, without rating, reward models, "
        "validation and communication; -: not forecast"
    )
    return "\n".join(lines)


def check_batches(config: TrainConfig, ranks: int) -> None:
    """Refuses a batch that the ranks cannot share before the stages in front of it have been trained."""
    for stage in ("rating", "explanation", "ccr", "hqar"):
        if config.stage in ("all", stage):
            fit = getattr(config, stage).fit
            _steps(stage, fit.batch_size, fit, ranks)
    if config.stage in ("all", "ppo"):
        _ppo_steps(config, ranks)


def check_corpus(config: TrainConfig, corpus: Corpus, stages: Collection[str], ranks: int) -> None:
    """Refuses a corpus that one of these stages could not use, before the stages in front of it have been trained."""
    for split in ("train", "valid", "test"):
        waiting = [stage for stage, splits in SPLITS.items() if split in splits and stage in stages]
        if waiting and len(corpus.rows(split)) == 0:
            raise InputError(
                f"{corpus.path}: no {split} record, which stage={waiting[0]} reads; prepare it from more records, or "
                f"give some of them the split {split}"
            )
    if "rating" in stages:
        check_candidates(config.graph, corpus)
        rating_batch_size(config, len(corpus.rows("train")), ranks)


def rating_batch_size(config: TrainConfig, train: int, ranks: int) -> int:
    """Records in an optimizer step of the rating stage: fewer than asked for where the corpus is that small."""
    fit = config.rating.fit
    return (
        batch_that_fits(fit.batch_size, train, ranks * fit.accumulate) if config.graph.leave_one_out else fit.batch_size
    )


def plan_stages(config: TrainConfig, corpus: Corpus, ranks: int) -> list[StagePlan]:
    """The size of every trained stage."""
    check_corpus(config, corpus, STAGES if config.stage == "all" else (config.stage,), ranks)
    graph = build_graph(corpus, config.graph)
    train = len(corpus.rows("train"))
    fitting = replace(config.rating.fit, batch_size=rating_batch_size(config, train, ranks))
    with torch.device("meta"):
        rating = RatingModel(graph.node_counts, graph.relations, config.rating.model, 0.0)
        lm = _language_model(config)
        width, vocabulary = lm.config.hidden_size, lm.config.vocab_size
        node = config.rating.model.width
        soft = nn.ModuleList([Connector(node, width, 1.0), Connector(node, width, 1.0), nn.Embedding(3, width)])
        encoder = _encoder(config)
    language, soft_size = trainable_and_total(lm), trainable_and_total(soft)[1]
    layers = lm.config.num_hidden_layers
    blocks = (language[1] - vocabulary * width) * min(config.hqar.layers, layers) // layers
    discriminator = blocks + vocabulary * width
    shape, lengths = Shape.of(lm), _lengths(corpus, config)
    forecast = _forecast(config, lm)
    bf16 = config.hardware.precision == "bf16"
    value_head = width + 1 if config.ppo.algorithm == "ppo" else 0
    copy = 1 if config.explanation.lora.rank else 2  # with adapters the reference is a second adapter
    return [
        StagePlan("rating", *trainable_and_total(rating), _steps("rating", train, fitting, ranks)),
        StagePlan(
            "explanation",
            language[0] + soft_size,
            language[1] + soft_size,
            _steps("explanation", train, config.explanation.fit, ranks),
            _activations(config, shape, lengths.prompt, config.explanation.fit, ranks),
            fitting_seconds(forecast, train, config.explanation.fit, lengths, ranks) if forecast else 0.0,
        ),
        StagePlan("ccr", *trainable_and_total(encoder), _steps("ccr", train, config.ccr.fit, ranks)),
        StagePlan("hqar", discriminator, discriminator, _steps("hqar", train, config.hqar.fit, ranks)),
        StagePlan(
            "ppo",
            language[0] + value_head,
            copy * (language[1] + soft_size),
            _ppo_steps(config, ranks),
            _activations(config, shape, lengths.prompt, config.ppo, ranks),
            ppo_seconds(forecast, config.ppo, lengths, ranks, bf16) if forecast else 0.0,
        ),
    ]


def _lengths(corpus: Corpus, config: TrainConfig) -> Lengths:
    """Of the train split: a guess from words, 1.15 tokens each, as no tokenizer is there yet."""
    prompt, train = config.prompt, corpus.rows("train").tolist()
    words = sorted(len(corpus.explanations[record].split()) for record in train)
    concept = sum(len(name.split()) for name in corpus.concepts) / max(len(corpus.concepts), 1)
    fixed = len(prompt.instruction.split()) + 4
    read = fixed + config.graph.candidates * (1.15 * concept + 1)
    written = tuple(min(round(1.15 * count + 1), prompt.max_new_tokens) for count in words)
    return Lengths(round(min(read, prompt.max_prompt_tokens)), written)


def _rows(batch: FitConfig | PPOConfig, ranks: int) -> int:
    """Of a micro-batch of a rank."""
    size = batch.mini_batch_size if isinstance(batch, PPOConfig) else batch.batch_size
    return max(1, round(size / batch.accumulate / ranks))


def _activations(config: TrainConfig, shape: Shape, prompt: int, batch: FitConfig | PPOConfig, ranks: int) -> float:
    rows, longest = _rows(batch, ranks), config.prompt.max_new_tokens
    bf16 = config.hardware.precision == "bf16"
    return activation_bytes(shape, rows * (prompt + longest), rows * longest, bf16)


def _forecast(config: TrainConfig, lm: nn.Module) -> Forecast | None:
    """None where the model's layers are too large to be timed beside everything else, or the run's GPU is elsewhere."""
    device = "cpu" if use_cpu(config.hardware) else "cuda"
    if not room_for(lm.config) or (device == "cuda" and not torch.cuda.is_available()):
        return None
    if device == "cpu":
        prepare_cpu()
    return Forecast(lm.config, config.explanation.lora, device, config.hardware.precision == "bf16")


def _corpus(config: TrainConfig) -> Corpus:
    if config.data.path:
        return Corpus.load(config.data.path)
    with tempfile.TemporaryDirectory() as folder:
        data = config.data
        return write_embedded(data.embedded_users, data.embedded_items, config.seed, Path(folder) / "data")


def _steps(stage: str, records: int, fit: FitConfig, ranks: int) -> int:
    plan = BatchPlan(records, fit.batch_size, ranks, fit.accumulate, key=f"{stage}.fit.batch_size")
    return plan.optimizer_steps * fit.epochs


def _ppo_steps(config: TrainConfig, ranks: int) -> int:
    ppo = config.ppo
    plan = BatchPlan(ppo.rollout_batch_size, ppo.mini_batch_size, ranks, ppo.accumulate, key="ppo.mini_batch_size")
    return plan.optimizer_steps * ppo.epochs * ppo.iterations


def _language_model(config: TrainConfig) -> nn.Module:
    prompt, named = config.prompt, config.explanation.model
    if named:
        lm = AutoModelForCausalLM.from_config(_hub_config(named))
    else:
        new = config.explanation.new_model
        positions = prompt.max_prompt_tokens + prompt.max_new_tokens
        lm = GPT2LMHeadModel(new_gpt2_config(new, new.vocabulary, positions))
    return with_adapters(lm, config.explanation.lora)


def _encoder(config: TrainConfig) -> nn.Module:
    if config.ccr.model:
        return AutoModel.from_config(_hub_config(config.ccr.model))
    new = config.ccr.new_model
    return BertModel(new_bert_config(new, new.vocabulary), add_pooling_layer=False)


def _hub_config(name: str) -> AutoConfig:
    try:
        place, revision = at_revision(name)
        return AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"cannot read the config of {name!r} ({first}); give a folder or a hub name") from error
