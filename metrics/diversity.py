"""How varied the generated texts are: Distinct-n in its forms, entropy of n-grams, unique texts.

Distinct-n as published comes in forms that differ by an order of magnitude: over the corpus, within each text, within
the texts of an item, and on characters. Each has a name of its own.
"""

# N records · W words · G n-grams · U groups (users or items)

from collections.abc import Hashable, Sequence
from itertools import chain

import numpy as np

from metrics.families import Jackknife, different, entropy
from metrics.phrases import ngrams, tokenize
from metrics.text_counts import CHUNK, Words, encode, ngram_types

ENTROPY_ORDERS = 3


def distinct_corpus(texts: Sequence[str], order: int) -> float:
    """Different n-grams of all texts over all their n-grams, in percent; 0 where there is none."""
    grams = [gram for text in texts for gram in ngrams(tokenize(text), order)]
    return 100 * len(set(grams)) / max(len(grams), 1)


def distinct_sentence(types_N: np.ndarray, words_N: np.ndarray, order: int) -> np.ndarray:
    """values_N: different n-grams over n-grams within each text, in percent; 0 for a text too short for one."""
    return 100 * types_N / np.maximum(words_N - order + 1, 1)


def distinct_char_prag(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """values_N of orders 1 and 2: different character n-grams over characters, in percent.

    So PRAG's script computes "Distinct-n": it iterates over a string, hence over characters, and divides by the length
    and not by the number of n-grams. For comparison with figures of that script alone.
    """
    parts = [_char_kinds(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    length_N = np.maximum([len(text) for text in texts], 1)
    first_N, second_N = (100 * np.concatenate([part[order] for part in parts]) / length_N for order in (0, 1))
    return first_N, second_N


def _char_kinds(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of different characters and of different pairs of neighbours in each text."""
    n, code_W = (
        len(texts),
        np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64),
    )
    text_W = np.repeat(np.arange(n), [len(text) for text in texts])
    base = int(code_W.max(initial=0)) + 1
    single = _different(text_W * base + code_W)
    neighbours_W = text_W[1:] == text_W[:-1]
    pair = _different(((text_W[:-1] * base + code_W[:-1]) * base + code_W[1:])[neighbours_W])
    return np.bincount(single // base, minlength=n), np.bincount(pair // base**2, minlength=n)


def _different(values: np.ndarray) -> np.ndarray:
    """The different ones of whole numbers from 0 on. Sorting: np.unique hashes, which is ten times slower here."""
    ordered = np.sort(values)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def corpus_words(texts: Sequence[str]) -> Words:
    """All words of the texts as numbers."""
    lists = [tokenize(text) for text in texts]
    return encode(list(chain.from_iterable(lists)), list(map(len, lists)))


def corpus_diversity(texts: Sequence[str], words: Words) -> list[Jackknife]:
    """Corpus Distinct-1 and -2, ENTR (PRAG: arithmetic mean of the entropies of orders 1 to 3), USR and USN.

    Two texts are the same when their words are.
    """
    n = len(texts)
    orders = ngram_types(words, np.zeros(n, dtype=np.int64), ENTROPY_ORDERS)
    found = [
        different(f"distinct_{order}", *orders[order - 1], n, np.maximum(words.lengths_D - order + 1, 0), 100.0)
        for order in (1, 2)
    ]
    kind_N = text_kinds(texts)
    usr = different("usr", kind_N, np.arange(n), n, np.ones(n))
    usn = different("usn", kind_N, np.arange(n), n, 1.0)
    return [*found, Jackknife("entr", *entropy(orders, n)), usr, usn]


def text_kinds(texts: Sequence[str]) -> np.ndarray:
    """kind_N: the same number, the same words."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(" ".join(text.split()), len(numbers)) for text in texts], dtype=np.int64)


def group_numbers(keys: Sequence[Hashable]) -> np.ndarray:
    """group_N: 0, 1, ... in the order in which the keys first come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def unique_in_groups(texts: Sequence[str], group_N: np.ndarray) -> np.ndarray:
    """values_U: different texts over texts within each group (MAPLE's uUSR and iUSR are their means)."""
    kind_N = text_kinds(texts)
    pairs = _different(group_N * (int(kind_N.max(initial=0)) + 1) + kind_N)
    return np.bincount(pairs // (int(kind_N.max(initial=0)) + 1)) / np.bincount(group_N)


def distinct_in_groups(words: Words, group_N: np.ndarray, orders: int = 2) -> list[np.ndarray]:
    """Of each order, values_U: different n-grams over n-grams of all texts of a group, in percent."""
    n_groups, values = int(group_N.max()) + 1, []
    for type_G, record_G in ngram_types(words, group_N, orders):
        group_T = np.full(int(type_G.max(initial=-1)) + 1, -1)
        group_T[type_G] = group_N[record_G]
        kinds_U = np.bincount(group_T, minlength=n_groups)
        values.append(100 * kinds_U / np.maximum(np.bincount(group_N[record_G], minlength=n_groups), 1))
    return values
