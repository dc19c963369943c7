"""A system trained on raw reviews beside one trained on given features: the same reviews, the same test records.

    python benchmarks/raw_reviews.py GIVEN_RUNS RAW_RUNS REVIEWS.jsonl.gz    # comma-separated run folders, one a seed

A run is one of launch/train.py, stages rating, explanation and result; REVIEWS is the file that the raw corpus was made
of, with `user`, `item`, `text`, `split`. Prints one JSON line: for each seed and metric the backbone's two figures and
the interval of their difference over the records, over the users and items that both corpora test. What differs between
the corpora, and what is done about it:

- Each has its own concepts. `cmr_own` is CMR by those of the own corpus; `cmr_given` and `cmr_extracted` judge both
  systems by the same ones, which each review that a user or item has in train may name anywhere in its text.
- Each explains with its own sentence. `bleu_4` and `rouge_l` are against that; `..._given` and `..._raw` score both
  systems against the same ones.
"""

import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from datamodules.corpus import Corpus
from datamodules.importers.tokenising import tokenised
from launch.knowledge import train_knowledge
from metrics.bleu import bleu_statistics, corpus_bleu
from metrics.bootstrap import bootstrap, interval
from metrics.phrases import PhraseMatcher
from metrics.rouge import rouge_l

Concepts = list[set[int]]  # of each record
Rows = dict[tuple[str, str], dict]  # (user, item) -> a prediction


def predictions(run: Path) -> Rows:
    """The backbone's predictions of a run."""
    lines = (run / "explanation" / "predictions.jsonl").read_text().splitlines()
    return {(row["user"], row["item"]): row for row in map(json.loads, lines)}


def own_allowed(corpus: Corpus, pairs: list[tuple[str, str]]) -> tuple[list[str], Concepts]:
    """(the concepts of a corpus, those that its train records name of the user or item of each pair)."""
    known = train_knowledge(corpus)
    user_of, item_of = ({name: row for row, name in enumerate(names)} for names in (corpus.users, corpus.items))
    allowed = [known.user_concepts[user_of[user]] | known.item_concepts[item_of[item]] for user, item in pairs]
    return list(known.concepts), allowed


def said_anywhere(names: list[str], reviews: list[dict], pairs: list[tuple[str, str]]) -> Concepts:
    """The concepts that any whole train review of the user or item of each pair names."""
    matcher = PhraseMatcher(names)
    said: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for review in reviews:
        if review["split"] == "train":
            found = matcher.find(tokenised(review["text"]).lower())
            said["user", review["user"]] |= found
            said["item", review["item"]] |= found
    return [said["user", user] | said["item", item] for user, item in pairs]


def cmr(named: Concepts, allowed: Concepts) -> np.ndarray:
    """Share of each text's concepts that are allowed, NaN where it names none (docs/metrics.md)."""
    return np.array([len(mine & of) / len(mine) if mine else np.nan for mine, of in zip(named, allowed, strict=True)])


def means(values_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(summands, 1 where there is one) of a mean over the records that define it."""
    defined_N = ~np.isnan(values_N)
    return np.where(defined_N, values_N, 0.0), defined_N.astype(float)


def difference(values: list[np.ndarray], seed: int) -> dict:
    """The two means, and the interval of the second less the first over the same resampled records."""
    sums = [np.stack(means(column), axis=1) for column in values]

    def less(weight_RN: np.ndarray) -> np.ndarray:
        first, second = (weight_RN @ part for part in sums)
        return second[:, 0] / second[:, 1] - first[:, 0] / first[:, 1]

    figures = [round(float(part[:, 0].sum() / part[:, 1].sum()), 4) for part in sums]
    return _row(figures, interval(bootstrap(less, len(sums[0]), 2000, seed)))


def bleu_difference(texts: list[list[str]], references: list[list[str]], seed: int) -> dict:
    """The same of BLEU-4, which is no mean."""
    sums = [bleu_statistics(said, wanted) for said, wanted in zip(texts, references, strict=True)]

    def less(weight_RN: np.ndarray) -> np.ndarray:
        first, second = (corpus_bleu(weight_RN @ part, 4) for part in sums)
        return second - first

    figures = [round(float(corpus_bleu(part.sum(axis=0), 4)), 3) for part in sums]
    return _row(figures, interval(bootstrap(less, len(texts[0]), 2000, seed)))


def _row(figures: list[float], ends: list[float] | None) -> dict:
    return {"given": figures[0], "raw": figures[1], "raw_less_given": ends and [round(end, 4) for end in ends]}


def compared(given: Path, raw: Path, reviews: list[dict], seed: int = 0) -> dict:
    """All metrics of one seed."""
    rows, corpora = [predictions(given), predictions(raw)], [_corpus(given), _corpus(raw)]
    pairs = sorted(rows[0].keys() & rows[1].keys())
    texts = [[own[pair]["explanation"] for pair in pairs] for own in rows]
    references = [[own[pair]["reference"] for pair in pairs] for own in rows]
    own = [own_allowed(corpus, pairs) for corpus in corpora]
    found = {"n": len(pairs)}
    columns = [cmr(_named(names, said), allowed) for (names, allowed), said in zip(own, texts, strict=True)]
    found["cmr_own"] = difference(columns, seed)
    for label, (names, _) in zip(("cmr_given", "cmr_extracted"), own, strict=True):
        allowed = said_anywhere(names, reviews, pairs)
        found[label] = difference([cmr(_named(names, said), allowed) for said in texts], seed)
    for label, wanted in (("", references), ("_given", [references[0]] * 2), ("_raw", [references[1]] * 2)):
        found[f"bleu_4{label}"] = bleu_difference(texts, wanted, seed)
        scores = [rouge_l(said, of).f_N for said, of in zip(texts, wanted, strict=True)]
        found[f"rouge_l{label}"] = difference(scores, seed)
    return found


def _named(names: list[str], texts: list[str]) -> Concepts:
    matcher = PhraseMatcher(names)
    return [matcher.find(text) for text in texts]


def _corpus(run: Path) -> Corpus:
    line = next(line for line in (run / "config.yaml").read_text().splitlines() if line.startswith("  path: "))
    return Corpus.load(line.removeprefix("  path: ").strip())


if __name__ == "__main__":
    with gzip.open(sys.argv[3], "rt", encoding="utf-8") as file:
        lines = list(map(json.loads, file))
    sides = [[Path(run) for run in argument.split(",")] for argument in sys.argv[1:3]]
    seeds = [compared(given, raw, lines, seed) for seed, (given, raw) in enumerate(zip(*sides, strict=True))]
    print(json.dumps({"benchmark": "raw_reviews", "seeds": seeds}))
