"""Does the polarity of an explanation agree with the rating? The polarity is told by words, fitted on train alone.

Naive Bayes over words and word pairs (pairs catch "not good"), Laplace smoothing, both classes equally likely a priori:
what a text says, not how frequent praise is. Texts of train are positive above the middle of the rating scale and
negative below it. No word list is needed, so it works for any language and domain; how often it is right on the
reference texts stands beside every figure made with it.
"""

# V words and word pairs of train · T texts · O occurrences of them

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from metrics.mentions import Phrases, text_of
from metrics.phrases import ngrams, tokenize
from metrics.words import CHUNK, Words


@dataclass(frozen=True)
class Polarity:
    """log P(word | positive) - log P(word | negative) of the words of train; an unknown word says nothing."""

    log_odds: dict[tuple[str, ...], float]

    def of(self, text: str) -> int:
        """1 positive, -1 negative, 0 where nothing known is said or both sides weigh the same."""
        score = math.fsum(self.log_odds.get(gram, 0.0) for gram in _grams(text))
        return (score > 0) - (score < 0)

    def of_all(self, lower: Words) -> np.ndarray:
        """said_T: the same of many texts, given in lower case; weights that cancel but for rounding are the same."""
        phrases = Phrases([" ".join(gram) for gram in self.log_odds], lower.vocabulary)
        odds_S = np.array(list(self.log_odds.values()))[phrases.concepts]  # a spelling a gram
        n = len(lower.bounds_T1) - 1
        said = [np.zeros(0, np.int64)]
        for start in range(0, n, CHUNK):  # nearly every word of a text is known: they are many
            part = lower.part(start, min(start + CHUNK, n))
            found = phrases.occurrences(part)
            odds_O, texts_O, size = odds_S[found.spelling_O], text_of(part, found.places_O), len(part.lengths_T)
            score_T, most_T = np.bincount(texts_O, odds_O, size), np.bincount(texts_O, np.abs(odds_O), size)
            said.append(np.where(np.abs(score_T) > 1e-12 * most_T, np.sign(score_T), 0).astype(np.int64))
        return np.concatenate(said)


def sign(rating: float, middle: float) -> int:
    """1 above the middle of the scale, -1 below, 0 at it."""
    return (rating > middle) - (rating < middle)


def fit_polarity(texts: Sequence[str], ratings: Iterable[float], middle: float) -> Polarity | None:
    """Fits on train texts; None where train has no positive or no negative text."""
    counts: dict[int, Counter[tuple[str, ...]]] = {1: Counter(), -1: Counter(), 0: Counter()}
    for text, rating in zip(texts, ratings, strict=True):
        counts[sign(rating, middle)].update(set(_grams(text)))
    liked, disliked = counts[1], counts[-1]
    if not liked or not disliked:
        return None
    known = sorted(liked.keys() | disliked.keys())
    totals = liked.total() + len(known), disliked.total() + len(known)
    return Polarity(
        {gram: math.log((liked[gram] + 1) / totals[0]) - math.log((disliked[gram] + 1) / totals[1]) for gram in known}
    )


def _grams(text: str) -> list[tuple[str, ...]]:
    words = tokenize(text.lower())
    return ngrams(words, 1) + ngrams(words, 2)
