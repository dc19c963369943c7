"""How varied the generated texts are: Distinct-n in its two forms, unique sentences."""

# N records

from collections.abc import Sequence

import numpy as np

from metrics.phrases import ngrams, tokenize


def distinct_corpus(texts: Sequence[str], order: int) -> float:
    """Different n-grams of all texts over all their n-grams, in percent; 0 where there is none."""
    grams = [gram for text in texts for gram in ngrams(tokenize(text), order)]
    return 100 * len(set(grams)) / max(len(grams), 1)


def distinct_sentence(texts: Sequence[str], order: int) -> np.ndarray:
    """values_N: the same share within each text, in percent; a text too short for an n-gram scores 0."""
    values_N = np.zeros(len(texts))
    for index, text in enumerate(texts):
        grams = ngrams(tokenize(text), order)
        values_N[index] = 100 * len(set(grams)) / max(len(grams), 1)
    return values_N


def unique_sentences(texts: Sequence[str]) -> int:
    """USN: the number of different word sequences. USR is USN over the number of texts."""
    return len({tuple(tokenize(text)) for text in texts})
