"""Prompt batches as training sees them, slot by slot: what is text, what is a soft vector, what is masked.

K candidate concepts of a record, D width of node states.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from datamodules.candidates import CandidateFinder, predicted_sentiment
from datamodules.corpus import Corpus
from datamodules.evidence import Evidence, stack_candidates
from datamodules.graph import ConceptGraph
from datamodules.prompts import ITEM, SENTIMENT, TEXT, USER, PromptBatch, PromptBuilder, PromptConfig
from launch.config import load
from launch.run_folder import RunFolder
from launch.schema import TrainConfig
from models.language_model import load_tokenizer, train_tokenizer

KINDS = ("padding", "prompt", "soft vector", "learned", "end")
STYLES = {"padding": "dim", "prompt": "cyan", "soft vector": "bold magenta", "learned": "green", "end": "bold yellow"}
LEGEND = "  ".join(f"[{STYLES[kind]}]{kind}[/]" for kind in KINDS)
VOCABULARY = 2048  # of the tokenizer that is trained on the spot
TEXTS = 50_000  # that it is trained on


class PromptRow(NamedTuple):
    """One prompt with its response: (text, one of KINDS) a slot."""

    record: int
    slots: list[tuple[str, str]]


def prompt_batches(
    corpus: Corpus, graph: ConceptGraph, run: str, batches: int, rows: int, seed: int
) -> list[list[PromptRow]]:
    """Batches of prompts of random train records."""
    train = corpus.rows("train")
    chosen = np.random.default_rng(seed).permutation(train)[: batches * rows]
    if run:
        config, _ = load(TrainConfig, [str(Path(run) / "config.yaml"), f"run_dir={run}"])
        folder = RunFolder(config)
        folder.corpus = corpus.manifest["files"]["records.parquet"]
        tokenizer = load_tokenizer(str(folder.need("explanation", "inspect") / "lm"))
        evidence = Evidence.load(folder.need("rating", "inspect") / "evidence.safetensors")
        builder, ids = PromptBuilder(corpus, evidence, tokenizer, config.prompt), chosen
    else:
        texts = [corpus.explanations[row] for row in train[:TEXTS].tolist()]
        tokenizer = train_tokenizer([*texts, *corpus.concepts], VOCABULARY)
        asked = replace(
            corpus,
            user_R=corpus.user_R[chosen],
            item_R=corpus.item_R[chosen],
            rating_R=corpus.rating_R[chosen],
            explanations=[corpus.explanations[row] for row in chosen.tolist()],
        )
        builder, ids = PromptBuilder(asked, _untrained(asked, graph, chosen), tokenizer, PromptConfig()), None
    found = []
    for start in range(0, len(chosen), rows):
        part = list(range(start, min(start + rows, len(chosen))))
        shown = part if ids is None else ids[part].tolist()
        batch = builder.batch(shown, [builder.corpus.explanations[row] for row in shown])
        found.append([_row(batch, row, int(chosen[part[row]]), tokenizer) for row in range(len(part))])
    return found


def _untrained(asked: Corpus, graph: ConceptGraph, hidden: np.ndarray) -> Evidence:
    """Candidates by paths on the graph without the shown records, every edge into a node weighing the same."""
    edges = graph.edges(hidden)
    attention = {relation: torch.ones(index.shape[1]) for relation, index in edges.items()}
    finder = CandidateFinder(edges, attention, graph.node_counts)
    k = min(5, len(asked.concepts))
    mean = (asked.rating_min + asked.rating_max) / 2
    sentiment = predicted_sentiment(mean, asked.rating_min, asked.rating_max)
    pairs = zip(asked.user_R.tolist(), asked.item_R.tolist(), strict=True)
    number = len(asked.user_R)
    return Evidence(
        users_FND=torch.zeros(1, len(asked.users), 1),
        items_FND=torch.zeros(1, len(asked.items), 1),
        fold_R=torch.zeros(number, dtype=torch.int16),
        predicted_R=torch.full((number,), mean),
        sentiment_R=torch.full((number,), sentiment, dtype=torch.int8),
        **stack_candidates([finder.find(user, item, sentiment, k) for user, item in pairs]),
    )


def _row(batch: PromptBatch, row: int, record: int, tokenizer: PreTrainedTokenizerBase) -> PromptRow:
    slots = []
    soft = {USER: "p_u", ITEM: "q_v", SENTIMENT: "s_uv"}
    prompt = zip(*(part[row].tolist() for part in (batch.prompt_BP, batch.slot_BP, batch.prompt_mask_BP)), strict=True)
    for token, slot, mask in prompt:
        if not mask:
            slots.append(("·", "padding"))
        else:
            slots.append((tokenizer.decode([token]), "prompt") if slot == TEXT else (f"<{soft[slot]}>", "soft vector"))
    response = zip(batch.response_BT[row].tolist(), batch.response_mask_BT[row].tolist(), strict=True)
    for token, mask in response:
        kind = "padding" if not mask else "end" if token == tokenizer.eos_token_id else "learned"
        slots.append(("·" if not mask else tokenizer.decode([token]), kind))
    return PromptRow(record, slots)


def coloured(row: PromptRow) -> Text:
    """A prompt for the terminal; markup in a review stays text."""
    text = Text(f"record {row.record:<8}", style="bold")
    for words, kind in _joined(row.slots):
        text.append(words, style=STYLES[kind])
    return text


def _joined(slots: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for words, kind in slots:
        yield (f" {words}" if kind in ("soft vector", "end") else words), kind
