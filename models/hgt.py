"""Heterogeneous Graph Transformer (Hu et al. 2020; methods A.5.2) whose attention can be read, and the rating head.

N nodes of a type, E edges of a relation, H heads, D width, B (user, item) pairs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch_geometric.nn import HGTConv

from metrics.errors import InputError
from models.sparse_attention import GroupedEdges, attend, group_edges

Relation = tuple[str, str, str]


@dataclass(frozen=True)
class HGTConfig:
    """Size of the rating model."""

    width: int = field(default=128, metadata={"help": "D, width of node states"})
    heads: int = field(default=4, metadata={"help": "attention heads"})
    layers: int = field(default=2, metadata={"help": "message-passing layers"})
    id_embeddings: bool = field(
        default=False, metadata={"help": "give users and items learned vectors of their own, as concepts have"}
    )
    dropout: float = field(default=0.2, metadata={"help": "dropout of node states and of the rating head"})
    mlp_width: int = field(default=400, metadata={"help": "width of the rating head's two hidden layers"})

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"width={self.width} is not a multiple of heads={self.heads}")


class ReadableHGTConv(HGTConv):
    """PyG's HGTConv on sparse products, with its attention, the path score of the candidate concepts, kept to be read.

    Weights and results are the parent's, which would copy key, query, value and message for each edge.
    """

    attention_EH: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        metadata: tuple[list[str], list[Relation]],
        heads: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, out_channels, metadata, heads)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_dict: dict[str, Tensor],
        edge_index_dict: dict[Relation, Tensor],
        grouped: GroupedEdges | None = None,
    ) -> dict[str, Tensor]:
        """New states by type; `grouped` spares sorting the same edges for each layer (`group_relations`)."""
        heads, width = self.heads, self.out_channels // self.heads
        kqv = {kind: x.view(-1, 3, heads, width) for kind, x in self.kqv_lin(x_dict).items()}
        key_SHW, value_SHW, _ = self._construct_src_node_feat(
            {kind: x[:, 0] for kind, x in kqv.items()}, {kind: x[:, 2] for kind, x in kqv.items()}, edge_index_dict
        )
        prior = [self.p_rel["__".join(name)].expand(len(x_dict[name[0]]), heads) for name in edge_index_dict]
        key_SHW = key_SHW * (torch.cat(prior) / math.sqrt(width))[..., None]
        query_NHW = torch.cat([x[:, 1] for x in kqv.values()])
        if grouped is None:
            grouped = group_relations(edge_index_dict, {kind: len(x) for kind, x in x_dict.items()})
        by_head = (x.transpose(0, 1).contiguous() for x in (query_NHW, key_SHW, value_SHW))
        out_HNW, weight_HE = attend(*by_head, grouped)
        self.attention_EH = torch.empty_like(weight_HE.T).index_copy_(0, grouped.order_E, weight_HE.T)
        out = dict(
            zip(x_dict, out_HNW.transpose(0, 1).flatten(1).split([len(x) for x in x_dict.values()]), strict=True)
        )
        new = self.out_lin({kind: nn.functional.gelu(x.to(x_dict[kind].dtype)) for kind, x in out.items()})
        gates = {kind: self.skip[kind].sigmoid() for kind in new}
        # What passes the layer by is not dropped: g Dropout(A) + (1 - g) x.
        return {kind: gates[kind] * self.dropout(x) + (1 - gates[kind]) * x_dict[kind] for kind, x in new.items()}


def group_relations(edges: dict[Relation, Tensor], counts: dict[str, int]) -> GroupedEdges:
    """Edges of all relations for `attend`: targets are the nodes of all types, sources those of each relation."""
    first, targets, sources, source, target = {}, 0, 0, [], []
    for kind, count in counts.items():
        first[kind], targets = targets, targets + count
    for (kind, _, onto), index in edges.items():
        source.append(index[0] + sources)
        target.append(index[1] + first[onto])
        sources += counts[kind]
    return group_edges(torch.cat(source), torch.cat(target), sources, targets)


class RatingModel(nn.Module):
    """Node states by HGT over learned id embeddings, rating by an MLP of [h_u; h_v] (methods A.2, step 1)."""

    def __init__(
        self, node_counts: dict[str, int], relations: list[Relation], config: HGTConfig, mean_rating: float
    ) -> None:
        super().__init__()
        self.config = config
        self.relations = relations
        self.embeddings = nn.ModuleDict(
            {kind: nn.Embedding(max(n, 1), config.width) for kind, n in node_counts.items()}
        )
        metadata = (list(node_counts), relations)
        self.layers = nn.ModuleList(
            ReadableHGTConv(config.width, config.width, metadata, config.heads, config.dropout)
            for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(
            nn.ModuleDict({kind: nn.LayerNorm(config.width) for kind in node_counts}) for _ in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.mlp = nn.Sequential(
            nn.Linear(2 * config.width, config.mlp_width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_width, config.mlp_width),
            nn.ReLU(),
            nn.Linear(config.mlp_width, 1),
        )
        for kind, table in self.embeddings.items():
            nn.init.normal_(table.weight, std=config.width**-0.5)
            if kind != "concept" and not config.id_embeddings:
                # Users and items are then what is said of them: with few records each, vectors of their own
                # memorise ratings instead.
                nn.init.zeros_(table.weight)
                table.weight.requires_grad_(False)
        # Starting from the mean of the train ratings spares the epochs in which only an offset is learned.
        nn.init.constant_(self.mlp[-1].bias, mean_rating)

    def add_nodes(self, node_counts: dict[str, int]) -> None:
        """Makes room for as many nodes of each type; a new one starts as the mean of those of its type."""
        for kind, table in self.embeddings.items():
            weight, more = table.weight.data, node_counts[kind] - table.num_embeddings
            if more > 0:
                grown = torch.cat([weight, weight.mean(dim=0, keepdim=True).expand(more, -1)])
                self.embeddings[kind] = nn.Embedding.from_pretrained(grown, freeze=not table.weight.requires_grad)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.mlp[-1].bias.device

    def encode(self, edges: dict[Relation, Tensor], nodes: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Node states [N, D] by type over the given edges [2, E]; keeps the attention for `attention`.

        `nodes` are the ids of the nodes that take part, numbered in their order by `edges`; without it, all do.
        """
        if nodes is None:
            nodes = {
                kind: torch.arange(table.num_embeddings, device=self.device) for kind, table in self.embeddings.items()
            }
        # Called, not read: under ZeRO-3 a weight is whole only inside its own module's forward.
        states = {kind: self.dropout(table(nodes[kind])) for kind, table in self.embeddings.items()}
        grouped = group_relations(edges, {kind: len(state) for kind, state in states.items()})
        for layer, norms in zip(self.layers, self.norms, strict=True):
            messages = layer(states, edges, grouped)
            states = {kind: norms[kind](messages[kind]) for kind in states}
        return states

    @torch.no_grad()
    def encode_by_parts(
        self, edges: dict[Relation, Tensor], most: int
    ) -> tuple[dict[str, Tensor], dict[Relation, Tensor]]:
        """(`encode`, `attention`) layer by layer, for the targets of at most so many edges at a time.

        The in-edges of one node stay together. All of them are read, so that the results are those of `encode`; memory
        beside the states goes with `most`. Without gradients.
        """
        device = self.device
        states = {k: self.dropout(t(torch.arange(t.num_embeddings, device=device))) for k, t in self.embeddings.items()}
        into = {kind: _InEdges(kind, len(state), edges) for kind, state in states.items()}
        attention = {name: torch.empty(index.shape[1], device=device) for name, index in edges.items()}
        for layer, norms in zip(self.layers, self.norms, strict=True):
            found: dict[str, list[Tensor]] = {kind: [] for kind in states}
            for kind, parts in into.items():
                for low, high in parts.ranges(most):
                    nodes, local, places = parts.around(low, high, states)
                    messages = layer({k: state[nodes[k]] for k, state in states.items()}, local)[kind]
                    targets = torch.searchsorted(nodes[kind], torch.arange(low, high, device=device))
                    found[kind].append(norms[kind](messages[targets]))
                    if local:
                        weight_E = layer.attention_EH.mean(dim=1).split([len(place) for place in places.values()])
                        for (name, place), part_E in zip(places.items(), weight_E, strict=True):
                            attention[name][place] = part_E
            states = {kind: torch.cat(parts) for kind, parts in found.items()}
        return states, attention

    def attention(self, edges: dict[Relation, Tensor]) -> dict[Relation, Tensor]:
        """Attention [E] of the last layer at the last `encode`, mean over heads, by relation.

        For each target node it sums to 1 over the incoming edges of all relations together.
        """
        attention_E = self.layers[-1].attention_EH.mean(dim=1)
        sizes = [edges[relation].shape[1] for relation in edges]
        return dict(zip(edges, attention_E.split(sizes), strict=True))

    def rate(self, states: dict[str, Tensor], user_B: Tensor, item_B: Tensor) -> Tensor:
        """Predicted ratings [B] of pairs, not clipped to the scale."""
        pair_B2D = torch.cat([states["user"][user_B], states["item"][item_B]], dim=-1)
        return self.mlp(pair_B2D).squeeze(-1)


class _InEdges:
    """The edges into the nodes of one type, by target."""

    def __init__(self, kind: str, targets: int, edges: dict[Relation, Tensor]) -> None:
        self.kind = kind
        self.edges = {name: index for name, index in edges.items() if name[2] == kind}
        self.order = {name: torch.argsort(index[1], stable=True) for name, index in self.edges.items()}
        degrees = [torch.bincount(index[1], minlength=targets) for index in self.edges.values()]
        self.start = {
            name: torch.cat([degree.new_zeros(1), degree.cumsum(0)]).tolist()
            for name, degree in zip(self.edges, degrees, strict=True)
        }
        self._degree_N = torch.stack(degrees).sum(dim=0).tolist() if degrees else [0] * targets

    def ranges(self, most: int) -> Iterator[tuple[int, int]]:
        """[low, high) of nodes with at most `most` in-edges together, or of one node with more; all nodes in turn."""
        low, held = 0, 0
        for node, degree in enumerate(self._degree_N):
            if node > low and held + degree > most:
                yield low, node
                low, held = node, 0
            held += degree
        if self._degree_N:
            yield low, len(self._degree_N)

    def around(
        self, low: int, high: int, states: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[Relation, Tensor], dict[Relation, Tensor]]:
        """(ids of the nodes and of all that they hear from, their in-edges in local ids, the places of those edges)."""
        places = {name: self.order[name][start[low] : start[high]] for name, start in self.start.items()}
        taken = {kind: torch.zeros(len(state), dtype=torch.bool, device=state.device) for kind, state in states.items()}
        taken[self.kind][low:high] = True
        for name, place in places.items():
            taken[name[0]][self.edges[name][0][place]] = True
        number = {kind: mask.cumsum(0) - 1 for kind, mask in taken.items()}
        local = {
            name: torch.stack(
                [number[end][index] for end, index in zip(name[::2], self.edges[name][:, place], strict=True)]
            )
            for name, place in places.items()
        }
        return {kind: mask.nonzero()[:, 0] for kind, mask in taken.items()}, local, places
