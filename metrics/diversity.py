"""How varied the generated texts are: Distinct-n in its forms, entropy of n-grams, unique texts.

Distinct-n as published comes in forms that differ by an order of magnitude: over the corpus, within each text, within
the texts of an item, and on characters. Each has a name of its own.
"""

# N records · W words · G n-grams · U groups (users or items)

from collections.abc import Hashable, Sequence

import numpy as np

from metrics.families import Jackknife, different, entropy
from metrics.phrases import ngrams, tokenize
from metrics.words import Words, at_whitespace, encode, ngrams_up_to

ENTROPY_ORDERS = 3
CHAR_TEXTS = 1024  # at a time


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
    found = [_char_kinds(texts[start : start + CHAR_TEXTS]) for start in range(0, len(texts), CHAR_TEXTS)]
    length_N = np.maximum(np.fromiter(map(len, texts), np.int64, len(texts)), 1)
    first_N, second_N = (100 * np.concatenate([part[order] for part in found]) / length_N for order in (0, 1))
    return first_N, second_N


def _char_kinds(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of different characters and of different pairs of neighbours in each text."""
    code_W = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    count_C = np.bincount(code_W)
    number_W, size = (np.cumsum(count_C > 0) - 1)[code_W], int((count_C > 0).sum())  # few characters: small keys
    text_W = np.repeat(np.arange(len(texts)), np.fromiter(map(len, texts), np.int64, len(texts)))
    single_W = text_W * size + number_W
    neighbours = text_W[1:] == text_W[:-1]
    pair_G = (single_W[:-1] * size + number_W[1:])[neighbours]
    if len(texts) * size**2 < 2**32:  # half the bytes sort in half the time
        single_W, pair_G = single_W.astype(np.uint32), pair_G.astype(np.uint32)
    first_N, second_N = (
        np.bincount(_different(keys) // base, minlength=len(texts))
        for keys, base in ((single_W, size), (pair_G, size**2))
    )
    return first_N, second_N


def _different(values: np.ndarray) -> np.ndarray:
    """The different ones of whole numbers. Sorting: np.unique hashes, which is ten times slower here."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]


def corpus_words(texts: Sequence[str]) -> Words:
    """All words of the texts as numbers."""
    return at_whitespace(encode(texts))[0]


def corpus_diversity(words: Words, kind_N: np.ndarray) -> list[Jackknife]:
    """Corpus Distinct-1 and -2, ENTR (PRAG: arithmetic mean of the entropies of orders 1 to 3), USR and USN.

    Two texts are the same when their words are: when they are of one kind (`words.kinds`).
    """
    n = len(kind_N)
    found, entropies = [], []
    for order, grams in enumerate(ngrams_up_to(ENTROPY_ORDERS, words), start=1):
        if order <= 2:
            total_N = np.maximum(words.lengths_T - order + 1, 0)
            found.append(different(f"distinct_{order}", grams.types_G, grams.texts_G, n, total_N, 100.0))
        entropies.append(entropy(grams.types_G, grams.texts_G, n))
    values, without = zip(*entropies, strict=True)
    entr = Jackknife("entr", sum(values) / len(values), np.mean(without, axis=0))
    usr = different("usr", kind_N, np.arange(n), n, np.ones(n))
    usn = different("usn", kind_N, np.arange(n), n, 1.0)
    return [*found, entr, usr, usn]


def group_numbers(keys: Sequence[Hashable]) -> np.ndarray:
    """group_N: 0, 1, ... in the order in which the keys first come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def unique_in_groups(kind_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """values_U: different texts over texts within each group (MAPLE's uUSR and iUSR are their means)."""
    n_kinds = int(kind_N.max(initial=0)) + 1
    return np.bincount(_different(group_N * n_kinds + kind_N) // n_kinds) / np.bincount(group_N)


def distinct_in_groups(words: Words, group_N: np.ndarray, orders: int = 2) -> list[np.ndarray]:
    """Of each order, values_U: different n-grams over n-grams of all texts of a group, in percent."""
    n_groups, values = int(group_N.max()) + 1, []
    for grams in ngrams_up_to(orders, words, group_N):
        group_G = group_N[grams.texts_G]
        group_K = np.zeros(int(grams.types_G.max(initial=-1)) + 1, dtype=np.int64)
        group_K[grams.types_G] = group_G
        kinds_U, all_U = (np.bincount(part, minlength=n_groups) for part in (group_K, group_G))
        values.append(100 * kinds_U / np.maximum(all_U, 1))
    return values
