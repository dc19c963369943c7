"""Preparation and graph at Yelp's size: seconds, memory, linearity, beside pandas doing the same steps.

    pip install pandas
    python benchmarks/scale.py [SIZES] [TASKS] [FOLDER]
    python benchmarks/scale.py 100000,300000,1189056 ours,pandas,reviews /tmp/scale  # the defaults, but for the folder

Prints one JSON line, and each figure to stderr as soon as it is known. For each size and task, each in a process of its
own: seconds on the clock, CPU seconds, and GiB at the peak, imports included. `ours`: launch/prepare.py of explanations
with given features, then the edges of the graph with their counts, as arrays (to make tensors of them, training imports
torch, which takes longer than either of these at 100,000); `pandas`: the same steps in pandas (read, check, normalise,
drop duplicates, split by the NLG4RS rule, number by frequency, write Parquet, group edges with their counts);
`reviews`: launch/prepare.py of whole reviews in Yelp's layout, concepts extracted and sentences chosen, then the edges.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yelp_like

RELATIONS = (("rated_high", "rated_low"), ("likes", "dislikes"), ("praised_for", "criticised_for"))


def ours(raw: Path, out: Path) -> dict[str, float]:
    """Prepare explanations with given features, find the edges."""
    return _prepare_and_build(f"raw={raw}", "format=nlg4rs_jsonl", f"out={out}")


def reviews(raw: Path, out: Path) -> dict[str, float]:
    """Prepare whole reviews, find the edges."""
    return _prepare_and_build(f"raw={raw}", "format=yelp", "on_bad_record=skip", f"out={out}")


def _prepare_and_build(*arguments: str) -> dict[str, float]:
    from datamodules.corpus import Corpus
    from datamodules.edges import edge_tables
    from launch.config import load
    from launch.prepare import PrepareConfig, main

    config, _ = load(PrepareConfig, list(arguments))
    main(config)
    prepared = time.perf_counter()
    tables = edge_tables(Corpus.load(config.out), typed=True)
    edges = sum(2 * table.index_2E.shape[1] for table in tables.values())
    return {"graph_s": time.perf_counter() - prepared, "edges": edges}


def in_pandas(raw: Path, out: Path) -> dict[str, float]:
    """The same steps in pandas, column by column where it has the means."""
    import numpy as np
    import pandas as pd

    table = pd.read_json(raw, lines=True, dtype={"user": str, "item": str})
    for name in ("sentence", "feature", "opinion"):
        text = table[name].str.normalize("NFC").str.replace(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]", "", regex=True)
        table[name] = text.str.split().str.join(" ")
    table["feature"] = table["feature"].str.lower()
    faulty = ~table["rating"].between(1, 5) | (table["sentence"] == "") | ~table["sentiment"].isin((-1, 0, 1))
    table = table[~faulty].drop_duplicates(["user", "item"]).reset_index(drop=True)
    order = table.sort_values(["user", "item"]).index[np.random.default_rng(0).permutation(len(table))]
    shuffled = table.loc[order]
    free = order[(shuffled["user"].duplicated() & shuffled["item"].duplicated()).to_numpy()]
    share = min(len(table) // 10, len(free) // 2)
    table["split"] = "train"
    table.loc[free[:share], "split"], table.loc[free[share : 2 * share], "split"] = "valid", "test"
    train = table[table["split"] == "train"]
    for name in ("user", "item", "feature"):
        count = train[name].value_counts().rename("n").rename_axis("id").reset_index()
        ids = count.sort_values(["n", "id"], ascending=[False, True])["id"].reset_index(drop=True)
        table[f"{name}_id"] = table[name].map(pd.Series(ids.index, index=ids))
        ids.to_frame().to_parquet(out.with_name(f"{out.name}.{name}.parquet"))
    words = int(table["sentence"].str.split().str.len().sum())
    table.to_parquet(out.with_suffix(".parquet"))
    prepared = time.perf_counter()
    train = pd.read_parquet(out.with_suffix(".parquet")).query("split == 'train'").dropna(subset="feature_id")
    high, good = train["rating"] > 3, train["sentiment"] > 0
    edges = 0
    ends = (("user_id", "item_id", high), ("user_id", "feature_id", good), ("item_id", "feature_id", good))
    for source, target, kind in ends:
        for part in (train[kind], train[~kind]):
            edges += 2 * len(part.groupby([source, target], sort=True).size())
    return {"graph_s": time.perf_counter() - prepared, "edges": edges, "words": words}


def measured(task: Callable[[Path, Path], dict[str, float]], raw: Path, out: Path) -> dict[str, float]:
    """Runs a task in a fresh process; seconds, CPU seconds and the peak of its memory."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_report, args=(task, raw, out, send))
    process.start()
    send.close()
    figures = receive.recv()
    process.join()
    return figures


def _report(task: Callable[[Path, Path], dict[str, float]], raw: Path, out: Path, send) -> None:
    sys.stdout = sys.stderr
    start = time.perf_counter()
    figures = task(raw, out)
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures |= {"s": time.perf_counter() - start, "cpu_s": used.ru_utime + used.ru_stime, "gib": used.ru_maxrss / 2**20}
    send.send({name: round(value, 3) for name, value in figures.items()})


TASKS = {"ours": ("explanations", ours), "pandas": ("explanations", in_pandas), "reviews": ("reviews", reviews)}


def main(sizes: list[int], tasks: list[str], folder: Path) -> None:
    """Measures and prints."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for size in sizes:
        found[str(size)] = {}
        for name in tasks:
            kind, task = TASKS[name]
            raw = folder / f"{kind}-{size}.jsonl"
            if not raw.exists():
                yelp_like.write(size, kind, raw)
            found[str(size)][name] = measured(task, raw, folder / f"{name}-{size}")
            print(size, name, found[str(size)][name], file=sys.stderr)
    print(json.dumps({"benchmark": "scale", "sizes": found}))


if __name__ == "__main__":
    given = sys.argv[1:] + ["100000,300000,1189056", "ours,pandas,reviews"][len(sys.argv) - 1 :]
    numbers, chosen = [int(size) for size in given[0].split(",")], given[1].split(",")
    if len(given) > 2:
        main(numbers, chosen, Path(given[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(numbers, chosen, Path(temporary))
