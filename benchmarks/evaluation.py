"""How fast are the metrics? Against loops as the field's scripts have them, and against rouge-score, in one run.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py PAIRS.jsonl[.gz]         # {"reference": ..., "generated": ...}
    OMP_NUM_THREADS=1 python benchmarks/evaluation.py scale 1200000 1         # one made-up system, 1,000 resamples
    OMP_NUM_THREADS=1 python benchmarks/evaluation.py scale 1200000 2         # two, with paired tests

Prints one JSON line. The loops are written from the definitions (BLEU by counters, ROUGE by sets, LCS by a table in a
dict, USR by a list of the texts seen, DIV by all pairs of records) and also give the figures that the suite must give.
The pairs carry no concepts: for DIV the 300 most frequent words of four letters or more stand in. The loops of USR and
DIV are quadratic, so ratios are given without them, too.
"""

import gzip
import json
import math
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from launch.systems import read_systems
from metrics.catalog import MAIN
from metrics.measures import ConceptKnowledge, Measures
from metrics.paper import measure
from metrics.sentiment import Polarity
from metrics.significance import compare
from metrics.suite import counts_of, evaluate, figures
from metrics.text_counts import text_counts


def cpu(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds and result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def read(path: Path) -> list[tuple[str, str]]:
    """(generated, reference) of a file."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row.get("explanation", row.get("generated")), row["reference"]) for row in rows]


def made_up(n: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Pairs of about 15 of 20,000 words with a long tail; every other five words of a reference are kept."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(20_000)]
    draws = [min(int(rng.expovariate(1 / 700)), 19_999) for _ in range(1 << 20)]
    at = 0
    for _ in range(n):
        size = 10 + draws[at % len(draws)] % 11
        reference = [words[draws[(at + i) % len(draws)]] for i in range(size)]
        other = [words[draws[(at + 7919 * (i + 1)) % len(draws)]] for i in range(size)]
        kept = (a if (at + i) // 5 % 2 else b for i, (a, b) in enumerate(zip(reference, other, strict=True)))
        yield " ".join(kept), " ".join(reference)
        at += size + 1


def loop_bleu(pairs: list[tuple[str, str]], orders: int) -> float:
    """Corpus BLEU by counters."""
    matches, counts, ours_length, theirs_length = [0] * orders, [0] * orders, 0, 0
    for ours, theirs in pairs:
        words, expected = ours.split(), theirs.split()
        ours_length, theirs_length = ours_length + len(words), theirs_length + len(expected)
        for order in range(1, orders + 1):
            a = Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
            b = Counter(tuple(expected[i : i + order]) for i in range(len(expected) - order + 1))
            matches[order - 1] += sum((a & b).values())
            counts[order - 1] += max(len(words) - order + 1, 0)
    if not all(matches):
        return 0.0
    mean = sum(math.log(m / c) for m, c in zip(matches, counts, strict=True)) / orders
    ratio = ours_length / theirs_length
    return 100 * math.exp(mean) * (1.0 if ratio > 1 else math.exp(1 - 1 / ratio))


def loop_rouge_n(pairs: list[tuple[str, str]], order: int) -> tuple[float, float, float]:
    """F, R, P on sets of n-grams, mean over pairs."""
    total = [0.0, 0.0, 0.0]
    for ours, theirs in pairs:
        words, expected = ours.split(" "), theirs.split(" ")
        a = {tuple(words[i : i + order]) for i in range(len(words) - order + 1)}
        b = {tuple(expected[i : i + order]) for i in range(len(expected) - order + 1)}
        common = len(a & b)
        p, r = (common / len(a) if a else 0.0), (common / len(b) if b else 0.0)
        for place, value in enumerate((2 * p * r / (p + r + 1e-8), r, p)):
            total[place] += value
    return tuple(100 * value / len(pairs) for value in total)


def loop_rouge_l(pairs: list[tuple[str, str]]) -> tuple[float, float, float]:
    """F, R, P of the longest common subsequence, its table in a dict."""
    total = [0.0, 0.0, 0.0]
    for ours, theirs in pairs:
        a, b = ours.split(" "), theirs.split(" ")
        table = {}
        for i in range(len(a) + 1):
            for j in range(len(b) + 1):
                if i == 0 or j == 0:
                    table[i, j] = 0
                elif a[i - 1] == b[j - 1]:
                    table[i, j] = table[i - 1, j - 1] + 1
                else:
                    table[i, j] = max(table[i - 1, j], table[i, j - 1])
        lcs = table[len(a), len(b)]
        p, r = lcs / len(a), lcs / len(b)
        beta = p / (r + 1e-12)
        f = (1 + beta**2) * r * p / (r + beta**2 * p + 1e-12)
        for place, value in enumerate((f, r, p)):
            total[place] += value
    return tuple(100 * value / len(pairs) for value in total)


def loop_unique(pairs: list[tuple[str, str]]) -> int:
    """Different texts by comparing each with all that were seen, word by word."""

    def same(a: list[str], b: list[str]) -> bool:
        if len(a) != len(b):
            return False
        for x, y in zip(a, b, strict=True):  # noqa: SIM110 - a loop is what is measured
            if x != y:
                return False
        return True

    seen: list[list[str]] = []
    for ours, _ in pairs:
        words = ours.split()
        if not any(same(words, other) for other in seen):
            seen.append(words)
    return len(seen)


def loop_div(pairs: list[tuple[str, str]], vocabulary: set[str]) -> float:
    """Mean number of concepts that two texts share."""
    found = [{word for word in ours.split() if word in vocabulary} for ours, _ in pairs]
    shared = 0
    for a, b in combinations(found, 2):
        shared += len(a & b)
    return shared / (len(found) * (len(found) - 1) / 2)


def frequent_words(pairs: list[tuple[str, str]]) -> list[str]:
    """Stand-ins for concepts."""
    counts = Counter(word for _, theirs in pairs for word in theirs.split() if len(word) >= 4 and word.islower())
    return [word for word, _ in counts.most_common(300)]


def against_loops(path: Path) -> dict:
    """Ratios of CPU seconds on one file, parts A B A B, and whether the figures agree."""
    pairs = read(path)
    records = [{"explanation": ours, "reference": theirs} for ours, theirs in pairs]
    ours, theirs = zip(*pairs, strict=True)
    concepts = frequent_words(pairs)
    knowledge = ConceptKnowledge(concepts, None, None, 1.0, 5.0)
    suite_s = [cpu(lambda: evaluate(records, knowledge, resamples=0))[0]]
    loops: dict[str, float] = {}
    values: dict[str, object] = {}
    for name, work in {
        "bleu": lambda: (loop_bleu(pairs, 1), loop_bleu(pairs, 4)),
        "rouge_1": lambda: loop_rouge_n(pairs, 1),
        "rouge_2": lambda: loop_rouge_n(pairs, 2),
        "rouge_l": lambda: loop_rouge_l(pairs),
        "usn": lambda: loop_unique(pairs),
        "div": lambda: loop_div(pairs, set(concepts)),
    }.items():
        loops[name], values[name] = cpu(work)
    seconds, scores = cpu(lambda: evaluate(records, knowledge, resamples=0))
    suite_s.append(seconds)
    rouge_s, counts_s = [], []
    for _ in range(2):
        counts_s.append(cpu(lambda: text_counts(ours, theirs))[0])
        rouge_s.append(cpu(lambda: _rouge_score(pairs))[0])
    expected = [
        *values["bleu"],
        *values["rouge_1"],
        *values["rouge_2"],
        *values["rouge_l"],
        values["usn"],
        values["div"],
    ]
    linear_s = sum(loops.values()) - loops["usn"] - loops["div"]
    keys = ["bleu_1", "bleu_4", *(f"rouge_{kind}_{part}" for kind in "12l" for part in "frp"), "usn", "div"]
    wanted = list(zip(keys, expected, strict=True))
    return {
        "pairs": len(pairs),
        "agree": all(abs(scores[key] - value) < 1e-8 * max(1, value) for key, value in wanted),
        "loops_cpu_s": {name: round(value, 2) for name, value in loops.items()},
        "suite_cpu_s": [round(value, 2) for value in suite_s],
        "loops_by_suite": round(sum(loops.values()) / max(suite_s), 1),
        "loops_by_suite_without_div": round((sum(loops.values()) - loops["div"]) / max(suite_s), 1),
        "bleu_and_rouge_loops_by_suite": round(linear_s / max(suite_s), 1),
        "bleu_and_rouge_loops_by_all_counts": round(linear_s / max(counts_s), 1),
        "rouge_score_cpu_s": [round(value, 2) for value in rouge_s],
        "all_counts_cpu_s": [round(value, 2) for value in counts_s],
        "rouge_score_by_all_counts": round(min(rouge_s) / max(counts_s), 1),
    }


def _rouge_score(pairs: list[tuple[str, str]]) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for ours, theirs in pairs:
        scorer.score(theirs, ours)


def made_up_systems(n: int, files: list[Path]) -> ConceptKnowledge:
    """Writes the predictions of two systems for the same `n` records, with all fields that the suite asks for.

    Returns what train says. The texts of the second are those of the first but for every third word, which the text
    before gives.
    """
    rng, words, before = random.Random(1), [f"w{i}" for i in range(20_000)], ["w0"]
    concepts = words[:5000:5] + [f"{a} {b}" for a, b in zip(words[:300], words[1:301], strict=True)]
    n_users, n_items = n // 8 + 1, n // 16 + 1
    with files[0].open("w") as ours, files[1].open("w") as theirs:
        for record, (text, reference) in enumerate(made_up(n)):
            shared = {
                "record": record,
                "user_index": rng.randrange(n_users),
                "item_index": int(n_items * rng.random() ** 1.5),  # some items have many records
                "rating": rng.randint(1, 5),
                "gold_concepts": [concepts[int(1000 * rng.random() ** 3)]],
                "reference": reference,
            }
            said = text.split(" ")
            mixed = [before[i % len(before)] if i % 3 == 0 else word for i, word in enumerate(said)]
            for file, told in ((ours, text), (theirs, " ".join(mixed))):
                row = {**shared, "explanation": told, "predicted_rating": 1 + 4 * rng.random()}
                file.write(json.dumps(row) + "\n")
            before = said
    sides = [[set(rng.sample(range(len(concepts)), 8)) for _ in range(size)] for size in (n_users, n_items)]
    bias = 3.0, np.zeros(n_users), np.zeros(n_items)
    polarity = Polarity({(word,): rng.gauss(0, 1) for word in words})
    return ConceptKnowledge(concepts, *sides, 1.0, 5.0, concepts, bias, polarity)


def at_scale(n: int, n_systems: int, resamples: int = 1000) -> dict:
    """The whole paper suite of one or two systems from their files, intervals, and paired tests of the main metrics."""
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}.jsonl" for name in ("ours", "theirs")]
        knowledge = made_up_systems(n, files)
        before = peak_gib()
        wall, began = time.perf_counter(), time.process_time()
        seconds: dict[str, float] = {}
        seconds["reading"], systems = cpu(lambda: read_systems([str(file) for file in files[:n_systems]]))
    measured: list[Measures] = []
    for name in list(systems):
        ((_, records),) = systems.pop(name).items()
        seconds[f"counting_{name}"], measures = cpu(
            lambda records=records: measure(records, knowledge, counts_of(records))
        )
        del records
        measured.append(measures)
        seconds[f"intervals_{name}"], scores = cpu(lambda measures=measures: figures(measures, resamples, 0))
    if n_systems > 1:
        seconds["paired_tests"], tests = cpu(lambda: compare(*measured, MAIN, resamples, resamples))
    total = time.process_time() - began
    return {
        "pairs_of_each": n,
        "systems": n_systems,
        "resamples": resamples,
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(total, 1),
        "microseconds_a_pair": round(total / n * 1e6, 1),
        "parts_cpu_s": {name: round(value, 1) for name, value in seconds.items()},
        "peak_rss_gib": round(peak_gib(), 2),
        "before_reading_gib": round(before, 2),
        "figures": sum(isinstance(value, int | float) for value in scores.values()),
        "intervals": sum(key.endswith("_ci") for key in scores),
        "tests": {key: [t.difference, t.ci, t.p_holm] for key, t in tests.items()} if n_systems > 1 else {},
    }


def peak_gib() -> float:
    """The most memory held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Parses the command line, prints the line."""
    scale = sys.argv[1] == "scale"
    found = at_scale(*map(int, sys.argv[2:])) if scale else against_loops(Path(sys.argv[1]))
    print(json.dumps({"bench": "evaluation", **found}))


if __name__ == "__main__":
    main()
