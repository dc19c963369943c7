"""Attention over the edges of a graph without a copy of a key, query or value for each edge.

Scores of edges are a sampled product of dense matrices, sums over the edges into a node are products of a sparse matrix
with a dense one; both read states where they stand. Only one number an edge and head is kept for the backward pass.

E edges, H heads, N target nodes, S source rows, W width of a head.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        """The value of each edge's target [E]."""
        return torch.repeat_interleave(value_N, self.row_N1.diff(), output_size=len(self.order_E))

    def into_targets(self, value_E: Tensor) -> Tensor:
        """The sparse matrix [N, S] with these values, given in the order of targets."""
        return _csr(self.row_N1, self.source_E, value_E, len(self.column_S1) - 1)

    def into_sources(self, value_E: Tensor) -> Tensor:
        """Its transpose [S, N]."""
        return _csr(self.column_S1, self.target_E, value_E[self.back_E], len(self.row_N1) - 1)


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
        pattern = edges.into_targets(torch.zeros(len(edges.order_E), device=query.device))
        out_HNW, weight_HE = torch.empty_like(query), query.new_empty(len(query), len(edges.order_E))
        for h in range(len(query)):
            score_E = _products(pattern, query[h], key[h])
            most_N = torch.segment_reduce(score_E, "max", offsets=edges.row_N1, unsafe=True)
            score_E = score_E.sub_(edges.at_edges(most_N)).exp_()
            weight_HE[h] = score_E.div_(edges.at_edges(edges.sums(score_E)))
            out_HNW[h] = edges.into_targets(weight_HE[h]) @ value[h]
        ctx.save_for_backward(query, key, value, weight_HE)
        ctx.edges = edges
        ctx.mark_non_differentiable(weight_HE)
        return out_HNW, weight_HE

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, weight_HE = ctx.saved_tensors
        edges, out_grad = ctx.edges, gradients[0].contiguous()
        pattern = edges.into_targets(torch.zeros(len(edges.order_E), device=query.device))
        query_grad, key_grad, value_grad = (torch.empty_like(part) for part in (query, key, value))
        for h in range(len(query)):
            value_grad[h] = edges.into_sources(weight_HE[h]) @ out_grad[h]
            weight_grad_E = _products(pattern, out_grad[h], value[h])
            mean_E = edges.at_edges(edges.sums(weight_grad_E * weight_HE[h]))
            score_grad_E = weight_grad_E.sub_(mean_E).mul_(weight_HE[h])
            query_grad[h] = edges.into_targets(score_grad_E) @ key[h]
            key_grad[h] = edges.into_sources(score_grad_E) @ query[h]
        return query_grad, key_grad, value_grad, None


def _products(pattern: Tensor, left_NW: Tensor, right_SW: Tensor) -> Tensor:
    """left_n . right_s of each edge [E], in the order of targets."""
    return torch.sparse.sampled_addmm(pattern, left_NW, right_SW.T, beta=0.0).values()


def _starts(index_E: Tensor, count: int) -> Tensor:
    starts = torch.zeros(count + 1, dtype=torch.long, device=index_E.device)
    torch.cumsum(torch.bincount(index_E, minlength=count), 0, out=starts[1:])
    return starts


def _csr(starts: Tensor, index_E: Tensor, value_E: Tensor, width: int) -> Tensor:
    return torch.sparse_csr_tensor(starts, index_E, value_E, (len(starts) - 1, width), check_invariants=False)
