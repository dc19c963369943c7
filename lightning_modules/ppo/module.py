"""PPO, GRPO or RLOO on the explanation rewards (methods A.5.7): rollout, score, advantages, update.

B samples over all ranks, M samples of one micro-batch, T response tokens, n of them not masked. One Lightning
epoch is one iteration: a rollout and its updates. Dropout is off throughout; else the first ratio would not be 1.
"""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import BatchPlan
from datamodules.prompts import ROWS_A_PART, PromptBatch
from datamodules.rollout_prompts import RolloutPrompts
from lightning_modules.collectives import full_state, gather_rows, mean_over_ranks, unsharded, world
from lightning_modules.fitting import adamw, trainable, warm_then_linear
from lightning_modules.ppo import advantages, losses
from lightning_modules.ppo.adversary import Adversary
from lightning_modules.ppo.config import PPOConfig
from lightning_modules.ppo.reference import freeze_reference, reference_adapter
from lightning_modules.ppo.rewards import RunningMoments, Scorer
from lightning_modules.ppo.rollout import MiniBatch, Rollout, RolloutStream, mini_batches
from lightning_modules.progress import Progress
from lightning_modules.saved_state import lacking
from metrics.diversity import distinct_corpus
from metrics.errors import InputError
from models.explainer import Explainer, Reading, save_explainer
from models.generation import generate
from models.kernels import reordered
from models.sampling import Generated, uniforms

GENERATION_BATCH = {"cpu": 64, "cuda": 256}  # responses a rank samples at a time: bounds the key-value cache


class PPOModule(pl.LightningModule):
    """Policy, value head and reference in one module (one engine, one optimizer); reward models stay outside."""

    scorer: Scorer
    held_out_scorer: Scorer
    adversary: Adversary | None

    def __init__(
        self,
        config: PPOConfig,
        policy: Explainer,
        tokenizer: PreTrainedTokenizerBase,
        scorer: Scorer,
        prompts: RolloutPrompts,
        max_new_tokens: int,
        seed: int,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        self.config, self.tokenizer, self.prompts = config, tokenizer, prompts
        self.max_new_tokens, self.seed = max_new_tokens, seed
        # Off the module tree: neither sharded nor trained nor exported with the policy.
        object.__setattr__(self, "scorer", scorer)
        # Held-out prompts are scored by the reward models as they were before PPO, whatever the adversary learns.
        object.__setattr__(self, "held_out_scorer", copy.deepcopy(scorer))
        object.__setattr__(self, "adversary", adversary)
        self.policy = policy
        self.value: nn.Linear | None = None  # the samples of a prompt are each other's baseline
        if config.algorithm == "ppo":
            self.value = nn.Linear(policy.lm.get_input_embeddings().weight.shape[1], 1)
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)
        self.reference = freeze_reference(policy)
        self.kl = losses.AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon)
        self.moments = {"ccr": RunningMoments(), "hqar": RunningMoments()}
        self._figures_of_rollout: dict[str, float] = {}  # logged with the first update: a loader may not log
        self.train()  # Lightning leaves modes as it finds them

    def train(self, mode: bool = True) -> "PPOModule":
        """Keeps dropout off, whoever asks for training mode."""
        super().train(mode)
        for part in (self.policy, self.reference):
            if part is not None:
                part.eval()
        return self

    # ---- checkpoints, which are made between iterations

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds what the engine does not know: KL controller, reward statistics, the discriminator and its optimizer."""
        moments = {name: moments.state() for name, moments in self.moments.items()}
        adversary = self.adversary.state() if self.adversary is not None else None
        checkpoint["ppo"] = {"kl_coef": self.kl.coefficient, "moments": moments, "adversary": adversary}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restores it; every part must be there."""
        own: dict = {}
        self.on_save_checkpoint(own)
        if absent := lacking(own["ppo"], checkpoint.get("ppo"), "ppo"):
            where = self.trainer.ckpt_path
            raise InputError(f"{where}: lacks the state of {', '.join(absent)}; resume from another checkpoint")
        state = checkpoint["ppo"]
        self.kl.coefficient = state["kl_coef"]
        for name, moments in self.moments.items():
            moments.load(state["moments"][name])
        if self.adversary is not None:
            self.scorer.to(self.device)
            self.adversary.load(state["adversary"])

    # ---- rollout

    def sample(self) -> Iterator[MiniBatch]:
        """One iteration: samples, scores, estimates advantages, and yields this rank's mini-batches."""
        rollout = self.score(self.rollout(self.current_epoch))
        advantage_BT, return_BT, figures = self.advantages(rollout)
        if self.adversary is not None and (self.current_epoch + 1) % self.config.discriminator_every == 0:
            figures |= self.adversary.update(rollout, self.current_epoch)
        self._figures_of_rollout = {f"ppo/{name}": value for name, value in figures.items()}
        rank, ranks = world()
        seed, size = self.seed + 1 + self.current_epoch, self.config.mini_batch_size
        plan = BatchPlan(len(rollout), size, ranks, self.config.accumulate, seed, key="ppo.mini_batch_size")
        yield from mini_batches(
            rollout, advantage_BT, return_BT, plan, self.config.epochs, rank, self.prompts.with_responses
        )

    @torch.no_grad()
    def rollout(self, iteration: int) -> Rollout:
        """Samples responses to the prompts of an iteration and gathers those of all ranks; collective."""
        records, samples, weight = self.prompts.records(iteration, *world())
        uniform_BT = uniforms(self.seed, iteration + 1, records, self.max_new_tokens, samples)
        parts, progress = [], Progress(f"ppo: sampling rollout {iteration + 1}", len(records), "texts of this rank")
        with unsharded(self.trainer.strategy.model, self):
            for start in range(0, len(records), at_once := GENERATION_BATCH[self.device.type]):
                part = slice(start, start + at_once)
                parts.append(self._respond(records[part], uniform_BT[part]))
                progress.advance(len(records[part]))
        kept = torch.from_numpy(weight) > 0
        columns = [torch.cat(column).cpu()[kept] for column in zip(*parts, strict=True)]
        return Rollout(*[self._gather(column) for column in columns])

    def _gather(self, rows: Tensor) -> Tensor:
        return gather_rows(rows.to(self.device)).cpu()

    def _respond(self, records: list[int], uniform_BT: Tensor) -> tuple[Tensor, ...]:
        """The columns of a `Rollout` for samples of records; a prompt is read once for all its samples."""
        place = {record: i for i, record in enumerate(dict.fromkeys(records))}
        prompt_B = torch.tensor([place[record] for record in records], device=self.device)
        batch = self._to_device(self.prompts.batch(list(place)))
        made = self._generate(batch, uniform_BT, prompt_B)
        batch = batch.rows(prompt_B)
        batch.response_BT, batch.response_mask_BT, batch.parts = (
            made.response_BT,
            made.mask_BT,
            max(1, len(records) // ROWS_A_PART),
        )
        log_prob_BT, value_BT = made.log_prob_BT, torch.zeros_like(made.log_prob_BT)
        if made.hidden_BTW.dtype != torch.float32:  # the update's kernels round otherwise than those of generation
            reading, value_BT = self(batch)
            log_prob_BT = reading.log_prob_BT
        elif self.value is not None:
            value_BT = self.value(made.hidden_BTW).squeeze(-1)
        ended_B = ((made.response_BT == self.tokenizer.eos_token_id) & (made.mask_BT > 0)).any(1).float()
        columns = (batch.record_B, made.response_BT, made.mask_BT, log_prob_BT, self._reference_log_probs(batch))
        return *columns, value_BT * made.mask_BT, ended_B

    def _generate(self, batch: PromptBatch, uniform_BT: Tensor | None, prompt_B: Tensor | None = None) -> Generated:
        with reordered(self.policy.lm.get_output_embeddings()):  # every step of sampling multiplies by it
            return generate(
                self.policy.lm,
                _embed(self.policy, batch),
                batch.prompt_mask_BP,
                self.tokenizer.eos_token_id,
                self.tokenizer.pad_token_id,
                self.max_new_tokens,
                uniform_BT,
                prompt_B,
            )

    def _reference_log_probs(self, batch: PromptBatch) -> Tensor:
        model = self.policy if self.reference is None else self.reference
        with reference_adapter(self.policy.lm) if self.reference is None else contextlib.nullcontext():
            return _read(model, batch).log_prob_BT

    def _to_device(self, batch: PromptBatch) -> PromptBatch:
        moved = {name: value.to(self.device) for name, value in vars(batch).items() if isinstance(value, Tensor)}
        return PromptBatch(**{**vars(batch), **moved})

    # ---- score

    def score(self, rollout: Rollout) -> Rollout:
        """Adds the raw rewards, each rank scoring its share; what is wrong with them is said on every rank."""
        rank, ranks = world()
        share = torch.arange(len(rollout)).tensor_split(ranks)[rank]
        response_MT, mask_MT = rollout.response_BT[share].to(self.device), rollout.mask_BT[share].to(self.device)
        names = self.prompts.candidate_names(rollout.record_B.tolist())
        if lacking := [r for r, found in zip(rollout.record_B.tolist(), names, strict=True) if not found]:
            raise InputError(
                f"records {_shown(lacking)} have no candidate concepts to reward; train the rating stage again with "
                "graph.candidates of at least 1"
            )
        self.scorer.to(self.device)
        scores = self.scorer.score(response_MT, mask_MT, [names[i] for i in share.tolist()])
        rollout.rewards = {
            "ccr": self._gather(scores.ccr_B.float()),
            "hqar": self._gather(scores.hqar_B.float()),
            "hqar_token": self._gather(scores.hqar_BT.float()),
        }
        for name in ("ccr", "hqar"):
            bad_B = ~torch.isfinite(rollout.rewards[name])
            if bad_B.any():
                bad = _shown(rollout.record_B[bad_B].tolist())
                raise InputError(
                    f"the {name} reward of records {bad} is not finite; nothing was updated. Train the {name} stage "
                    f"again with a lower {name}.fit.lr, or use hardware.precision=fp32"
                )
        return rollout

    # ---- advantages

    def advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor, dict[str, float]]:
        """(advantages [B, T], returns [B, T], health figures) over the rollouts of all ranks."""
        for name, moments in self.moments.items():
            moments.update(rollout.rewards[name])
        score_BT = self._score_by_token(rollout)
        rollout.kl_coef = self.kl.coefficient
        advantage_BT, return_BT = self._estimate(rollout, score_BT)
        kl = float((rollout.log_prob_BT - rollout.ref_log_prob_BT).sum(1).mean())
        figures = self._figures(rollout, score_BT, return_BT) | {"kl": kl, "kl_coef": rollout.kl_coef}
        self.kl.update(kl, len(rollout))
        return advantage_BT, return_BT, figures

    def _estimate(self, rollout: Rollout, score_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(advantages, returns) by the algorithm. GRPO has its KL in the loss, the others theirs in the reward."""
        config, mask_BT = self.config, rollout.mask_BT.float()
        if config.algorithm == "grpo":
            advantage_B = advantages.group_relative(score_BT.sum(1), config.samples_per_prompt)
            return advantage_B[:, None] * mask_BT, torch.zeros_like(mask_BT)
        rewards_BT = advantages.token_rewards(
            rollout.log_prob_BT, rollout.ref_log_prob_BT, mask_BT, score_BT, rollout.kl_coef
        )
        if config.algorithm == "rloo":
            advantage_B = advantages.leave_one_out(rewards_BT.sum(1), config.samples_per_prompt)
            return advantage_B[:, None] * mask_BT, torch.zeros_like(mask_BT)
        advantage_BT, return_BT = advantages.gae(rewards_BT, rollout.value_BT, mask_BT, config.gamma, config.gae_lambda)
        return advantages.whiten(advantage_BT, mask_BT), return_BT

    def _score_by_token(self, rollout: Rollout) -> Tensor:
        """lambda_CCR R~_CCR + lambda_HQAR R~_HQAR at the tokens they are paid at; R~ is standardised."""
        config, mask_BT = self.config, rollout.mask_BT.float()
        ccr, hqar = self.moments["ccr"], self.moments["hqar"]
        end_B = config.lambda_ccr * (rollout.rewards["ccr"] - ccr.mean) / ccr.std
        end_B = end_B - config.missing_end_penalty * (1 - rollout.ended_B)
        if config.hqar_credit == "token":
            # The tokens' shares sum up to the sequence's standardised reward.
            length_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
            part_BT = rollout.rewards["hqar_token"]
            part_BT = part_BT / length_B1 if self.scorer.reduce == "mean" else part_BT
            token_BT = config.lambda_hqar * (part_BT - hqar.mean / length_B1) / hqar.std
            return (advantages.at_last_token(end_B, mask_BT) + token_BT) * mask_BT
        end_B = end_B + config.lambda_hqar * (rollout.rewards["hqar"] - hqar.mean) / hqar.std
        return advantages.at_last_token(end_B, mask_BT)

    def _figures(self, rollout: Rollout, score_BT: Tensor, return_BT: Tensor) -> dict[str, float]:
        texts = self.tokenizer.batch_decode(rollout.response_BT, skip_special_tokens=True)
        mask = rollout.mask_BT > 0
        explained = {}
        if self.value is not None:
            unexplained = (return_BT - rollout.value_BT)[mask].var(unbiased=False)
            whole = return_BT[mask].var(unbiased=False).clamp(min=1e-8)
            explained = {"explained_variance": float(1 - unexplained / whole)}
        return explained | {
            "reward/ccr": float(rollout.rewards["ccr"].mean()),
            "reward/hqar": float(rollout.rewards["hqar"].mean()),
            "reward/total": float(score_BT.sum(1).mean()),
            "end_rate": float(rollout.ended_B.mean()),
            "length": float(rollout.mask_BT.sum(1).float().mean()),
            "distinct_1": distinct_corpus(texts, 1),
            "distinct_2": distinct_corpus(texts, 2),
        }

    # ---- update

    def forward(self, batch: PromptBatch) -> tuple[Reading, Tensor]:
        """(what the policy makes of the response, values [M, T] before each response token, or zeros)."""
        reading = _read(self.policy, batch, entropy_gradient=self.config.entropy_coef > 0)
        if self.value is None:
            return reading, torch.zeros_like(reading.log_prob_BT)
        value_n = self.value(reading.hidden_nW.to(self.value.weight.dtype)).squeeze(-1)
        return reading, reading.spread(value_n)

    def training_step(self, batch: MiniBatch, index: int) -> Tensor:
        """The loss of this rank's part of an optimizer step."""
        config, mask_MT, tokens = self.config, batch.prompts.response_mask_BT, batch.tokens
        reading, value_MT = self(batch.prompts)
        log_prob_MT = reading.log_prob_BT
        policy, figures = losses.policy_loss(
            log_prob_MT, batch.old_log_prob_MT, batch.advantage_MT, mask_MT, config.ratio_clip, tokens
        )
        entropy = losses.token_mean(reading.entropy_BT, mask_MT, tokens)
        loss = policy - config.entropy_coef * entropy
        figures |= {"policy_loss": policy, "entropy": entropy}
        if self.value is not None:
            value = losses.value_loss(value_MT, batch.old_value_MT, batch.return_MT, mask_MT, config.value_clip, tokens)
            loss, figures["value_loss"] = loss + config.value_coef * value, value
        if config.algorithm == "grpo":
            kl = losses.reference_kl(log_prob_MT, batch.ref_log_prob_MT, mask_MT, tokens)
            loss, figures["kl_loss"] = loss + batch.kl_coef * kl, kl
        if config.sft_coef > 0:
            loss = loss + config.sft_coef * self._explanation_loss(batch, tokens)
        if batch.first:
            self.log_dict(self._figures_of_rollout, on_step=False, on_epoch=True)
        scale = batch.prompts.scale  # figures are parts of sums over ranks and micro-batches
        self._log_update(figures, scale, batch.first)
        return loss * scale

    def _log_update(self, figures: dict[str, Tensor], scale: float, first: bool) -> None:
        means = mean_over_ranks(torch.stack([value.detach().float() for value in figures.values()]) * scale)
        for name, mean in zip(figures, means, strict=True):
            self.log(f"ppo/{name}", mean)
            if first and name in ("ratio", "approx_kl", "clip_fraction"):
                self.log(f"ppo/first/{name}", mean, on_step=False, on_epoch=True)

    def _explanation_loss(self, batch: MiniBatch, tokens: Tensor) -> Tensor:
        """Cross-entropy of the train explanations of the same prompts, per token of the optimizer step."""
        written = self._to_device(self.prompts.with_explanations(batch.record_B.cpu()))
        written.parts = batch.prompts.parts
        return -losses.token_mean(_read(self.policy, written).log_prob_BT, written.response_mask_BT, tokens)

    def train_dataloader(self) -> DataLoader:
        """One pass is one rollout with its updates."""
        steps = self.config.rollout_batch_size // self.config.mini_batch_size * self.config.accumulate
        return DataLoader(RolloutStream(steps * self.config.epochs, self.sample), batch_size=None)

    def configure_optimizers(self) -> dict:
        """One AdamW without decay: the policy, and the value head if there is one, as groups."""
        groups = [{"params": trainable(self.policy), "lr": self.config.lr}]
        if self.value is not None:
            groups.append({"params": list(self.value.parameters()), "lr": self.config.value_lr})
        schedule = warm_then_linear(int(self.trainer.estimated_stepping_batches), self.config.warmup)
        return adamw(groups, [schedule] * len(groups), weight_decay=0.0)

    # ---- held-out prompts and export

    @torch.no_grad()
    def held_out(self) -> tuple[list[int], list[str], dict[str, Tensor]]:
        """Greedy explanations of held-out prompts: (records, texts, raw rewards by name); collective."""
        records = self.prompts.held_out(self.config.eval_prompts)
        rank, ranks = world()
        plan = BatchPlan(len(records), GENERATION_BATCH[self.device.type] * ranks, ranks, shuffle=False)
        columns: list[tuple[Tensor, ...]] = []
        self.held_out_scorer.to(self.device)
        with unsharded(self.trainer.strategy.model, self):
            for step in range(plan.micro_steps):
                draw = plan.draw(0, step, rank)
                batch = self._to_device(self.prompts.batch(records[draw.rows_B].tolist()))
                made = self._generate(batch, None)
                names = self.prompts.candidate_names(batch.record_B.tolist())
                scores = self.held_out_scorer.score(made.response_BT, made.mask_BT, names)
                parts = (batch.record_B, made.response_BT, scores.ccr_B.float(), scores.hqar_B.float())
                kept = torch.from_numpy(draw.weight_B).to(self.device) > 0
                columns.append(tuple(part[kept] for part in parts))
        record_B, response_BT, ccr_B, hqar_B = (self._gather(torch.cat(c)) for c in zip(*columns, strict=True))
        texts = self.tokenizer.batch_decode(response_BT, skip_special_tokens=True)
        return record_B.tolist(), [" ".join(text.split()) for text in texts], {"ccr": ccr_B, "hqar": hqar_B}

    def export(self, folder: Path) -> None:
        """Writes the policy as an explainer; collective."""
        adapters_only = isinstance(self.policy.lm, PeftModel)
        state = full_state(self.policy, lambda name: not name.startswith("lm.") or not adapters_only or _tuned(name))
        if world()[0] == 0:
            save_explainer(folder, state, self.policy, self.tokenizer)


def _embed(model: Explainer, batch: PromptBatch) -> Tensor:
    return model.embed_prompt(batch.prompt_BP, batch.slot_BP, batch.user_BD, batch.item_BD, batch.sentiment_B)


def _shown(records: list[int]) -> str:
    unique = list(dict.fromkeys(records))
    return ", ".join(map(str, unique[:10])) + (" ..." if len(unique) > 10 else "")


def _read(model: Explainer, batch: PromptBatch, entropy_gradient: bool = False) -> Reading:
    masks = (batch.prompt_mask_BP, batch.response_BT, batch.response_mask_BT)
    return model(_embed(model, batch), *masks, batch.parts, entropy_gradient)


def _tuned(name: str) -> bool:
    return "lora_" in name and ".reference." not in name
