"""Rating prediction on the concept graph: L_r = mean squared error (methods A.2, step 1).

N nodes, E edges, B records, F folds, D width.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.candidates import CandidateFinder, frequent_concepts, predicted_sentiment
from datamodules.corpus import Corpus
from datamodules.edges import Relation
from datamodules.evidence import Evidence, stack_candidates
from datamodules.graph import ConceptGraph, GraphConfig
from datamodules.rating import RatingBatch
from lightning_modules.collectives import full_state, gather_objects, mean_over_ranks, sum_over_ranks, world
from lightning_modules.fitting import FitConfig, one_group
from metrics.errors import InputError
from models.hgt import HGTConfig, RatingModel

EDGES_AT_ONCE = 2**18  # in reading a graph whose training is sampled: some 30 MiB of messages


@dataclass(frozen=True)
class RatingConfig:
    """The rating stage."""

    model: HGTConfig = field(default_factory=HGTConfig)
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=60, batch_size=512, lr=2e-3, weight_decay=0.05))
    init_from: str = field(default="", metadata={"help": "folder of a finished rating stage to use"})


class RatingModule(pl.LightningModule):
    """Fits a `RatingModel`; a training record never sees the edges that its own global batch contributed."""

    def __init__(
        self, config: RatingConfig, graph: ConceptGraph, corpus: Corpus, leave_one_out: bool, sampled: bool = False
    ) -> None:
        super().__init__()
        self.config, self.graph, self.leave_one_out, self.sampled = config, graph, leave_one_out, sampled
        self.low, self.high = corpus.rating_min, corpus.rating_max
        mean = float(corpus.rating_R[corpus.rows("train")].mean())
        self.model = RatingModel(graph.node_counts, graph.relations, config.model, mean)
        self._squares: list[Tensor] = []
        self._valid_states: dict[str, Tensor] | None = None

    def edges(self, without: Tensor | None = None) -> dict[Relation, Tensor]:
        """The graph's edges on this module's device, where the graph stays from the first call on."""
        self.graph = self.graph.to(self.device)
        return self.graph.edges(without)

    def training_step(self, batch: RatingBatch, index: int) -> Tensor:
        """L_r over the global batch."""
        if batch.subgraph is not None:
            states = self.model.encode(batch.subgraph.edges, batch.subgraph.nodes)
            predicted_B = self.model.rate(states, batch.subgraph.user_B, batch.subgraph.item_B)
        else:
            states = self.model.encode(self.edges(batch.hidden_records if self.leave_one_out else None))
            predicted_B = self.model.rate(states, batch.user_B, batch.item_B)
        error_B = predicted_B - batch.rating_B
        loss = (error_B.square() * batch.weight_B).sum() * batch.scale
        self.log("rating/train/mse", mean_over_ranks(loss.detach()))
        return loss

    def validation_step(self, batch: RatingBatch, index: int) -> None:
        """Squared errors of clipped predictions on the whole train graph, which is read once."""
        if self._valid_states is None:
            self._valid_states, _ = read_graph(self.model, self.edges(), self.sampled)
        predicted_B = self.model.rate(self._valid_states, batch.user_B, batch.item_B).clamp(self.low, self.high)
        square_B = (predicted_B - batch.rating_B).square() * batch.weight_B
        self._squares.append(torch.stack([square_B.sum(), batch.weight_B.sum()]))

    def on_validation_epoch_end(self) -> None:
        """Logs the RMSE over all ranks."""
        total, count = sum_over_ranks(torch.stack(self._squares).sum(0)).tolist()
        self._squares.clear()
        self._valid_states = None
        self.log("rating/valid/rmse", (total / max(count, 1)) ** 0.5)

    def configure_optimizers(self) -> dict:
        """AdamW with warm-up and linear decay."""
        return one_group(self.model, self.config.fit, int(self.trainer.estimated_stepping_batches))

    def export(self, folder: Path) -> None:
        """Writes the model; collective."""
        state = full_state(self.model)
        if world()[0] == 0:
            save_file(state, folder / "model.safetensors")
            (folder / "model.json").write_text(json.dumps(asdict(self.config.model), indent=1) + "\n")


def read_graph(
    model: RatingModel, edges: dict[Relation, Tensor], by_parts: bool
) -> tuple[dict[str, Tensor], dict[Relation, Tensor]]:
    """(node states, attention) over all edges, of so many nodes at once that memory stays in bounds, or of all."""
    if by_parts:
        return model.encode_by_parts(edges, EDGES_AT_ONCE)
    return model.encode(edges), model.attention(edges)


def load_rating_model(folder: Path, graph: ConceptGraph) -> RatingModel:
    """Reads what `RatingModule.export` wrote, for the same graph."""
    config = HGTConfig(**json.loads((folder / "model.json").read_text()))
    model = RatingModel(graph.node_counts, graph.relations, config, mean_rating=0.0)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise InputError(
            f"{folder}: the rating model was trained on another corpus or graph; use the run's own data.path"
        ) from error
    return model.eval()


def check_candidates(config: GraphConfig, corpus: Corpus) -> None:
    """Refuses a corpus with fewer concepts than are to be offered for each pair."""
    if not corpus.concepts:
        raise InputError(
            f"{corpus.path} names no concept, and prompts and rewards are made of them: prepare it again with a lower "
            "concept_min_count, a higher concept_max_share, or concepts of your own (concept_source=list)"
        )
    if config.candidates > len(corpus.concepts):
        raise InputError(
            f"graph.candidates={config.candidates} is more than the {len(corpus.concepts)} concepts of {corpus.path}; "
            f"use at most {len(corpus.concepts)}"
        )


@torch.no_grad()
def infer_evidence(
    model: RatingModel,
    graph: ConceptGraph,
    corpus: Corpus,
    fold_R: np.ndarray,
    config: GraphConfig,
    seed: int,
    rated_on: ConceptGraph | None = None,
) -> Evidence:
    """Node states, predicted ratings and candidate concepts of every record of `corpus`.

    Fold 0 is the whole graph; fold f >= 1 lacks the edges of its own records, who read from there. Ratings, and the
    sentiment that candidates are to agree with, are predicted on `rated_on` where it is given. Folds are shared out
    over the ranks; collective, every rank returns the whole.
    """
    check_candidates(config, corpus)
    rank, ranks = world()
    graphs = (graph.to(model.device), rated_on and rated_on.to(model.device))
    folds = list(range(int(fold_R.max()) + 1))
    parts = {fold: _read_fold(model, *graphs, corpus, fold_R, fold, config, seed) for fold in folds[rank::ranks]}
    merged = {fold: part for found in gather_objects(parts) for fold, part in found.items()}
    predicted_R, rows = torch.zeros(len(fold_R)), [[] for _ in fold_R]
    for fold in folds:
        _, _, record_M, predicted_M, candidates = merged[fold]
        predicted_R[torch.from_numpy(record_M)] = predicted_M
        for record, found in zip(record_M.tolist(), candidates, strict=True):
            rows[record] = found
    sentiment = [predicted_sentiment(r, corpus.rating_min, corpus.rating_max) for r in predicted_R.tolist()]
    return Evidence(
        users_FND=torch.stack([merged[fold][0] for fold in folds]),
        items_FND=torch.stack([merged[fold][1] for fold in folds]),
        fold_R=torch.from_numpy(fold_R.astype(np.int16)),
        predicted_R=predicted_R,
        sentiment_R=torch.tensor(sentiment, dtype=torch.int8),
        **stack_candidates(rows),
    )


def _read_fold(
    model: RatingModel,
    graph: ConceptGraph,
    rated_on: ConceptGraph | None,
    corpus: Corpus,
    fold_R: np.ndarray,
    fold: int,
    config: GraphConfig,
    seed: int,
) -> tuple[Tensor, Tensor, np.ndarray, Tensor, list]:
    """(user states, item states, records of the fold, their predicted ratings, their candidates), on CPU."""
    record_M = np.flatnonzero(fold_R == fold)
    left_out, by_parts = record_M if fold else None, config.sampling == "neighbor"
    edges = graph.edges(left_out)
    states, attention = read_graph(model, edges, by_parts)
    rating_states = read_graph(model, rated_on.edges(left_out), by_parts)[0] if rated_on else states
    user_M, item_M = corpus.user_R[record_M].astype(np.int64), corpus.item_R[record_M].astype(np.int64)
    pairs = (torch.from_numpy(index_M).to(model.device) for index_M in (user_M, item_M))
    predicted_M = model.rate(rating_states, *pairs).clamp(corpus.rating_min, corpus.rating_max)
    states, edges, attention = (
        {name: value.cpu() for name, value in found.items()} for found in (states, edges, attention)
    )
    predicted_M = predicted_M.cpu()
    frequent = frequent_concepts(corpus, record_M) if fold else None
    finder = CandidateFinder(edges, attention, graph.node_counts, frequent)
    candidates = []
    for record, user, item, rating in zip(record_M, user_M, item_M, predicted_M.tolist(), strict=True):
        sentiment = predicted_sentiment(rating, corpus.rating_min, corpus.rating_max)
        found = finder.find(int(user), int(item), sentiment, config.candidates)
        if config.candidate_source == "random":
            drawn = np.random.Generator(np.random.Philox(key=[seed, 2], counter=[0, 0, 0, int(record)]))
            chosen = drawn.choice(len(corpus.concepts), size=len(found), replace=False)
            found = [replace(old, concept=int(new)) for old, new in zip(found, chosen, strict=True)]
        candidates.append(found)
    return states["user"], states["item"], record_M, predicted_M, candidates
