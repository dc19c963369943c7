"""Small runs that look at one thing each; started by torchrun: trap_probes.py JOBS.json

The jobs are a list of {"probe", "out", "arguments"}; starting a process group and importing the stack takes longer than
most probes, so they share one. Each job's figures are written to its file as soon as it is done.
"""

import json
import math
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from stage_losses import Losses
from torch import nn
from torch.distributed import distributed_c10d

from callbacks.guards import HarmfulUpdateError
from launch import run as launch_run
from launch import stages
from launch.config import load
from launch.engine import start
from launch.run import Run
from launch.schema import TrainConfig
from lightning_modules.collectives import (
    full_state,
    gather_objects,
    part,
    sum_over_ranks,
    trainable_and_total,
    world,
)
from lightning_modules.explanation import ExplanationModule
from lightning_modules.ppo import adversary
from lightning_modules.ppo.module import PPOModule
from models import generation, kernels
from models.explainer import load_explainer, new_explainer
from models.language_model import LoraConfig, load_tokenizer


def with_callback(patch: pytest.MonkeyPatch, callback: pl.Callback) -> None:
    """Adds a callback to every trainer of the stages."""
    make = launch_run.make_trainer

    def watched(zero, hardware, folder, logger, callbacks, **options):  # noqa: ANN001, ANN202, ANN003
        return make(zero, hardware, folder, logger, [*callbacks, callback], **options)

    patch.setattr(launch_run, "make_trainer", watched)


class Figures(pl.Callback):
    """Keeps what PPO logged of the first update of each iteration."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.dtypes: set[str] = set()
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: PPOModule, batch: object, index: int) -> None:
        self.dtypes.add(str(batch.old_log_prob_MT.dtype))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: pl.Trainer, module: PPOModule) -> None:
        names = {
            "ratio": "first/ratio",
            "approx_kl": "first/approx_kl",
            "clip_fraction": "first/clip_fraction",
            "kl": "kl",
        }
        self.rows.append({name: float(trainer.callback_metrics[f"ppo/{key}"]) for name, key in names.items()})


class Frozen(pl.Callback):
    """What of a PPO run changes although it is frozen, and what the optimizer keeps a state of."""

    def __init__(self) -> None:
        self.found: dict = {}

    def on_train_start(self, trainer: pl.Trainer, module: PPOModule) -> None:
        self.before = self.parts(module)

    def on_train_end(self, trainer: pl.Trainer, module: PPOModule) -> None:
        after = self.parts(module)
        self.found = {name: [bool(self.before[name][key] != after[name][key]) for key in after[name]] for name in after}
        held = sum(state["exp_avg"].numel() for state in trainer.strategy.model.optimizer.optimizer.state.values())
        sizes = [getattr(p, "ds_numel", p.numel()) for p in module.parameters() if p.requires_grad]
        self.found |= {"held": int(sum_over_ranks(torch.tensor(held))), "trainable": sum(sizes)}

    @staticmethod
    def parts(module: PPOModule) -> dict[str, dict[str, bytes]]:
        """Bytes of this rank's part of every parameter, by who owns it."""
        networks = {"policy and reference": module, "ccr": module.scorer.encoder, "hqar": module.scorer.discriminator}
        networks["held-out hqar"] = module.held_out_scorer.discriminator
        found: dict[str, dict[str, bytes]] = {"trained": {}}
        for name, network in networks.items():
            for key, parameter in network.named_parameters():
                part = getattr(parameter, "ds_tensor", parameter).detach()
                owner = "trained" if network is module and parameter.requires_grad else name
                found.setdefault(owner, {})[key] = part.contiguous().numpy().tobytes()
        return found


def watched_ppo(run: Run, patch: pytest.MonkeyPatch) -> tuple[Figures, list[int], PPOModule]:
    """Runs the PPO stage and returns what was seen: figures, iterations sampled, the module."""
    figures, iterations, modules = Figures(), [], []
    sample = PPOModule.rollout

    def counted(module: PPOModule, iteration: int):  # noqa: ANN202
        modules[:] = [module]
        iterations.append(iteration)
        return sample(module, iteration)

    with_callback(patch, figures)
    patch.setattr(PPOModule, "rollout", counted)
    run.folder.finish("ppo", stages.ppo(run))
    return figures, iterations, modules[0]


def first_update(run: Run, patch: pytest.MonkeyPatch) -> dict:
    """PPO's first update of a policy that has dropout, as pretrained language models do."""
    read = stages.load_explainer

    def with_dropout(folder: Path) -> nn.Module:
        explainer = read(folder)
        for module in explainer.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.3
        return explainer

    patch.setattr(stages, "load_explainer", with_dropout)
    figures, _, _ = watched_ppo(run, patch)
    return figures.rows[0] | {"old_log_prob_dtype": figures.dtypes.pop()}


def on_policy(run: Run, patch: pytest.MonkeyPatch) -> dict:
    figures, iterations, _ = watched_ppo(run, patch)
    return {"iterations": iterations, "ratios": [row["ratio"] for row in figures.rows], "rates": figures.rates}


def explanation_module(run: Run, lora: LoraConfig, folder: str = "") -> tuple[ExplanationModule, object]:
    """A module on the created base model (or a finished export), and its tokenizer."""
    pl.seed_everything(1, verbose=False)
    config = run.config.explanation
    evidence = run.evidence("explanation")
    name = folder or str(run.folder.stage("explanation") / "base")
    tokenizer = load_tokenizer(name + "/lm" if folder else name)
    explainer = load_explainer(Path(folder)) if folder else new_explainer(name, evidence.users_FND.shape[-1], lora)
    module = ExplanationModule(config, explainer, tokenizer)
    module.max_new_tokens = run.config.prompt.max_new_tokens
    return module, tokenizer


def batch_loss(run: Run, module: ExplanationModule, tokenizer: object) -> float:
    """Loss of the validation prompts, off the engine."""
    builder = run.builder("explanation", tokenizer)
    records = run.corpus.rows("valid").tolist()
    batch = builder.batch(records, [run.corpus.explanations[record] for record in records])
    with torch.no_grad():
        module.eval()
        loss_BT = module.losses(batch)
    return float((loss_BT.sum(1) / batch.response_mask_BT.sum(1)).mean())


def adapters(run: Run, patch: pytest.MonkeyPatch) -> dict:
    first: dict[str, float] = {}
    step = ExplanationModule.training_step

    def watched(module: ExplanationModule, batch: object, index: int) -> torch.Tensor:
        if not first:
            layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
            for name, off in (("first_loss_without_adapters", True), ("first_loss", False)):
                for layer in layers:
                    layer._disable_adapters = off
                with torch.no_grad():
                    first[name] = float(module.losses(batch).sum())
        return step(module, batch, index)

    patch.setattr(ExplanationModule, "training_step", watched)
    trained = stages.explanation(run)["valid_loss"]  # as the engine measured it when it exported
    export = run.folder.export("explanation")
    reloaded, tokenizer = explanation_module(run, run.config.explanation.lora, str(export))
    weights = load_file(export / "lm" / "adapter_model.safetensors")
    return first | {
        "empty_tensors": [name for name, value in weights.items() if value.numel() == 0],
        "reloaded_loss": batch_loss(run, reloaded, tokenizer),
        "trained_loss": trained,
    }


def adapter_ppo(run: Run, patch: pytest.MonkeyPatch) -> dict:
    run.folder.finish("explanation", stages.explanation(run))
    frozen = Frozen()
    with_callback(patch, frozen)
    patch.setattr(adversary, "TOO_GOOD", 1.0)  # the discriminator learns in every iteration
    figures, _, module = watched_ppo(run, patch)
    before = load_file(run.folder.export("explanation") / "lm" / "adapter_model.safetensors")
    lm = full_state(module.policy.lm)
    if world()[0] != 0:
        return {}
    kept = {name: lm[name.replace(".weight", ".reference.weight")] for name in before}
    tuned = {name: lm[name.replace(".weight", ".default.weight")] for name in before}
    return figures.rows[0] | {
        "reference_changed": any(not torch.equal(kept[name], before[name]) for name in before),
        "policy_changed": any(not torch.equal(tuned[name], before[name]) for name in before),
        "frozen": frozen.found,
    }


def gradient_norms(run: Run, patch: pytest.MonkeyPatch) -> dict:
    """Norm of the gradient, before clipping, of each optimizer step."""
    norms: list[float] = []

    class Norms(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:  # noqa: ANN001
            if (index + 1) % trainer.accumulate_grad_batches == 0:
                norms.append(float(trainer.strategy.model.get_global_grad_norm()))

    with_callback(patch, Norms())
    stages.explanation(run)
    return {"norms": norms}


def first_loss(run: Run, patch: pytest.MonkeyPatch) -> dict:
    """First loss of a model made in place, its size as the console announces it while it is sharded, and how long each
    process group waits."""
    seen: list[float] = []
    step, counted, waits = ExplanationModule.training_step, [], []

    def watched(module: ExplanationModule, batch: object, index: int) -> torch.Tensor:
        counted.append(trainable_and_total(module))  # before a first forward pass gathers small parameters
        backends = [group._get_backend(torch.device("cpu")) for group in distributed_c10d._world.pg_map]
        waits[:] = [backend.options._timeout.total_seconds() for backend in backends]
        loss = step(module, batch, index)
        seen.append(float(loss.detach()))
        return loss

    patch.setattr(ExplanationModule, "training_step", watched)
    stages.explanation(run)
    export = run.folder.export("explanation")
    tokenizer = load_tokenizer(str(export / "lm"))
    whole = sum(parameter.numel() for parameter in load_explainer(export).parameters())
    found = {"first_loss": seen[0], "log_vocabulary": math.log(len(tokenizer))}
    return found | {"counted": counted[0], "whole": whole, "waits": waits}


class WeightFirst(torch.autograd.Function):
    """A linear layer that hands on its weight's gradient before its bias's, unlike torch's."""

    @staticmethod
    def forward(ctx, inputs, weight, bias):  # noqa: ANN001, ANN205
        ctx.save_for_backward(inputs, weight)
        return torch.nn.functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        inputs, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        bias_grad = rows.sum(0) if ctx.needs_input_grad[2] else None
        return grad @ weight, rows.t() @ inputs.flatten(0, -2), bias_grad


def unlike_order(run: Run, patch: pytest.MonkeyPatch) -> dict:
    """BERT's layers on rank 1 hand on their gradients in another order than on rank 0."""
    if world()[0] == 1:
        patch.setattr(
            kernels, "linear", lambda inputs, weight, bias=None, _=None: WeightFirst.apply(inputs, weight, bias)
        )
    told, losses = "", Losses()
    with_callback(patch, losses)
    try:
        stages.ccr(run)
    except HarmfulUpdateError as error:
        told = str(error)
    return {"told": gather_objects(told), "losses": [value / world()[1] for value in losses.values]}


def uneven_generation(run: Run, patch: pytest.MonkeyPatch) -> dict:
    """Rank 0 is made to stop at once, rank 1 at the limit, under ZeRO-3 with one generation a rank."""
    export = run.folder.export("explanation")
    records = run.corpus.rows("test")
    reference, tokenizer = explanation_module(run, LoraConfig(), str(export))
    builder = run.builder("explanation", tokenizer)
    batch = builder.batch(records.tolist(), None)
    parts = (batch.prompt_BP, batch.slot_BP, batch.user_BD, batch.item_BD, batch.sentiment_B)
    with torch.no_grad():
        prompt_BPW = reference.explainer.eval().embed_prompt(*parts)
    limit, end, fill = run.config.prompt.max_new_tokens, tokenizer.eos_token_id, tokenizer.pad_token_id
    made = generation.generate(reference.explainer.lm, prompt_BPW, batch.prompt_mask_BP, end, fill, limit, None)
    decoded = tokenizer.batch_decode(made.response_BT, skip_special_tokens=True)
    texts_unsharded = {str(r): " ".join(t.split()) for r, t in zip(records.tolist(), decoded, strict=True)}
    texts = {str(r): t for r, t in run.generate(export, records, "explanation").items()}
    steps = []

    def scripted(logits_BV: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        steps.append(1)
        stop = world()[0] == 0 and len(steps) == 3
        return torch.full((len(logits_BV),), end if stop else 7), torch.zeros(len(logits_BV))

    patch.setattr(generation, "choose", scripted)
    run.generate(export, records, "explanation")
    return {"lengths": gather_objects(len(steps)), "texts": texts, "texts_unsharded": texts_unsharded}


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        config, _ = load(TrainConfig, job["arguments"])
        start(config.hardware)
        with pytest.MonkeyPatch.context() as patch:
            found = globals()[job["probe"]](Run(config), patch)
        if world()[0] == 0:
            Path(job["out"]).write_text(json.dumps(found))
    part()


if __name__ == "__main__":
    main()
