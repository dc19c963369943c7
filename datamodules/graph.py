"""The user-item-concept graph (methods A.5.1): sentiment-typed edges that know the records behind them.

N nodes of a type, E edges of a relation, I incidences (an edge and one record that contributed to it).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from datamodules.corpus import Corpus
from metrics.errors import InputError

Relation = tuple[str, str, str]

# In pairs: a relation and its reverse, so that messages flow both ways.
TYPED: tuple[Relation, ...] = (
    ("user", "rated_high", "item"),
    ("item", "rated_high_by", "user"),
    ("user", "rated_low", "item"),
    ("item", "rated_low_by", "user"),
    ("user", "likes", "concept"),
    ("concept", "liked_by", "user"),
    ("user", "dislikes", "concept"),
    ("concept", "disliked_by", "user"),
    ("item", "praised_for", "concept"),
    ("concept", "praised_in", "item"),
    ("item", "criticised_for", "concept"),
    ("concept", "criticised_in", "item"),
)
PLAIN: tuple[Relation, ...] = (
    ("user", "rated", "item"),
    ("item", "rated_by", "user"),
    ("user", "mentions", "concept"),
    ("concept", "mentioned_by", "user"),
    ("item", "has", "concept"),
    ("concept", "of", "item"),
)


@dataclass(frozen=True)
class GraphConfig:
    """How the concept graph is built and read."""

    relations: str = field(default="typed", metadata={"help": "typed (12 relations by sentiment) or plain (6)"})
    folds: int = field(
        default=20,
        metadata={"help": "parts of train; a record is read from the graph without its own part"},
    )
    candidates: int = field(default=5, metadata={"help": "k, candidate concepts offered for a (user, item)"})
    leave_one_out: bool = field(
        default=True, metadata={"help": "false shows a train record its own edges: only to measure what the leak does"}
    )
    candidate_source: str = field(
        default="paths", metadata={"help": "paths (the graph's), or random concepts: a control for ablations"}
    )

    def __post_init__(self) -> None:
        if self.relations not in ("typed", "plain"):
            raise InputError(f"graph.relations={self.relations}: use typed or plain")
        if self.candidate_source not in ("paths", "random"):
            raise InputError(f"graph.candidate_source={self.candidate_source}: use paths or random")
        if self.folds < 2:
            raise InputError(f"graph.folds={self.folds}: at least 2 are needed to leave a record's fold out")
        if self.candidates < 1:
            raise InputError(f"graph.candidates={self.candidates}: must be at least 1")


@dataclass(frozen=True)
class ConceptGraph:
    """A `HeteroData` with `edge_index` [2, E] and `edge_count` [E] a relation, and what is needed to take records back.

    `incidences[relation]` is (edge_I, record_I): edge `edge_I[i]` was contributed to by record `record_I[i]`.
    """

    data: HeteroData
    incidences: dict[Relation, tuple[Tensor, Tensor]]
    records: int

    @property
    def node_counts(self) -> dict[str, int]:
        """Nodes of each type."""
        return {kind: self.data[kind].num_nodes for kind in self.data.node_types}

    @property
    def relations(self) -> list[Relation]:
        """The relations in the order in which attention is read out."""
        return list(self.incidences)

    def edges(self, without: np.ndarray | Tensor | None = None) -> dict[Relation, Tensor]:
        """The edge index of every relation as if the records `without` had never been written (leave-one-out).

        An edge stays while any other record contributes to it.
        """
        if without is None or len(without) == 0:
            return {relation: self.data[relation].edge_index for relation in self.incidences}
        left = torch.ones(self.records)
        left[torch.as_tensor(without, dtype=torch.long)] = 0
        edges = {}
        for relation, (edge_I, record_I) in self.incidences.items():
            index = self.data[relation].edge_index
            count_E = torch.zeros(index.shape[1]).index_add_(0, edge_I, left[record_I])
            edges[relation] = index[:, count_E > 0]
        return edges


def rating_is_high(rating: float | np.ndarray, corpus: Corpus) -> bool | np.ndarray:
    """Above the middle of the scale: 4 and 5 of 1-5."""
    return rating > (corpus.rating_min + corpus.rating_max) / 2


def build_graph(corpus: Corpus, config: GraphConfig, records: Iterable[int] | None = None) -> ConceptGraph:
    """The graph of the train records (or of `records`).

    A mention without polarity takes the sign of its record's rating. Node ids are the corpus's contiguous ids and edges
    are sorted, so that two builds are equal.
    """
    rows = np.fromiter(corpus.rows("train") if records is None else records, dtype=np.int64)
    if len(rows) == 0:
        raise InputError(f"{corpus.path}: no train record, so there is no graph; check the splits")
    forward = TYPED[::2] if config.relations == "typed" else PLAIN[::2]
    triples: dict[Relation, list[tuple[int, int, int]]] = {relation: [] for relation in forward}
    for record in rows.tolist():
        user, item = int(corpus.user_R[record]), int(corpus.item_R[record])
        high = bool(rating_is_high(corpus.rating_R[record], corpus))
        user_item, user_concept, item_concept = _relations_of(forward, high)
        triples[user_item].append((user, item, record))
        for mention in corpus.mentions[record]:
            good = mention.polarity > 0 if mention.polarity else high
            _, user_concept, item_concept = _relations_of(forward, good)
            triples[user_concept].append((user, mention.concept, record))
            triples[item_concept].append((item, mention.concept, record))
    return _assemble(corpus, config, triples)


def _relations_of(forward: tuple[Relation, ...], good: bool) -> tuple[Relation, Relation, Relation]:
    if len(forward) == 3:
        return forward  # type: ignore[return-value]
    return forward[0 + (not good)], forward[2 + (not good)], forward[4 + (not good)]


def _assemble(corpus: Corpus, config: GraphConfig, triples: dict[Relation, list[tuple[int, int, int]]]) -> ConceptGraph:
    data = HeteroData()
    data["user"].num_nodes = len(corpus.users)
    data["item"].num_nodes = len(corpus.items)
    data["concept"].num_nodes = len(corpus.concepts)
    reverse = dict(zip(*[iter(TYPED if config.relations == "typed" else PLAIN)] * 2, strict=True))
    incidences: dict[Relation, tuple[Tensor, Tensor]] = {}
    for relation, rows in triples.items():
        table_I3 = np.unique(np.array(rows, dtype=np.int64).reshape(-1, 3), axis=0)
        pairs_E2, edge_I = np.unique(table_I3[:, :2], axis=0, return_inverse=True)
        index = torch.from_numpy(pairs_E2.T.copy())
        count_E = torch.from_numpy(np.bincount(edge_I.ravel(), minlength=len(pairs_E2)))
        incidence = torch.from_numpy(edge_I.ravel().copy()), torch.from_numpy(table_I3[:, 2].copy())
        for name, edges in ((relation, index), (reverse[relation], index.flip(0))):
            data[name].edge_index, data[name].edge_count = edges, count_E
            incidences[name] = incidence
    return ConceptGraph(data, incidences, records=len(corpus.user_R))


def fold_of_records(corpus: Corpus, config: GraphConfig, seed: int) -> np.ndarray:
    """The fold [R] each record is left out with: 1..folds for train records, 0 (nothing left out) for all others.

    With `leave_one_out=false` every record is in fold 0.
    """
    fold_R = np.zeros(len(corpus.user_R), dtype=np.int16)
    if config.leave_one_out:
        train = corpus.rows("train")
        dealt = np.arange(len(train)) % config.folds + 1
        fold_R[train] = np.random.Generator(np.random.Philox(key=[seed, 1])).permutation(dealt)
    return fold_R
