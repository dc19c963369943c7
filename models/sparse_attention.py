"""Attention over the edges of a graph without a copy of a key, query or value for each edge.

Scores of edges are a sampled product of dense matrices, sums over the edges into a node are products of a sparse matrix
with a dense one; both read states where they stand. Only one number an edge and head is kept for the backward pass.
On a GPU there is a copy for each edge, of one head at a time: the sparse products of cuSPARSE sum up in no fixed order.

E edges, H heads, N target nodes, S source rows, W width of a head.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

RUN = 128  # edges that one thread of a GPU sums up: a node with very many does not keep the others waiting

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


@dataclass(frozen=True)
class GroupedEdges:
    """Edges in the order of their targets (compressed rows) and, for the backward pass, of their sources."""

    order_E: Tensor  # the edge as it was given, of each place in the order of targets
    source_E: Tensor
    row_N1: Tensor  # where each target's edges begin, and E
    back_E: Tensor  # the place in the order of targets, of each place in the order of sources
    target_E: Tensor  # in the order of sources
    column_S1: Tensor  # where each source's edges begin, and E

    def sums(self, value_E: Tensor) -> Tensor:
        """Sums over the edges into each target [N]."""
        return torch.segment_reduce(value_E, "sum", offsets=self.row_N1, unsafe=True)

    def at_edges(self, value_N: Tensor) -> Tensor:
        """The value [E], or the row [E, W], of each edge's target."""
        return torch.repeat_interleave(value_N, self.row_N1.diff(), dim=0, output_size=len(self.order_E))

    def products(self, left_NW: Tensor, right_SW: Tensor) -> Tensor:
        """left_n . right_s of each edge [E], in the order of targets."""
        if left_NW.is_cuda:
            return (self.at_edges(left_NW) * right_SW[self.source_E]).sum(1)
        return torch.sparse.sampled_addmm(self.pattern, left_NW, right_SW.T, beta=0.0).values()

    def into_targets(self, weight_E: Tensor, state_SW: Tensor) -> Tensor:
        """Sums [N, W] of the sources' states by weight; weights are in the order of targets."""
        if state_SW.is_cuda:
            return self.row_runs.sums(weight_E[:, None] * state_SW[self.source_E])
        return _csr(self.row_N1, self.source_E, weight_E, len(state_SW)) @ state_SW

    def into_sources(self, weight_E: Tensor, state_NW: Tensor) -> Tensor:
        """The other way round [S, W]: sums of the targets' states."""
        weight_E = weight_E[self.back_E]
        if state_NW.is_cuda:
            return self.column_runs.sums(weight_E[:, None] * state_NW[self.target_E])
        return _csr(self.column_S1, self.target_E, weight_E, len(state_NW)) @ state_NW

    @cached_property
    def pattern(self) -> Tensor:
        """The edges as a sparse matrix [N, S] of zeros."""
        return _csr(self.row_N1, self.source_E, torch.zeros(len(self.order_E)), len(self.column_S1) - 1)

    @cached_property
    def row_runs(self) -> "Runs":
        """Of the edges in the order of targets."""
        return Runs.of(self.row_N1, len(self.order_E))

    @cached_property
    def column_runs(self) -> "Runs":
        """Of the edges in the order of sources."""
        return Runs.of(self.column_S1, len(self.order_E))


class Runs(NamedTuple):
    """Edges cut where a node's begin and at each multiple of `RUN`: R runs."""

    start_R1: Tensor
    first_N1: Tensor  # the first run of each node, and R

    @classmethod
    def of(cls, start_N1: Tensor, edges: int) -> "Runs":
        """Of nodes whose edges begin there."""
        start_R1 = torch.cat([start_N1, torch.arange(0, edges, RUN, device=start_N1.device)]).unique()
        return cls(start_R1, torch.searchsorted(start_R1, start_N1))

    def sums(self, value_EW: Tensor) -> Tensor:
        """Sums [N, W] over the edges of each node: first of runs, then of these sums."""
        value_RW = torch.segment_reduce(value_EW, "sum", offsets=self.start_R1, axis=0, unsafe=True)
        return torch.segment_reduce(value_RW, "sum", offsets=self.first_N1, axis=0, unsafe=True)


def group_edges(source_E: Tensor, target_E: Tensor, sources: int, targets: int) -> GroupedEdges:
    """Sorts edges; several edges may join the same two nodes."""
    order_E = torch.argsort(target_E, stable=True)
    sorted_source_E, sorted_target_E = source_E[order_E], target_E[order_E]
    back_E = torch.argsort(sorted_source_E, stable=True)
    rows, columns = _starts(target_E, targets), _starts(source_E, sources)
    return GroupedEdges(order_E, sorted_source_E, rows, back_E, sorted_target_E[back_E], columns)


def attend(query_HNW: Tensor, key_HSW: Tensor, value_HSW: Tensor, edges: GroupedEdges) -> tuple[Tensor, Tensor]:
    """(sums [H, N, W] of values over the edges into each target, by the softmax of query . key; its weights [H, E]).

    Weights are in the order of targets and carry no gradient. A target without edges gets zeros.
    """
    return _Attention.apply(query_HNW.float(), key_HSW.float(), value_HSW.float(), edges)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, edges: GroupedEdges) -> tuple[Tensor, Tensor]:
        out_HNW, weight_HE = torch.empty_like(query), query.new_empty(len(query), len(edges.order_E))
        for h in range(len(query)):
            score_E = edges.products(query[h], key[h])
            most_N = torch.segment_reduce(score_E, "max", offsets=edges.row_N1, unsafe=True)
            score_E = score_E.sub_(edges.at_edges(most_N)).exp_()
            weight_HE[h] = score_E.div_(edges.at_edges(edges.sums(score_E)))
            out_HNW[h] = edges.into_targets(weight_HE[h], value[h])
        ctx.save_for_backward(query, key, value, weight_HE)
        ctx.edges = edges
        ctx.mark_non_differentiable(weight_HE)
        return out_HNW, weight_HE

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, weight_HE = ctx.saved_tensors
        edges, out_grad = ctx.edges, gradients[0].contiguous()
        query_grad, key_grad, value_grad = (torch.empty_like(part) for part in (query, key, value))
        for h in range(len(query)):
            value_grad[h] = edges.into_sources(weight_HE[h], out_grad[h])
            weight_grad_E = edges.products(out_grad[h], value[h])
            mean_E = edges.at_edges(edges.sums(weight_grad_E * weight_HE[h]))
            score_grad_E = weight_grad_E.sub_(mean_E).mul_(weight_HE[h])
            query_grad[h] = edges.into_targets(score_grad_E, key[h])
            key_grad[h] = edges.into_sources(score_grad_E, query[h])
        return query_grad, key_grad, value_grad, None


def _starts(index_E: Tensor, count: int) -> Tensor:
    starts = torch.zeros(count + 1, dtype=torch.long, device=index_E.device)
    torch.cumsum(torch.bincount(index_E, minlength=count), 0, out=starts[1:])
    return starts


def _csr(starts: Tensor, index_E: Tensor, value_E: Tensor, width: int) -> Tensor:
    return torch.sparse_csr_tensor(starts, index_E, value_E, (len(starts) - 1, width), check_invariants=False)
