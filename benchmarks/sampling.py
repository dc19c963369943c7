"""Neighbour sampling against the full graph in the rating stage, on any corpus: time of a step and epoch, memory.

    python benchmarks/sampling.py CORPUS [STEPS] [WAYS]  # default 3 steps of the full graph, 30 sampled; neighbor,full
    python benchmarks/sampling.py rmse CORPUS FULL_RUNS NEIGHBOR_RUNS  # finished rating stages, one a seed, by comma

Prints one JSON line. Each way runs in a process of its own, on one thread: batches of 512 train records, forward,
backward and an optimizer step, dropout on, width 64, one layer as in the shipped presets, leave-one-out on. The time of
an epoch is that of the steps that were run, times the number of steps in an epoch. `read` is one reading of the whole
graph, as validation and each fold of the evidence do it: at once, or by parts where training is sampled; `gib` of it is
the peak while only that was run. `rmse`: test RMSE of each seed, and the interval of the difference of what the mean
squared errors give, over resampled test records.
"""

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from datamodules.corpus import Corpus
from datamodules.evidence import Evidence
from datamodules.graph import GraphConfig, build_graph
from datamodules.sampling import NeighborSampler
from lightning_modules.rating import read_graph
from metrics.bootstrap import bootstrap, interval
from models.hgt import HGTConfig, RatingModel

BATCH, NEIGHBORS = 512, 15


def steps(path: str, number: int, neighbors: int | None, send) -> None:
    """Sends the figures of `number` optimizer steps; `neighbors` None reads the full graph."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    corpus = Corpus.load(path)
    graph = build_graph(corpus, GraphConfig())
    model = RatingModel(graph.node_counts, graph.relations, HGTConfig(width=64, layers=1, mlp_width=128), 3.0)
    optimizer = torch.optim.AdamW(model.parameters())
    sampler = None if neighbors is None else NeighborSampler(graph, 1, neighbors, 0)
    train = np.random.default_rng(0).permutation(corpus.rows("train"))
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    for step in range(number):
        rows = train[step * BATCH : (step + 1) * BATCH]
        users, items = corpus.user_R[rows].astype(np.int64), corpus.item_R[rows].astype(np.int64)
        if sampler is None:
            states, pairs = model.encode(graph.edges(rows)), (torch.from_numpy(users), torch.from_numpy(items))
        else:
            found = sampler.sample(users, items, rows)
            states, pairs = model.encode(found.edges, found.nodes), (found.user_B, found.item_B)
        loss = (model.rate(states, *pairs) - torch.from_numpy(corpus.rating_R[rows])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / number
    in_epoch = -(-len(train) // BATCH)
    send.send(
        {
            "steps": number,
            "s_a_step": round((time.perf_counter() - start) / number, 3),
            "cpu_s_a_step": round(cpu, 3),
            "cpu_s_an_epoch": round(cpu * in_epoch),
            "gib": round(after.ru_maxrss / 2**20, 2),
            "gib_without_steps": round(before.ru_maxrss / 2**20, 2),
            "edges": sum(index.shape[1] for index in graph.edges().values()),
        }
    )


def read(path: str, by_parts: bool, send) -> None:
    """Sends the figures of one reading of the graph."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    graph = build_graph(Corpus.load(path), GraphConfig())
    model = RatingModel(graph.node_counts, graph.relations, HGTConfig(width=64, layers=1, mlp_width=128), 3.0).eval()
    edges = graph.edges()
    before = resource.getrusage(resource.RUSAGE_SELF)
    with torch.no_grad():
        read_graph(model, edges, by_parts)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    send.send(
        {
            "cpu_s": round(cpu, 2),
            "gib": round(after.ru_maxrss / 2**20, 2),
            "gib_without_reading": round(before.ru_maxrss / 2**20, 2),
        }
    )


def in_own_process(task: Callable[..., None], *arguments) -> dict:
    """What a task sends from a process of its own."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=task, args=(*arguments, send))
    process.start()
    send.close()
    figures = receive.recv()
    process.join()
    return figures


def main(path: str, number: int, ways: list[str]) -> None:
    """Measures and prints."""
    found = {}
    for name, count, neighbors in (("neighbor", 10 * number, NEIGHBORS), ("full", number, None)):
        if name in ways:
            found[name] = in_own_process(steps, path, count, neighbors)
            found[name]["read"] = in_own_process(read, path, neighbors is not None)
    print(json.dumps({"benchmark": "sampling", "neighbors": NEIGHBORS, "batch": BATCH, **found}))


def rmse(path: str, full: list[str], neighbor: list[str]) -> None:
    """Prints the test RMSE of runs that read the full graph and of runs that sampled it."""
    corpus = Corpus.load(path)
    test = corpus.rows("test")
    squares = {}
    for name, runs in (("full", full), ("neighbor", neighbor)):
        read = [Evidence.load(Path(run) / "rating" / "export" / "evidence.safetensors") for run in runs]
        squares[name] = np.stack([(one.predicted_R.numpy()[test] - corpus.rating_R[test]) ** 2 for one in read])
    means = {name: square_SR.mean(axis=0) for name, square_SR in squares.items()}

    def less(weight_RN: np.ndarray) -> np.ndarray:
        return np.sqrt(weight_RN @ means["neighbor"] / len(test)) - np.sqrt(weight_RN @ means["full"] / len(test))

    found = {name: np.sqrt(square_SR.mean(axis=1)).round(4).tolist() for name, square_SR in squares.items()}
    difference = interval(bootstrap(less, len(test), 2000)) or []
    print(
        json.dumps({"benchmark": "sampling rmse", "n": len(test), **found, "less": [round(e, 4) for e in difference]})
    )


if __name__ == "__main__":
    if sys.argv[1] == "rmse":
        rmse(sys.argv[2], sys.argv[3].split(","), sys.argv[4].split(","))
        sys.exit()
    given = sys.argv[1:] + ["3", "neighbor,full"][len(sys.argv) - 2 :]
    main(given[0], int(given[1]), given[2].split(","))
