"""How well are users and items served that train does not know, and what is it worth to tell their concepts?

    python benchmarks/cold_start.py [CORPUS CONFIG]          # default: an embedded corpus, configs/llm2er_eqr.yaml

Once for users, once for items: each fifth of them in turn is new to a run. Half of a newcomer's records are what it
could tell of itself: the three concepts that most of them mention, for an item praise it, and its title. The other half
is predicted: told these concepts, told nothing and, to compare, by a run that has the first half in train (and so knows
more of the other side, too). Prints one JSON line: root mean square error and mean error of the rating, and the share
of records of which a concept is among the candidates.

`rated_as_told` is what launch/explain.py does not do: to predict the rating from what is told, too.

N newcomers, S resamples.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from datamodules.build import BuildOptions, build_corpus
from datamodules.corpus import SPLITS, Corpus
from datamodules.evidence import Evidence
from datamodules.graph import build_graph
from datamodules.importers.embedded import write_embedded
from datamodules.records import RawRecord
from launch.explain import Pair, cold_nodes, evidence_of, opened
from lightning_modules.rating import load_rating_model

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
        self.of_others = np.flatnonzero(~np.isin(own_R, fresh)).tolist()

    def written(self, out: Path, in_train: bool) -> Corpus:
        """A corpus in which the asked records are its test split, and the telling ones train records or absent."""
        split = {record: SPLITS[self.corpus.split_R[record]] for record in self.of_others}
        split = {record: name for record, name in split.items() if name != "test"}
        if in_train:
            split |= {record: "train" for records in self.telling.values() for record in records}
        split |= dict.fromkeys(self.asked, "test")
        scale = {"rating_min": self.corpus.rating_min, "rating_max": self.corpus.rating_max}
        rows = (raw(self.corpus, record, name) for record, name in sorted(split.items()))
        return build_corpus(rows, out, BuildOptions(on_bad_record="skip", **scale), {})

    def pair(self, record: int, allowed: set[str], told: bool) -> Pair:
        """What launch/explain.py is asked: by a name that no run has seen, telling of the concepts `allowed`."""
        names = names_of(self.corpus, record)
        newcomer = names[self.kind]
        names[self.kind] = f"new {newcomer}"
        if not told:
            return Pair(**names)
        mentions = [
            {m.concept for m in self.corpus.mentions[record] if self.kind == "user" or m.polarity > 0}
            for record in self.telling[newcomer]
        ]
        counted = Counter(concept for concepts in mentions for concept in sorted(concepts)).most_common()
        concepts = [self.corpus.concepts[concept] for concept, _ in counted]
        concepts = tuple(concept for concept in concepts if concept in allowed)[:TOLD]
        title = self.corpus.item_titles[self.corpus.item_R[record]] if self.kind == "item" else ""
        return Pair(**names, **{f"{self.kind}_concepts": concepts}, item_title=title)


def raw(corpus: Corpus, record: int, split: str) -> RawRecord:
    """A record as an importer gives it; its line is its number."""
    mentions = [(corpus.concepts[m.concept], m.opinion, m.polarity) for m in corpus.mentions[record]]
    return RawRecord(
        record,
        **names_of(corpus, record),
        rating=float(corpus.rating_R[record]),
        explanation=corpus.explanations[record],
        mentions=mentions,
        split=split,
        item_title=corpus.item_titles[corpus.item_R[record]],
    )


def names_of(corpus: Corpus, record: int) -> dict[str, str]:
    """Original ids of a record's user and item."""
    return {"user": corpus.users[corpus.user_R[record]], "item": corpus.items[corpus.item_R[record]]}


def rated(run: Path, data: Path, arguments: list[str]) -> Path:
    """A finished rating stage."""
    command = [sys.executable, str(ROOT / "launch/train.py"), *arguments, str(ROOT / "configs/hardware/cpu.yaml")]
    command += [f"data.path={data}", f"run_dir={run}", "stage=rating", "logger=none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return run


def of_part(part: Part, work: Path, arguments: list[str]) -> Iterator[dict]:
    """For each record that is predicted: its newcomer, and the errors and hits of each way to serve it."""
    corpus, others = part.corpus, "item" if part.kind == "user" else "user"
    cold = part.written(work / "cold", in_train=False)
    part.written(work / "warm", in_train=True)
    runs = {name: rated(work / f"{name}-run", work / name, arguments) for name in ("cold", "warm")}
    mean, means = float(cold.rating_R[cold.rows("train")].mean()), means_of(cold, others)
    asked = [record for record in part.asked if names_of(corpus, record)[others] in means]
    rating, offer = served(part, asked, runs["cold"])
    rating["in_train"], offer["in_train"] = by_warm_run(corpus, asked, runs["warm"])
    allowed = set(cold.concepts)
    for number, record in enumerate(asked):
        mentioned = {corpus.concepts[mention.concept] for mention in corpus.mentions[record]} & allowed
        guesses = {way: float(of_way[number]) for way, of_way in rating.items()}
        guesses |= {"mean": mean, f"mean_of_{others}": means[names_of(corpus, record)[others]]}
        truth = float(corpus.rating_R[record])
        yield {
            "newcomer": names_of(corpus, record)[part.kind],
            "error": {way: guess - truth for way, guess in guesses.items()},
            "hit": {way: float(bool(mentioned & of_way[number])) for way, of_way in offer.items()} if mentioned else {},
        }


def served(part: Part, asked: list[int], run: Path) -> tuple[dict, dict]:
    """({way: ratings}, {way: candidates}) by a run that does not know the newcomers."""
    config, cold, folder = opened(run)
    evidence, index = {}, {}
    for way in ("told", "nothing"):
        pairs = [part.pair(record, set(cold.concepts), way == "told") for record in asked]
        nodes = {kind: cold_nodes(cold, pairs, kind) for kind in ("user", "item")}
        corpus, evidence[way] = evidence_of(config, cold, folder, pairs, nodes, "ppo")
        index[way] = [torch.from_numpy(node_R).long() for node_R in (corpus.user_R, corpus.item_R)]
    model = load_rating_model(folder.need("rating", "ppo"), build_graph(cold, config.graph))
    states = {"user": evidence["told"].users_FND[0], "item": evidence["told"].items_FND[0]}
    with torch.no_grad():
        as_told = model.rate(states, *index["told"]).clamp(cold.rating_min, cold.rating_max)
    ratings = {"new": evidence["nothing"].predicted_R, "rated_as_told": as_told}
    frequent = [set(cold.concepts[: config.graph.candidates])] * len(asked)
    return ratings, {way: offers(found, cold) for way, found in evidence.items()} | {"most_frequent": frequent}


def by_warm_run(corpus: Corpus, asked: list[int], run: Path) -> tuple[np.ndarray, list[set[str]]]:
    """(ratings, candidates) by a run that has what tells of the newcomers in train."""
    _, warm, folder = opened(run)
    evidence = Evidence.load(folder.need("rating", "ppo") / "evidence.safetensors")
    row_of = {tuple(names_of(warm, row).values()): row for row in warm.rows("test").tolist()}
    rows = [row_of[tuple(names_of(corpus, record).values())] for record in asked]
    found = offers(evidence, warm)
    return evidence.predicted_R[rows].numpy(), [found[row] for row in rows]


def offers(evidence: Evidence, corpus: Corpus) -> list[set[str]]:
    """Names of the candidates of every record."""
    return [{corpus.concepts[concept] for concept in row} for row in evidence.concept_RK.tolist()]


def means_of(corpus: Corpus, kind: str) -> dict[str, float]:
    """The mean train rating of each user or item."""
    train, names = corpus.rows("train"), getattr(corpus, f"{kind}s")
    node_R, rating_R = getattr(corpus, f"{kind}_R")[train], corpus.rating_R[train]
    return {names[node]: float(rating_R[node_R == node].mean()) for node in np.unique(node_R).tolist()}


def summary(rows: list[dict]) -> dict:
    """Figures of all parts; what telling adds with its 95 % interval over newcomers, whose records are alike."""
    by_newcomer: dict[str, list[dict]] = {}
    for row in rows:
        by_newcomer.setdefault(row["newcomer"], []).append(row["hit"])
    groups = [[hit for hit in group if hit] for group in by_newcomer.values()]
    hits = [hit for group in groups for hit in group]
    added_N = np.array([sum(hit["told"] - hit["nothing"] for hit in group) for group in groups])
    count_N = np.array([len(group) for group in groups])
    rng = np.random.Generator(np.random.Philox(key=[SEED, 9]))
    drawn_SN = rng.integers(0, len(groups), (RESAMPLES, len(groups)))
    added_S = added_N[drawn_SN].sum(1) / count_N[drawn_SN].sum(1)
    errors = {way: np.array([row["error"][way] for row in rows]) for way in rows[0]["error"]}
    return {
        "newcomers": len(groups),
        "records": len(rows),
        "rmse": {way: round(float((error_R**2).mean() ** 0.5), 3) for way, error_R in errors.items()},
        "mean_error": {way: round(float(error_R.mean()), 3) for way, error_R in errors.items()},
        "candidates_hold_a_concept": {way: round(float(np.mean([hit[way] for hit in hits])), 3) for way in hits[0]},
        "told_adds_95": [round(float(bound), 3) for bound in np.quantile(added_S, (0.025, 0.975))],
    }


def main() -> None:
    data, *arguments = sys.argv[1:] or ["", str(ROOT / "configs/llm2er_eqr.yaml")]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        corpus = Corpus.load(data) if data else write_embedded(400, 100, SEED, work / "embedded")
        found = {}
        for kind in ("user", "item"):
            rows = []
            for number in range(PARTS):
                print(f"{kind}s, part {number + 1} of {PARTS}", file=sys.stderr)
                rows += of_part(Part(corpus, kind, number), work / f"{kind}-{number}", arguments)
            found[kind] = summary(rows)
    print(json.dumps({"corpus": data or "embedded, 400 users, 100 items", **found}))


if __name__ == "__main__":
    main()
