"""How well concepts are extracted: against features marked by hand, beside YAKE and the frequency of nouns.

    pip install textblob yake
    LLM2ER_DATA=../shared/data python benchmarks/extraction.py [weights]

Prints one JSON line; with `weights` it fits those of datamodules/extraction.py instead, see there. Features: 8,194
sentences of reviews of 14 products with the features that people marked in them (Hu and Liu 2004; Ding and others
2008). What each method has to choose (our weights, least count, number of keywords) is chosen on the nine products of
2008 by the F1 of the features of a product, and all are measured on the five of 2004. Two questions: which features
does a product have (`product`: mean over products), and which does a sentence judge (`sentence`: all sentences
together). Forms of number are one feature for every method, by TextBlob's singulars. `interval` is of F1 over resampled
products or sentences, `gain` of how much our F1 is above the method's on the same ones.

Polarity: 45,875 short texts under "pros" and "cons" (Ganapathibhotla and Liu 2008). `lexicon`: the sign of the sum over
opinion words with negation, as in the extractor; `vader`: the sign of VADER's own compound score.
"""

import gzip
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yake
from textblob.en import tag
from textblob.en.inflect import singularize
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from datamodules.concepts import ConceptOptions
from datamodules.extraction import candidate_features, fit_extractor
from datamodules.importers.tokenising import tokenised
from datamodules.opinions import lexicon, polarity_of_text

DATA = Path(os.environ.get("LLM2ER_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")) / "lexicons"
MEASURED = ("Apex_AD2600_Progressive_scan_DVD player", "Canon_G3", "Creative_Labs_Nomad_Jukebox_Zen_Xtra_40GB",
            "Nikon_coolpix_4300", "Nokia_6610")  # fmt: skip
LEAST = (1, 2, 3, 4, 5, 6, 8)
KEYWORDS = tuple((words, top) for words in (1, 2, 3) for top in (40, 80, 120, 160))
Sets = list[set[str]]  # of features, one a sentence


class Found(NamedTuple):
    """Features of a product, and those that each of its sentences judges."""

    product: set[str]
    sentences: Sets


Method = Callable[[list[str], Any], Found]


def lines(name: str) -> Iterator[dict]:
    """The rows of a data file."""
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


@cache
def plain(phrase: str) -> str:
    """A feature with every word in the singular."""
    return " ".join(singularize(word) for word in phrase.split())


def ours(sentences: list[str], least: int) -> Found:
    """The extractor; a sentence has those features on which it holds an opinion."""
    options = ConceptOptions(concept_min_count=least, concept_max_share=1.0, concept_top=20_000)
    extractor = fit_extractor([(sentence.split(), 0) for sentence in sentences], options)
    found = (extractor.find(sentence.split()) for sentence in sentences)
    each = [{plain(extractor.concepts[f.concept]) for f in one if f.opinion} for one in found]
    return Found({plain(name) for name in extractor.concepts}, each)


def nouns(sentences: list[str], least: int) -> Found:
    """Nouns, and runs of two or three, that stand in at least so many sentences; tags by TextBlob's lexicon."""
    each = []
    for sentence in sentences:
        phrases, run = set(), []
        for word, kind in [*tag(sentence, tokenize=False), ("", "")]:
            if kind.startswith("NN") and len(word) > 1:
                run.append(word)
                continue
            phrases |= {plain(" ".join(run[i : i + n])) for n in (1, 2, 3) for i in range(len(run) - n + 1)}
            run = []
        each.append(phrases)
    count = Counter(phrase for phrases in each for phrase in phrases)
    kept = {phrase for phrase in count if count[phrase] >= least}
    return Found(kept, [phrases & kept for phrases in each])


def yakes(sentences: list[str], choice: tuple[int, int]) -> Found:
    """YAKE's best keywords of all sentences together, in those that hold them; choice: (words of one, how many)."""
    keywords = yake.KeywordExtractor(n=choice[0], top=choice[1]).extract_keywords("\n".join(sentences))
    wanted = {plain(keyword.lower()) for keyword, _ in keywords}
    texts = [f" {plain(sentence)} " for sentence in sentences]
    return Found(wanted, [{keyword for keyword in wanted if f" {keyword} " in text} for text in texts])


METHODS: dict[str, tuple[Method, tuple]] = {
    "ours": (ours, LEAST),
    "nouns": (nouns, LEAST),
    "yake": (yakes, KEYWORDS),
}


def prf(hits: float, found: float, gold: float) -> tuple[float, float, float]:
    """Precision, recall, F1."""
    precision, recall = hits / max(found, 1), hits / max(gold, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def of_product(found: Found, gold: Sets) -> tuple[float, float, float]:
    """Of the features of one product."""
    all_gold = set().union(*gold)
    return prf(len(found.product & all_gold), len(found.product), len(all_gold))


def measured(found: dict[str, dict[str, Found]], gold: dict[str, Sets]) -> dict[str, dict]:
    """Both questions on the measured products, for each method."""
    rng = np.random.default_rng(0)
    size = sum(len(gold[name]) for name in MEASURED)
    products, sentences = rng.integers(0, len(MEASURED), (2000, len(MEASURED))), rng.integers(0, size, (2000, size))
    result: dict[str, dict] = {}
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for method, by_name in found.items():
        by_product = np.array([of_product(by_name[name], gold[name]) for name in MEASURED])
        pairs = [pair for name in MEASURED for pair in zip(by_name[name].sentences, gold[name], strict=True)]
        counts = np.array([(len(mine & theirs), len(mine), len(theirs)) for mine, theirs in pairs])
        drawn[method] = {
            "product": by_product[products, 2].mean(axis=1),
            "sentence": np.array([prf(*counts[draw].sum(axis=0))[2] for draw in sentences]),
        }
        values = {"product": by_product.mean(axis=0), "sentence": prf(*counts.sum(axis=0))}
        result[method] = {
            kind: {name: round(float(value), 3) for name, value in zip(("precision", "recall", "f1"), row, strict=True)}
            | {"interval": _interval(drawn[method][kind]), "gain": _interval(drawn["ours"][kind] - drawn[method][kind])}
            for kind, row in values.items()
        }
        result[method]["product"]["f1_by_product"] = [round(float(f1), 3) for f1 in by_product[:, 2]]
    return result


def _interval(drawn: np.ndarray) -> list[float]:
    return [round(float(end), 3) for end in np.percentile(drawn, (2.5, 97.5))]


def marks() -> tuple[dict[str, list[str]], dict[str, Sets], list[str]]:
    """(sentences of each product, their marked features, the products to tune on)."""
    sentences, gold = defaultdict(list), defaultdict(list)
    for row in lines("product_review_features_gold.jsonl.gz"):
        text = row["sentence"].replace(" n't", "n't").replace(" 's", "'s")
        sentences[row["product"]].append(tokenised(text))
        gold[row["product"]].append({plain(tokenised(name)) for name, _ in row["features"]})
    return sentences, gold, [name for name in sentences if name not in MEASURED]


def extraction() -> dict:
    """All methods, each with its choice made on the products of 2008."""
    sentences, gold, tuning = marks()
    chosen, found = {}, {}
    for name, (method, choices) in METHODS.items():
        scores = {
            choice: np.mean([of_product(method(sentences[p], choice), gold[p])[2] for p in tuning])
            for choice in choices
        }
        best = max(choices, key=lambda choice: scores[choice])
        start = time.process_time()
        found[name] = {product: method(sentences[product], best) for product in MEASURED}
        seconds = round(time.process_time() - start, 2)
        chosen[name] = {"choice": best, "tuning_f1": round(float(scores[best]), 3), "cpu_s": seconds}
    return {name: chosen[name] | row for name, row in measured(found, gold).items()}


def weights() -> dict:
    """A logistic regression on the marks of the products of 2008, of all candidates, however rare.

    The bias is moved to where the F1 of the features of a product is best when each product is judged by weights that
    were fitted on the eight others; `f1_left_out` is that F1.
    """
    sentences, gold, tuning = marks()
    rows = {name: candidate_features([(text.split(), 0) for text in sentences[name]], 1) for name in tuning}
    names = {product: [plain(name) for name in found] for product, (found, _) in rows.items()}
    marked_K = {p: np.array([name in set().union(*gold[p]) for name in names[p]], dtype=float) for p in tuning}
    moves = np.arange(-1.0, 3.0, 0.125)
    f1 = np.zeros((len(tuning), len(moves)))
    for place, product in enumerate(tuning):
        others = [name for name in tuning if name != product]
        weights_F = logistic(
            np.concatenate([rows[p][1] for p in others]), np.concatenate([marked_K[p] for p in others])
        )
        score_K = rows[product][1] @ weights_F[1:] + weights_F[0]
        for column, move in enumerate(moves):
            found = {name for name, score in zip(names[product], score_K, strict=True) if score + move > 0}
            f1[place, column] = of_product(Found(found, []), gold[product])[2]
    best = int(f1.mean(axis=0).argmax())
    weights_F = logistic(np.concatenate([rows[p][1] for p in tuning]), np.concatenate([marked_K[p] for p in tuning]))
    return {
        "weights": np.round(weights_F[1:], 2).tolist(),
        "bias": round(float(weights_F[0] + moves[best]), 2),
        "f1_left_out": round(float(f1.mean(axis=0)[best]), 3),
    }


def logistic(x_KF: np.ndarray, y_K: np.ndarray) -> np.ndarray:
    """(bias, weights) of a logistic regression by Newton's method, with a penalty on the weights of scaled columns."""
    scale_F = np.append(1.0, x_KF.std(axis=0) + 1e-9)
    x_KF = np.column_stack([np.ones(len(x_KF)), x_KF]) / scale_F
    penalty_F = np.append(1e-9, np.ones(x_KF.shape[1] - 1))
    weights_F = np.zeros(x_KF.shape[1])
    for _ in range(30):
        p_K = 1 / (1 + np.exp(-x_KF @ weights_F))
        hessian_FF = (x_KF * (p_K * (1 - p_K))[:, None]).T @ x_KF + np.diag(penalty_F)
        weights_F -= np.linalg.solve(hessian_FF, x_KF.T @ (p_K - y_K) + penalty_F * weights_F)
    return weights_F / scale_F


def polarity() -> dict:
    """Share of texts with a sign, and how often it is right."""
    rows = [(tokenised(row["text"]), row["polarity"]) for row in lines("pros_cons.jsonl.gz")]
    analyser = SentimentIntensityAnalyzer()
    signs = {
        "vader": [np.sign(analyser.polarity_scores(text)["compound"]) for text, _ in rows],
        "lexicon": [polarity_of_text(text.split(), lexicon()) for text, _ in rows],
    }
    truth = np.array([sign for _, sign in rows])
    result = {}
    for name, found in signs.items():
        said = np.array(found) != 0
        right = (np.array(found) == truth)[said]
        half_width = 1.96 * (right.mean() * (1 - right.mean()) / len(right)) ** 0.5
        interval = [round(float(right.mean() + side * half_width), 4) for side in (-1, 1)]
        result[name] = {"covered": round(float(said.mean()), 3), "accuracy": round(float(right.mean()), 4),
                        "interval": interval}  # fmt: skip
    return {"n": len(rows), **result}


if __name__ == "__main__":
    if sys.argv[1:] == ["weights"]:
        print(json.dumps({"benchmark": "extraction", **weights()}))
    else:
        print(json.dumps({"benchmark": "extraction", "features": extraction(), "polarity": polarity()}))
