"""The user-item-concept graph (methods A.5.1): sentiment-typed edges that know the records behind them.

N nodes of a type, E edges of a relation, I incidences (an edge and one record that contributed to it).
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from datamodules.corpus import Corpus
from datamodules.edges import REVERSE, Relation, edge_tables
from metrics.errors import InputError

# By which relation a node that is new hears of its concepts, typed or plain.
_INTO: dict[str, tuple[Relation, Relation]] = {
    "user": (("concept", "liked_by", "user"), ("concept", "mentioned_by", "user")),
    "item": (("concept", "praised_in", "item"), ("concept", "of", "item")),
}


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
    sampling: str = field(
        default="full",
        metadata={"help": "what a rating batch reads: the full graph, or neighbor (around its users and items)"},
    )
    neighbors: int = field(
        default=15, metadata={"help": "sampling=neighbor: most in-edges of each relation for a node; 0: all"}
    )
    candidate_source: str = field(
        default="paths", metadata={"help": "paths (the graph's), or random concepts: a control for ablations"}
    )

    def __post_init__(self) -> None:
        if self.relations not in ("typed", "plain"):
            raise InputError(f"graph.relations={self.relations}: use typed or plain")
        if self.candidate_source not in ("paths", "random"):
            raise InputError(f"graph.candidate_source={self.candidate_source}: use paths or random")
        if self.sampling not in ("full", "neighbor"):
            raise InputError(f"graph.sampling={self.sampling}: use full or neighbor")
        if self.neighbors < 0:
            raise InputError(f"graph.neighbors={self.neighbors}: must be 0 (all) or more")
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
    def device(self) -> torch.device:
        """Where the edges are."""
        return self.data[self.relations[0]].edge_index.device

    @property
    def relations(self) -> list[Relation]:
        """The relations in the order in which attention is read out."""
        return list(self.incidences)

    def to(self, device: torch.device) -> "ConceptGraph":
        """The graph with its edges and incidences there; itself where they are there already."""
        if self.device == device or self.device.type == device.type == "cpu":  # "cpu:0" is "cpu"
            return self
        incidences = {r: (edge_I.to(device), record_I.to(device)) for r, (edge_I, record_I) in self.incidences.items()}
        return ConceptGraph(copy.copy(self.data).to(device), incidences, self.records)

    def edges(self, without: np.ndarray | Tensor | None = None) -> dict[Relation, Tensor]:
        """The edge index of every relation as if the records `without` had never been written (leave-one-out).

        An edge stays while any other record contributes to it.
        """
        if without is None or len(without) == 0:
            return {relation: self.data[relation].edge_index for relation in self.incidences}
        left = torch.ones(self.records, device=self.device)
        left[torch.as_tensor(without, dtype=torch.long, device=self.device)] = 0
        edges = {}
        for relation, (edge_I, record_I) in self.incidences.items():
            index = self.data[relation].edge_index
            count_E = torch.zeros(index.shape[1], device=self.device).index_add_(0, edge_I, left[record_I])
            edges[relation] = index[:, count_E > 0]
        return edges


def build_graph(corpus: Corpus, config: GraphConfig, records: Iterable[int] | None = None) -> ConceptGraph:
    """The graph of the train records (or of `records`); node ids are the corpus's contiguous ids."""
    data, incidences = HeteroData(), {}
    data["user"].num_nodes = len(corpus.users)
    data["item"].num_nodes = len(corpus.items)
    data["concept"].num_nodes = len(corpus.concepts)
    for relation, edges in edge_tables(corpus, config.relations == "typed", records).items():
        index, count_E = torch.from_numpy(edges.index_2E), torch.from_numpy(edges.count_E)
        incidence = torch.from_numpy(edges.edge_I), torch.from_numpy(edges.record_I)
        for name, directed in ((relation, index), (REVERSE[relation], index.flip(0))):
            data[name].edge_index, data[name].edge_count = directed, count_E
            incidences[name] = incidence
    return ConceptGraph(data, incidences, records=len(corpus.user_R))


def with_new_nodes(
    graph: ConceptGraph, concepts_of: dict[str, dict[int, list[int]]], node_counts: dict[str, int]
) -> ConceptGraph:
    """The graph with more users and items, and with edges from concepts into nodes that no train record tells of.

    `concepts_of` is {user or item: {node: its concepts}}. An edge says: the user likes the concept, or the item
    is praised for it. Edges run into these nodes alone, so that the states of all others stay what they were.
    """
    data, incidences = HeteroData(), dict(graph.incidences)
    for kind, count in node_counts.items():
        data[kind].num_nodes = count
    for relation in graph.relations:
        data[relation].edge_index = graph.data[relation].edge_index
        data[relation].edge_count = graph.data[relation].edge_count
    for kind, nodes in concepts_of.items():
        relation = next(r for r in _INTO[kind] if r in graph.incidences)
        pairs = [(concept, node) for node, concepts in nodes.items() for concept in concepts]
        index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
        old, number = data[relation].edge_index, index.shape[1]
        edge_I, record_I = incidences[relation]
        # Contributed to by a record of its own, numbered behind all others: leave-one-out never takes it away.
        incidences[relation] = (
            torch.cat([edge_I, old.shape[1] + torch.arange(number)]),
            torch.cat([record_I, torch.full((number,), graph.records)]),
        )
        data[relation].edge_index = torch.cat([old, index], dim=1)
        data[relation].edge_count = torch.cat([data[relation].edge_count, torch.ones(number, dtype=torch.long)])
    return ConceptGraph(data, incidences, records=graph.records + 1)


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
