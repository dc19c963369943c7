"""Do explanations name what drove the rating? Known only for the embedded corpus, whose drivers were planted."""

# N records

from typing import Any

import numpy as np

from datamodules.corpus import Corpus
from datamodules.importers.embedded import TRUTH, load_truth
from datamodules.importers.embedded_text import OPINIONS
from metrics.columns import Predictions
from metrics.families import Sums
from metrics.phrases import tokenize
from metrics.texts import strings

# What the corpus' own texts call good and bad; "good" and "bad" stand in its texts of low quality.
POLARITY_OF = {
    words: polarity
    for polarity, themes in OPINIONS.items()
    for opinions in (*themes.values(), ("good",) if polarity > 0 else ("bad",))
    for words in (tuple(opinion.split()) for opinion in opinions)
}
DRIVER_METRICS = ("driver_precision", "driver_recall", "names_a_driver", "polarity_agreement")


def has_truth(corpus: Corpus) -> bool:
    """Whether the drivers of the corpus' ratings are known."""
    return TRUTH in corpus.manifest["files"]


def drivers(corpus: Corpus, predictions: Predictions) -> Sums:
    """How well explanations name what drove the rating.

    Precision: named concepts that are drivers; recall: drivers that are named; both over all records together.
    `names_a_driver`: share of records that name at least one. `polarity_agreement`: share of the named drivers whose
    nearest opinion word in the text is of the driver's polarity; one without an opinion word agrees with nothing.
    """
    truth = load_truth(corpus)
    phrases = {tuple(tokenize(concept.lower())): index for index, concept in enumerate(corpus.concepts)}
    records = [record for record in predictions.ids["record"].told() if isinstance(record, int)]
    said = zip(strings(predictions.explanations), records, strict=True)
    counts = [_counts(tokenize(text.lower()), phrases, truth[record]) for text, record in said]
    summands_NS = np.array(counts, dtype=np.float64)

    def finish(sums_RS: np.ndarray) -> np.ndarray:
        hits, named, true, hit_records, agreeing, n = np.moveaxis(sums_RS, -1, 0)
        parts = [hits / np.maximum(named, 1), hits / np.maximum(true, 1), hit_records / n, agreeing / hits]
        return np.stack(parts, axis=-1)

    return Sums(list(DRIVER_METRICS), "record", summands_NS, finish)


def _counts(words: list[str], phrases: dict[tuple[str, ...], int], truth: dict[int, int]) -> list[int]:
    """Named drivers, named concepts, drivers, 1 if any is named, named drivers with their polarity, 1."""
    places, opinions = _places(words, phrases), _places(words, POLARITY_OF)
    spans: dict[int, list[tuple[int, int]]] = {}
    for concept, span in places:
        spans.setdefault(concept, []).append(span)
    hits = spans.keys() & truth.keys()
    agreeing = [concept for concept in hits if _opinion(spans[concept], opinions) == truth[concept]]
    return [len(hits), len(spans), len(truth), bool(hits), len(agreeing), 1]


def _places(words: list[str], values: dict[tuple[str, ...], int]) -> list[tuple[int, tuple[int, int]]]:
    """(value, (start, end)) of the phrases in a text, longest first, left to right."""
    longest, found, start = max(map(len, values), default=1), [], 0
    while start < len(words):
        end = next((start + n for n in range(longest, 0, -1) if tuple(words[start : start + n]) in values), start + 1)
        if (phrase := tuple(words[start:end])) in values:
            found.append((values[phrase], (start, end)))
        start = end
    return found


def _opinion(spans: list[tuple[int, int]], opinions: list[tuple[int, tuple[int, int]]]) -> int:
    """The polarity of the opinion nearest to any of the concept's places; 0 where the text holds none."""
    distances = [
        (max(start - opinion_end, opinion_start - end), polarity)
        for start, end in spans
        for polarity, (opinion_start, opinion_end) in opinions
    ]
    return min(distances)[1] if distances else 0


def driver_lines(scores: dict[str, dict[str, Any]]) -> list[str]:
    """The planted-truth figures of systems as text."""
    rows = {name: row for name, row in scores.items() if DRIVER_METRICS[0] in row}
    if not rows:
        return []
    lines = ["", "what drove the rating (planted in this corpus): precision, recall, share naming a driver, polarity"]
    width = max(32, *(len(name) + 2 for name in rows))  # a name may be the path of a file
    for name, row in rows.items():
        values = [f"{row[key]:.3f}" if key in row else "  -  " for key in DRIVER_METRICS]
        lines.append(f"  {name:<{width}}" + "  ".join(values).rstrip())
    return lines
