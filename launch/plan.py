"""What a run would take, without taking it: parameters, memory and steps of each stage (`dry_run=true`).

Networks are built on the meta device: they have shapes and no storage.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BertModel, GPT2LMHeadModel

from datamodules.batches import BatchPlan
from datamodules.corpus import Corpus
from datamodules.graph import build_graph
from datamodules.importers.embedded import write_embedded
from launch.schema import TrainConfig
from lightning_modules.collectives import trainable_and_total
from lightning_modules.fitting import FitConfig
from metrics.errors import InputError
from models.explainer import Connector
from models.hgt import RatingModel
from models.language_model import new_gpt2_config, with_adapters
from models.text_encoder import new_bert_config


@dataclass(frozen=True)
class StagePlan:
    """Size of one stage."""

    name: str
    trainable: int
    total: int
    steps: int


def memory_per_rank(trainable: int, total: int, zero_stage: int, ranks: int, bf16: bool) -> float:
    """GiB of parameters, gradients and AdamW state on each rank (Rajbhandari et al. 2020), without activations.

    fp32: 4 bytes a parameter, 4 a gradient, 8 of moments. bf16: 2, 2, and 12 of moments and float32 weights. DeepSpeed
    keeps such a copy of the weights from stage 1 on in fp32 too. Each stage divides one more part by the ranks.
    """
    width = 2 if bf16 else 4
    state = 12 if bf16 or zero_stage >= 1 else 8
    parameters = width * total / (ranks if zero_stage >= 3 else 1)
    gradients = width * trainable / (ranks if zero_stage >= 2 else 1)
    optimizer = state * trainable / (ranks if zero_stage >= 1 else 1)
    return (parameters + gradients + optimizer) / 2**30


def describe_plan(config: TrainConfig) -> str:
    """The table that `dry_run=true` prints; reads the corpus, checks all batch sizes, trains nothing."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    bf16 = config.hardware.precision == "bf16"
    lines = [f"{'stage':<12}{'trainable':>15}{'parameters':>15}{'GiB a rank':>12}{'steps':>9}"]
    for plan in plan_stages(config, ranks):
        memory = memory_per_rank(plan.trainable, plan.total, config.zero.stage, ranks, bf16)
        lines.append(f"{plan.name:<12}{plan.trainable:>15,}{plan.total:>15,}{memory:>12.3f}{plan.steps:>9,}")
    lines.append(
        f"ZeRO stage {config.zero.stage} on {ranks} ranks, {config.hardware.precision}; parameters, gradients and "
        "optimizer state, without activations and buffers; at most so many optimizer steps"
    )
    return "\n".join(lines)


def plan_stages(config: TrainConfig, ranks: int) -> list[StagePlan]:
    """The size of every trained stage."""
    corpus = _corpus(config)
    graph = build_graph(corpus, config.graph)
    train = len(corpus.rows("train"))
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
    value_head = width + 1 if config.ppo.algorithm == "ppo" else 0
    copy = 1 if config.explanation.lora.rank else 2  # with adapters the reference is a second adapter
    return [
        StagePlan("rating", *trainable_and_total(rating), _steps("rating", train, config.rating.fit, ranks)),
        StagePlan(
            "explanation",
            language[0] + soft_size,
            language[1] + soft_size,
            _steps("explanation", train, config.explanation.fit, ranks),
        ),
        StagePlan("ccr", *trainable_and_total(encoder), _steps("ccr", train, config.ccr.fit, ranks)),
        StagePlan("hqar", discriminator, discriminator, _steps("hqar", train, config.hqar.fit, ranks)),
        StagePlan("ppo", language[0] + value_head, copy * (language[1] + soft_size), _ppo_steps(config, ranks)),
    ]


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
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"cannot read the config of {name!r} ({first}); give a folder or a hub name") from error
