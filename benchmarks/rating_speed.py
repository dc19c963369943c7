"""An epoch of the rating network over a whole graph against PyG's HGTConv: epochs a CPU second, and peak memory.

    PEER_PYTHON=... python benchmarks/rating_speed.py [--repeats 2] [--epochs 2] [--size music|half_yelp|yelp]

Two layers, 64 wide, 4 heads, forward, backward and Adam, edges sorted anew each epoch, as when those of a batch's
own records are hidden. Both compute the same numbers: tests/models/test_hgt.py. `--ours` measures this side alone.
"""

import argparse
import json
import resource
import sys

import torch
from measuring import GPU, alternate, clock, emit, peer, run_json
from torch import nn

from callbacks.freed_memory import keep_freed_memory
from models.hgt import ReadableHGTConv, group_relations

# users, items, concepts, user-item edges, item-concept edges (each with its reverse)
SIZES = {
    "music": (7500, 7300, 5000, 430_000, 1_000_000),
    "half_yelp": (13_500, 9_000, 10_000, 600_000, 1_000_000),
    "yelp": (27_000, 18_000, 20_000, 1_200_000, 2_000_000),
}


def graph(size: str) -> tuple[dict, dict]:
    """(node counts, edges by relation), with the long tail that reviews have."""
    users, items, concepts, buys, mentions = SIZES[size]
    draw = torch.Generator().manual_seed(0)

    def tail(n: int, count: int) -> torch.Tensor:
        weights = 1.0 / torch.arange(1, n + 1, dtype=torch.float64) ** 0.8
        return torch.multinomial(weights, count, replacement=True, generator=draw)

    bought = torch.stack([torch.randint(users, (buys,), generator=draw), tail(items, buys)])
    said = torch.stack([torch.randint(items, (mentions,), generator=draw), tail(concepts, mentions)])
    edges = {
        ("user", "buys", "item"): bought,
        ("item", "mentions", "concept"): said,
        ("item", "bought_by", "user"): bought.flip(0),
        ("concept", "in", "item"): said.flip(0),
    }
    return {"user": users, "item": items, "concept": concepts}, edges


def ours(size: str, epochs: int) -> dict:
    """Seconds an epoch and MiB at the peak."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run on a CPU does
    torch.manual_seed(0)
    device = "cuda" if GPU else "cpu"
    counts, edges = graph(size)
    edges = {name: index.to(device) for name, index in edges.items()}
    tables = nn.ModuleDict({kind: nn.Embedding(n, 64) for kind, n in counts.items()}).to(device)
    layers = nn.ModuleList(ReadableHGTConv(64, 64, (list(counts), list(edges)), 4) for _ in range(2)).to(device)
    optimizer = torch.optim.Adam([*tables.parameters(), *layers.parameters()], lr=1e-3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for epoch in range(epochs + 1):
        if epoch == 1:
            begin = clock()
        states, grouped = {kind: table.weight for kind, table in tables.items()}, group_relations(edges, counts)
        for layer in layers:
            states = layer(states, edges, grouped)
        sum(state.square().mean() for state in states.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak = torch.cuda.max_memory_allocated() / 2**20 if GPU else peak
    return {"s_an_epoch": (clock() - begin) / epochs, "peak_mib": round(peak), "before_mib": round(before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", choices=SIZES, default="music")
    parser.add_argument("--ours", action="store_true")
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(args.size, args.epochs)))
        return
    memory: dict = {}
    names = ("users", "items", "concepts", "buys", "mentions")
    options = [f"--{name}={value}" for name, value in zip(names, SIZES[args.size], strict=True)]

    def mine() -> float:
        found = run_json([sys.executable, __file__, "--ours", "--size", args.size, "--epochs", str(args.epochs)])
        memory["llm2er"] = found["peak_mib"]
        return 1 / found["s_an_epoch"]

    def theirs() -> float:
        found = peer("graph_hgt.py", "--epochs", str(args.epochs), *options)
        memory["pyg"] = round(found["peak_rss_mib"])
        return 1 / found["cpu_s_per_epoch"]

    figures = alternate({"llm2er": mine, "pyg": theirs}, args.repeats)
    emit("rating epoch", "epochs a CPU second", figures, "llm2er", size=args.size, peak_mib=memory)


if __name__ == "__main__":
    main()
