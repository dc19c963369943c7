"""How varied the generated texts are: Distinct-n in its forms, entropy of n-grams, unique texts.

Distinct-n as published comes in forms that differ by an order of magnitude: over the corpus, within each text, within
the texts of an item, and on characters. Each has a name of its own.
"""

# N records · W words · G n-grams · U groups (users or items)

from collections.abc import Sequence

import numpy as np

from metrics.families import Jackknife, different, entropy
from metrics.phrases import ngrams, tokenize
from metrics.texts import Texts, strings
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


def distinct_char_prag(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """values_N of orders 1 and 2: different character n-grams over characters, in percent.

    So PRAG's script computes "Distinct-n": it iterates over a string, hence over characters, and divides by the length
    and not by the number of n-grams. For comparison with figures of that script alone.
    """
    starts = range(0, len(texts), CHAR_TEXTS)
    found = [_char_kinds(strings(texts.slice(start, CHAR_TEXTS))) for start in starts]
    first_N, second_N, length_N = (np.concatenate([np.zeros(0), *(part[k] for part in found)]) for k in range(3))
    return 100 * first_N / np.maximum(length_N, 1), 100 * second_N / np.maximum(length_N, 1)


def _char_kinds(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of different characters and of different pairs of neighbours in each text, and its length."""
    code_W = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    count_C = np.bincount(code_W)
    number_W, size = (np.cumsum(count_C > 0) - 1)[code_W], int((count_C > 0).sum())  # few characters: small keys
    length_N = np.fromiter(map(len, texts), np.int64, len(texts))
    text_W = np.repeat(np.arange(len(texts)), length_N)
    single_W = text_W * size + number_W
    neighbours = text_W[1:] == text_W[:-1]
    pair_G = (single_W[:-1] * size + number_W[1:])[neighbours]
    if len(texts) * size**2 < 2**32:  # half the bytes sort in half the time
        single_W, pair_G = single_W.astype(np.uint32), pair_G.astype(np.uint32)
    first_N, second_N = (
        np.bincount(_different(keys) // base, minlength=len(texts))
        for keys, base in ((single_W, size), (pair_G, size**2))
    )
    return first_N, second_N, length_N


def _different(values: np.ndarray) -> np.ndarray:
    """The different ones of whole numbers. Sorting: np.unique hashes, which is ten times slower here."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]


def corpus_words(texts: Texts) -> Words:
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


def group_numbers(value_N: np.ndarray) -> np.ndarray:
    """group_N: equal values, equal numbers: 0, 1, ... in the order in which they first come."""
    _, first_U, group_N = np.unique(value_N, return_index=True, return_inverse=True)
    number_U = np.empty(len(first_U), dtype=np.int64)
    number_U[np.argsort(first_U)] = np.arange(len(first_U))
    return number_U[group_N]


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
