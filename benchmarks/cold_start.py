"""How well are users and items served that train does not know, and what is it worth to tell their concepts?

    python benchmarks/cold_start.py [CORPUS CONFIG]          # default: an embedded corpus, configs/llm2er_eqr.yaml

Once for users, once for items: each fifth of them in turn is new to a run. Half of a newcomer's records are what it
could tell of itself: the three concepts that stand in most of them, for an item those it is praised for. The other half
is predicted: told these concepts, told nothing and, to compare, by a run that has the first half in train. Prints one
JSON line: root mean square error of the rating, and the share of records of which a concept is among the candidates.

N newcomers, S resamples.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datamodules.build import BuildOptions, build_corpus
from datamodules.corpus import SPLITS, Corpus
from datamodules.evidence import Evidence
from datamodules.importers.embedded import write_embedded
from datamodules.records import RawRecord
from launch.explain import Pair, cold_nodes, evidence_of, opened

ROOT = Path(__file__).resolve().parents[1]
PARTS, TOLD, RESAMPLES, SEED = 5, 3, 1000, 7


class Part:
    """One fifth of a corpus's users or items: which records tell of them, and which are predicted."""

    def __init__(self, corpus: Corpus, kind: str, part: int) -> None:
        rng = np.random.Generator(np.random.Philox(key=[SEED, kind == "user"]))
        self.corpus, self.kind = corpus, kind
        own_R, names = (corpus.user_R, corpus.users) if kind == "user" else (corpus.item_R, corpus.items)
        fresh = np.flatnonzero(rng.permutation(len(names)) % PARTS == part)
        self.telling: dict[str, list[int]] = {}
        self.asked: list[int] = []
        for node in fresh.tolist():
            records = rng.permutation(np.flatnonzero(own_R == node)).tolist()
            self.telling[names[node]] = records[: len(records) // 2]
            self.asked += records[len(records) // 2 :] if len(records) > 1 else []
        self.known = np.flatnonzero(~np.isin(own_R, fresh))

    def written(self, out: Path, in_train: bool) -> Corpus:
        """A corpus in which the asked records are its test split, and the telling ones train records or absent."""
        split = {record: SPLITS[self.corpus.split_R[record]] for record in self.known.tolist()}
        split = {record: name for record, name in split.items() if name != "test"}
        if in_train:
            split |= {record: "train" for records in self.telling.values() for record in records}
        split |= dict.fromkeys(self.asked, "test")
        rows = (self.raw(record, name) for record, name in sorted(split.items()))
        options = BuildOptions(
            on_bad_record="skip", rating_min=self.corpus.rating_min, rating_max=self.corpus.rating_max
        )
        return build_corpus(rows, out, options, {})

    def raw(self, record: int, split: str) -> RawRecord:
        """A record as an importer gives it; its line is its number in the whole corpus."""
        corpus = self.corpus
        mentions = [(corpus.concepts[m.concept], m.opinion, m.polarity) for m in corpus.mentions[record]]
        rating, text = float(corpus.rating_R[record]), corpus.explanations[record]
        return RawRecord(
            record, **names_of(corpus, record), rating=rating, explanation=text, mentions=mentions, split=split
        )

    def concepts(self, newcomer: str, allowed: set[str]) -> tuple[str, ...]:
        """What a newcomer tells of itself."""
        mentions = [mention for record in self.telling[newcomer] for mention in self.corpus.mentions[record]]
        praised = (m.concept for m in mentions if self.kind == "user" or m.polarity > 0)
        names = [self.corpus.concepts[concept] for concept, _ in Counter(praised).most_common()]
        return tuple(name for name in names if name in allowed)[:TOLD]


def rated(run: Path, data: Path, arguments: list[str]) -> Path:
    """A finished rating stage."""
    command = [sys.executable, str(ROOT / "launch/train.py"), *arguments, str(ROOT / "configs/hardware/cpu.yaml")]
    command += [f"data.path={data}", f"run_dir={run}", "stage=rating", "logger=none"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return run


def of_part(part: Part, work: Path, arguments: list[str]) -> Iterator[dict]:
    """For each record that is predicted: its newcomer, and errors and hits of each way to serve it."""
    corpus, others = part.corpus, "item" if part.kind == "user" else "user"
    cold, warm = part.written(work / "cold", in_train=False), part.written(work / "warm", in_train=True)
    runs = {name: rated(work / f"{name}-run", work / name, arguments) for name in ("cold", "warm")}
    mean, means = float(cold.rating_R[cold.rows("train")].mean()), means_of(cold, others)
    asked = [record for record in part.asked if names_of(corpus, record)[others] in means]
    found = {way: served(part, asked, cold, runs["cold"], way == "told") for way in ("told", "nothing")}
    found["in_train"] = known(corpus, asked, warm, runs["warm"])
    allowed, frequent = set(cold.concepts), set(cold.concepts[: opened(runs["cold"])[0].graph.candidates])
    for number, record in enumerate(asked):
        mentioned = {corpus.concepts[mention.concept] for mention in corpus.mentions[record]} & allowed
        # A newcomer's rating does not depend on what is told (launch/explain.py).
        guesses = {"new": found["told"][number][0], "in_train": found["in_train"][number][0]}
        guesses |= {"mean": mean, f"mean_of_{others}": means[names_of(corpus, record)[others]]}
        offers = {way: outcomes[number][1] for way, outcomes in found.items()} | {"most_frequent": frequent}
        truth = float(corpus.rating_R[record])
        yield {
            "newcomer": names_of(corpus, record)[part.kind],
            "square": {way: (guess - truth) ** 2 for way, guess in guesses.items()},
            "hit": {way: float(bool(mentioned & offer)) for way, offer in offers.items()} if mentioned else None,
        }


def served(part: Part, asked: list[int], cold: Corpus, run: Path, told: bool) -> list[tuple[float, set[str]]]:
    """Outcomes by a run that does not know the newcomers, as launch/explain.py has them."""
    config, _, folder = opened(run)
    pairs, allowed = [], set(cold.concepts)
    for record in asked:
        names = names_of(part.corpus, record)
        concepts = part.concepts(names[part.kind], allowed) if told else ()
        pairs.append(Pair(**names, **{f"{part.kind}_concepts": concepts}))
    nodes = {kind: cold_nodes(cold, pairs, kind) for kind in ("user", "item")}
    evidence = evidence_of(config, cold, folder, pairs, nodes, "ppo")[1]
    return [outcome(evidence, row, cold.concepts) for row in range(len(pairs))]


def known(corpus: Corpus, asked: list[int], warm: Corpus, run: Path) -> list[tuple[float, set[str]]]:
    """Outcomes by a run that has what tells of the newcomers in train."""
    evidence = Evidence.load(run / "rating" / "export" / "evidence.safetensors")
    row_of = {key_of(warm, row): row for row in warm.rows("test").tolist()}
    return [outcome(evidence, row_of[key_of(corpus, record)], warm.concepts) for record in asked]


def names_of(corpus: Corpus, record: int) -> dict[str, str]:
    """Original ids of a record's user and item."""
    return {"user": corpus.users[corpus.user_R[record]], "item": corpus.items[corpus.item_R[record]]}


def key_of(corpus: Corpus, record: int) -> tuple[str, ...]:
    """A record by what it says, in a corpus of any numbering."""
    return *names_of(corpus, record).values(), corpus.explanations[record]


def outcome(evidence: Evidence, row: int, concepts: list[str]) -> tuple[float, set[str]]:
    """(predicted rating, names of the candidates) of a record."""
    return float(evidence.predicted_R[row]), {concepts[candidate.concept] for candidate in evidence.candidates(row)}


def means_of(corpus: Corpus, kind: str) -> dict[str, float]:
    """The mean train rating of each user or item."""
    train, names = corpus.rows("train"), getattr(corpus, f"{kind}s")
    node_R, rating_R = getattr(corpus, f"{kind}_R")[train], corpus.rating_R[train]
    return {names[node]: float(rating_R[node_R == node].mean()) for node in np.unique(node_R).tolist()}


def summary(rows: list[dict]) -> dict:
    """Figures of all parts; what telling adds with its 95 % interval over newcomers, whose records are alike."""
    by_newcomer: dict[str, list[dict]] = {}
    for row in rows:
        by_newcomer.setdefault(row["newcomer"], []).append(row)
    squares = {way: np.mean([row["square"][way] for row in rows]) for way in rows[0]["square"]}
    groups = [[row["hit"] for row in group if row["hit"]] for group in by_newcomer.values()]
    hits = [hit for group in groups for hit in group]
    added_N = np.array([sum(hit["told"] - hit["nothing"] for hit in group) for group in groups])
    count_N = np.array([len(group) for group in groups])
    rng = np.random.Generator(np.random.Philox(key=[SEED, 9]))
    drawn_SN = rng.integers(0, len(groups), (RESAMPLES, len(groups)))
    added_S = added_N[drawn_SN].sum(1) / count_N[drawn_SN].sum(1)
    return {
        "newcomers": len(groups),
        "records": len(rows),
        "rmse": {way: round(float(square**0.5), 4) for way, square in squares.items()},
        "candidates_hold_a_concept": {way: round(float(np.mean([hit[way] for hit in hits])), 4) for way in hits[0]},
        "told_adds": [round(float(bound), 4) for bound in np.quantile(added_S, (0.025, 0.975))],
    }


def main() -> None:
    arguments = sys.argv[1:] or ["", str(ROOT / "configs/llm2er_eqr.yaml")]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        corpus = Corpus.load(arguments[0]) if arguments[0] else write_embedded(400, 100, SEED, work / "embedded")
        found = {}
        for kind in ("user", "item"):
            rows = []
            for number in range(PARTS):
                print(f"{kind}s, part {number + 1} of {PARTS}", file=sys.stderr)
                rows += of_part(Part(corpus, kind, number), work / f"{kind}-{number}", arguments[1:])
            found[kind] = summary(rows)
    print(json.dumps({"corpus": arguments[0] or "embedded, 400 users, 100 items", **found}))


if __name__ == "__main__":
    main()
