"""Heterogeneous Graph Transformer (Hu et al. 2020; methods A.5.2) whose attention can be read, and the rating head.

N nodes of a type, E edges of a relation, H heads, D width, B (user, item) pairs.
"""

import math
from dataclasses import dataclass, field
from typing import Optional

import torch
from torch import Tensor, nn
from torch_geometric.nn import HGTConv
from torch_geometric.utils import softmax

from metrics.errors import InputError

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
    """PyG's HGTConv that keeps its attention, the path score of the candidate concepts, in `attention_EH`."""

    attention_EH: Tensor

    def message(
        self,
        k_j: Tensor,
        q_i: Tensor,
        v_j: Tensor,
        edge_attr: Tensor,
        index: Tensor,
        ptr: Optional[Tensor],  # noqa: UP045 - PyG inspects this signature and cannot read `X | None`
        size_i: Optional[int],  # noqa: UP045
    ) -> Tensor:
        """Messages [E, D]; the computation is the parent's, which returns no attention."""
        score_EH = (q_i * k_j).sum(dim=-1) * edge_attr / math.sqrt(q_i.size(-1))
        attention_EH = softmax(score_EH, index, ptr, size_i)
        self.attention_EH = attention_EH.detach()
        return (v_j * attention_EH.unsqueeze(-1)).view(-1, self.out_channels)


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
            ReadableHGTConv(config.width, config.width, metadata, config.heads) for _ in range(config.layers)
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
        for layer, norms in zip(self.layers, self.norms, strict=True):
            messages = layer(states, edges)
            states = {kind: norms[kind](self.dropout(messages[kind])) for kind in states}
        return states

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
