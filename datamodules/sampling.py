"""Neighbour sampling on the concept graph, for graphs whose messages do not fit memory (Hamilton et al. 2017).

Around the users and items of a batch, hop by hop, at most k in-edges of each relation are drawn for a node. A network
of as many layers as there are hops reads nothing else for those users and items, so that with all in-edges taken its
states there equal those on the full graph. PyG's own loaders need compiled extensions that have no wheels, and cannot
leave out what a batch itself contributed.

T targets, E edges of a relation, N nodes of a type, D draws.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.edges import Relation
from datamodules.graph import ConceptGraph, GraphConfig


@dataclass
class Subgraph:
    """The sampled neighbourhood: global ids of its nodes by type, edges [2, E] in local ids, local ids of the batch."""

    nodes: dict[str, Tensor]
    edges: dict[Relation, Tensor]
    user_B: Tensor
    item_B: Tensor


class _InEdges:
    """The edges of one relation by target (CSC), and which records are behind each."""

    def __init__(self, graph: ConceptGraph, relation: Relation) -> None:
        source_E, target_E = graph.data[relation].edge_index.numpy()
        order = np.argsort(target_E, kind="stable")
        self.source_E, self.target_E, self.edge_E = source_E[order], target_E[order], order
        targets = graph.node_counts[relation[2]]
        self.start_T = np.searchsorted(self.target_E, np.arange(targets + 1))
        edge_I, record_I = (column.numpy() for column in graph.incidences[relation])
        by_record = np.argsort(record_I, kind="stable")
        self.edge_of_I, self.record_start = (
            edge_I[by_record],
            np.searchsorted(record_I[by_record], np.arange(graph.records + 1)),
        )
        self.count_E = graph.data[relation].edge_count.numpy()

    def gone(self, hidden: np.ndarray) -> np.ndarray:
        """The edges that no record but the `hidden` ones contributes to."""
        edges, times = np.unique(self.edge_of_I[_ranges(self.record_start, hidden)], return_counts=True)
        return edges[times == self.count_E[edges]]

    def draw(self, target_T: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
        """Places of in-edges of the targets: all where there are at most `most` (0: always), else so many at random.

        The in-edges of a target are parted into `most` runs of like length, turned by a random step, and one place is
        drawn from each: distinct, each as likely as any other, and no more work than there are draws.
        """
        degree_T = self.start_T[target_T + 1] - self.start_T[target_T]
        few_T = degree_T <= most if most else np.ones(len(target_T), dtype=bool)
        taken = _ranges(self.start_T, target_T[few_T])
        many = target_T[~few_T]
        if not len(many):
            return taken
        degree = degree_T[~few_T][:, None]
        run = np.arange(most)[None, :]
        low, high = run * degree // most, (run + 1) * degree // most
        place = low + (rng.random((len(many), most)) * (high - low)).astype(np.int64)
        turned = (place + (rng.random((len(many), 1)) * degree).astype(np.int64)) % degree
        return np.concatenate([taken, (self.start_T[many][:, None] + turned).ravel()])


class NeighborSampler:
    """Draws the neighbourhoods of batches; the same batch gives the same draw."""

    def __init__(self, graph: ConceptGraph, layers: int, neighbors: int, seed: int) -> None:
        self.layers, self.neighbors, self.seed = layers, neighbors, seed
        self._counts = graph.node_counts
        self._in_edges = {relation: _InEdges(graph, relation) for relation in graph.relations}

    def sample(self, user_B: np.ndarray, item_B: np.ndarray, hidden: np.ndarray) -> Subgraph:
        """The neighbourhood of pairs as if the `hidden` records had never been written (leave-one-out)."""
        key = zlib.crc32(np.concatenate([user_B, item_B, hidden]).astype(np.int64).tobytes())
        rng = np.random.Generator(np.random.Philox(key=[self.seed, key]))
        gone = {relation: edges.gone(hidden) for relation, edges in self._in_edges.items()}
        known = {kind: np.zeros(count, dtype=bool) for kind, count in self._counts.items()}
        front = {"user": np.unique(user_B), "item": np.unique(item_B), "concept": np.empty(0, dtype=np.int64)}
        found: dict[Relation, list[np.ndarray]] = {relation: [] for relation in self._in_edges}
        for kind, nodes in front.items():
            known[kind][nodes] = True
        for _ in range(self.layers):
            reached: dict[str, list[np.ndarray]] = {kind: [] for kind in known}
            for relation, edges in self._in_edges.items():
                source, _, target = relation
                place = edges.draw(front[target], self.neighbors, rng)
                if len(gone[relation]):
                    place = place[~np.isin(edges.edge_E[place], gone[relation])]
                found[relation].append(place)
                reached[source].append(edges.source_E[place])
            for kind, parts in reached.items():
                nodes = np.unique(np.concatenate(parts))
                front[kind] = nodes[~known[kind][nodes]]
                known[kind][front[kind]] = True
        return self._local(known, found, user_B, item_B)

    def _local(
        self,
        known: dict[str, np.ndarray],
        found: dict[Relation, list[np.ndarray]],
        user_B: np.ndarray,
        item_B: np.ndarray,
    ) -> Subgraph:
        number = {kind: np.cumsum(mask) - 1 for kind, mask in known.items()}
        edges = {}
        for relation, places in found.items():
            # In the order of the whole graph, so that sums over all in-edges are the same sums.
            place = np.sort(np.concatenate(places))
            place = place[np.argsort(self._in_edges[relation].edge_E[place], kind="stable")]
            ends = self._in_edges[relation].source_E[place], self._in_edges[relation].target_E[place]
            edges[relation] = torch.from_numpy(np.stack([number[relation[0]][ends[0]], number[relation[2]][ends[1]]]))
        nodes = {kind: torch.from_numpy(np.flatnonzero(mask)) for kind, mask in known.items()}
        pairs = torch.from_numpy(number["user"][user_B]), torch.from_numpy(number["item"][item_B])
        return Subgraph(nodes, edges, *pairs)


def make_sampler(graph: ConceptGraph, config: GraphConfig, layers: int, seed: int) -> NeighborSampler | None:
    """The sampler that `config` asks for, None for the full graph."""
    return NeighborSampler(graph, layers, config.neighbors, seed) if config.sampling == "neighbor" else None


def _ranges(start: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """start[r], ..., start[r + 1] - 1 of each row, one after the other."""
    size = start[rows + 1] - start[rows]
    ends = np.cumsum(size)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(start[rows] - ends + size, size)
