"""How well concepts are extracted: against features marked by hand, beside YAKE and the frequency of nouns.

    pip install textblob yake
    LLM2ER_DATA=../shared/data python benchmarks/extraction.py

Prints one JSON line. Features: 8,194 sentences of reviews of 14 products with the features that people marked in them
(Hu and Liu 2004; Ding and others 2008). Nothing is learned from the marks; what each method has to choose (least count,
number of keywords) is chosen on the nine products of 2008 by the F1 of the features of a product, and all are measured
on the five of 2004. Two questions: which features does a product have (`product`: mean over products), and which does a
sentence judge (`sentence`: all sentences together). Forms of number are one feature for every method, by TextBlob's
singulars. `interval` is of F1 over resampled products or sentences.

Polarity: 45,875 short texts under "pros" and "cons" (Ganapathibhotla and Liu 2008). `lexicon`: the sign of the sum over
opinion words with negation, as in the extractor; `vader`: the sign of VADER's own compound score.
"""

import gzip
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import yake
from textblob.en import singularize, tag
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from datamodules.concepts import ConceptOptions
from datamodules.extraction import fit_extractor
from datamodules.importers.tokenising import tokenised
from datamodules.opinions import lexicon, polarity_of_text

DATA = Path(os.environ.get("LLM2ER_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")) / "lexicons"
MEASURED = ("Apex_AD2600_Progressive_scan_DVD player", "Canon_G3", "Creative_Labs_Nomad_Jukebox_Zen_Xtra_40GB",
            "Nikon_coolpix_4300", "Nokia_6610")  # fmt: skip
LEAST, KEYWORDS = (2, 3, 4, 5, 6, 8), (20, 40, 60, 80, 120, 160)
Found = list[set[str]]  # features of each sentence of a product
Method = Callable[[list[str], int], Found]


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
    options = ConceptOptions(concept_min_count=least, concept_max_share=1.0)
    extractor = fit_extractor([(sentence, 0) for sentence in sentences], options)
    found = (extractor.find(sentence.split()) for sentence in sentences)
    return [{plain(extractor.concepts[f.concept]) for f in one if f.opinion} for one in found]


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
    return [{phrase for phrase in phrases if count[phrase] >= least} for phrases in each]


def yakes(sentences: list[str], top: int) -> Found:
    """YAKE's best keywords of up to three words of all sentences together, in those that hold them."""
    keywords = yake.KeywordExtractor(n=3, top=top).extract_keywords("\n".join(sentences))
    wanted = {plain(keyword.lower()) for keyword, _ in keywords}
    texts = [f" {plain(sentence)} " for sentence in sentences]
    return [{keyword for keyword in wanted if f" {keyword} " in text} for text in texts]


METHODS: dict[str, tuple[Method, tuple[int, ...]]] = {
    "ours": (ours, LEAST),
    "nouns": (nouns, LEAST),
    "yake": (yakes, KEYWORDS),
}


def prf(hits: float, found: float, gold: float) -> tuple[float, float, float]:
    """Precision, recall, F1."""
    precision, recall = hits / max(found, 1), hits / max(gold, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def of_product(found: Found, gold: Found) -> tuple[float, float, float]:
    """Of the features of one product."""
    all_found, all_gold = set().union(*found), set().union(*gold)
    return prf(len(all_found & all_gold), len(all_found), len(all_gold))


def measured(found: dict[str, Found], gold: dict[str, Found], rng: np.random.Generator) -> dict:
    """Both questions on the measured products."""
    by_product = np.array([of_product(found[name], gold[name]) for name in MEASURED])
    counts = np.array(
        [(len(f & g), len(f), len(g)) for name in MEASURED for f, g in zip(found[name], gold[name], strict=True)]
    )
    products = [by_product[rng.integers(0, 5, 5), 2].mean() for _ in range(1000)]
    draws = (counts[rng.integers(0, len(counts), len(counts))].sum(axis=0) for _ in range(1000))
    sentences = [prf(*draw)[2] for draw in draws]
    return {
        "product": _figures(by_product.mean(axis=0), products),
        "sentence": _figures(prf(*counts.sum(axis=0)), sentences),
    }


def _figures(values, drawn: list[float]) -> dict:
    precision, recall, f1 = (round(float(value), 3) for value in values)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"precision": precision, "recall": recall, "f1": f1, "interval": [round(low, 3), round(high, 3)]}


def features() -> dict:
    """All methods, each with its choice made on the products of 2008."""
    sentences, gold = defaultdict(list), defaultdict(list)
    for row in lines("product_review_features_gold.jsonl.gz"):
        text = row["sentence"].replace(" n't", "n't").replace(" 's", "'s")
        sentences[row["product"]].append(tokenised(text))
        gold[row["product"]].append({plain(tokenised(name)) for name, _ in row["features"]})
    tuning = [name for name in sentences if name not in MEASURED]
    result = {}
    for name, (method, choices) in METHODS.items():
        scores = {
            choice: np.mean([of_product(method(sentences[p], choice), gold[p])[2] for p in tuning])
            for choice in choices
        }
        best = max(choices, key=lambda choice: scores[choice])
        start = time.process_time()
        found = {product: method(sentences[product], best) for product in MEASURED}
        seconds = round(time.process_time() - start, 2)
        tuned = {"choice": best, "tuning_f1": round(float(scores[best]), 3), "cpu_s": seconds}
        result[name] = tuned | measured(found, gold, np.random.default_rng(0))
    return result


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
    print(json.dumps({"benchmark": "extraction", "features": features(), "polarity": polarity()}))
