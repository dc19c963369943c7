"""Watches the PPO policy on held-out prompts and keeps the best one."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.export_best import export
from metrics.concept import cmr
from metrics.diversity import distinct_corpus
from metrics.mentions import Mentions
from metrics.phrases import PhraseMatcher
from metrics.suite import ConceptKnowledge

log = logging.getLogger("llm2er")

LEGEND = """held-out: texts for validation prompts. ccr and hqar are the rewards (concept match, text quality), cmr
  the share of the concepts named that user or item are known for, distinct_2 different pairs of words in 100, score the
  weighted gain of the rewards since iteration 0 in standard deviations. The policy with the highest score is kept,
  unless a reward fell below its first value or variety (distinct_2) fell too far."""


class HeldOutEvaluation(pl.Callback):
    """Evaluates before the first update, every so many iterations and after the last one.

    The policy kept is the one with the highest sum of weighted rewards (in standard deviations of the first
    evaluation) among those whose Distinct-2 has not fallen too far and none of whose rewards has fallen. The untouched
    policy is the first candidate: what is kept is never worse by this measure.
    """

    def __init__(
        self,
        folder: Path,
        corpus_rows: tuple[list[int], list[int]],
        knowledge: ConceptKnowledge,
        every: int,
        weights: dict[str, float],
        max_distinct_2_drop: float,
        taken_by: Callable[[], str],
    ) -> None:
        self.folder, self.knowledge, self.every, self.weights = folder, knowledge, every, weights
        self.user_R, self.item_R = corpus_rows
        self.max_drop, self.taken_by = max_distinct_2_drop, taken_by
        self.matcher = PhraseMatcher(knowledge.concepts)
        self.history: list[dict[str, float]] = []
        self.kept: dict[str, float] = {"score": float("-inf")}
        self._spread: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The policy as fine-tuning left it; a run that goes on has seen it."""
        log.info(LEGEND)
        if not self.history:
            self._evaluate(trainer, module, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """After every `every` iterations and after the last."""
        done = trainer.current_epoch + 1
        if done % self.every == 0 or done == trainer.max_epochs or trainer.should_stop:
            self._evaluate(trainer, module, done)

    def state_dict(self) -> dict[str, Any]:
        """What later policies are compared with; the product kept is part of the checkpoint."""
        return {"history": self.history, "kept": self.kept, "spread": self._spread}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.history, self.kept, self._spread = state["history"], state["kept"], state["spread"]

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, iteration: int) -> None:
        records, texts, rewards = module.held_out()  # type: ignore[operator]
        users, items = self.knowledge.user_concepts, self.knowledge.item_concepts
        found = [self.matcher.find(text) for text in texts]
        allowed = [users[self.user_R[r]] | items[self.item_R[r]] for r in records]
        matching = cmr(Mentions.of(found), Mentions.of(allowed))
        figures = {name: float(value.mean()) for name, value in rewards.items()}
        figures |= {
            "cmr": float(matching[matching == matching].mean()) if (matching == matching).any() else 0.0,
            "distinct_2": distinct_corpus(texts, 2),
            "concept_rate": sum(map(bool, found)) / len(found),
            "words": sum(len(text.split()) for text in texts) / len(texts),
        }
        if not self.history:
            self._spread = {name: max(float(value.std(unbiased=False)), 1e-4) for name, value in rewards.items()}
        self.history.append(figures)
        first = self.history[0]
        figures["score"] = sum(
            weight * (figures[name] - first[name]) / self._spread[name] for name, weight in self.weights.items()
        )
        for logger in trainer.loggers:
            logger.log_metrics({f"ppo/valid/{k}": v for k, v in figures.items()}, step=trainer.global_step)
        against = self._against(figures)
        if not against:
            self.kept = figures | {"iteration": iteration}
            export(module, self.folder, self.taken_by)
        shown = "  ".join(f"{name} {figures[name]:.3f}" for name in ("ccr", "hqar", "cmr", "distinct_2", "score"))
        verdict = f"not kept: {against}" if against else "kept"
        log.info("held-out after iteration %d: %s  (%s)", iteration, shown, verdict)

    def _against(self, figures: dict[str, float]) -> str:
        """Why a policy is not kept; empty where it is."""
        first = self.history[0]
        if figures["distinct_2"] < (1 - self.max_drop) * first["distinct_2"]:
            return f"distinct_2 fell by more than ppo.max_distinct_2_drop={self.max_drop:g}"
        # One reward bought with the other is no improvement.
        fell = [name for name, weight in self.weights.items() if weight > 0 and figures[name] < first[name]]
        if fell:
            return f"{' and '.join(fell)} fell"
        return "" if figures["score"] > self.kept["score"] else "no higher score"
