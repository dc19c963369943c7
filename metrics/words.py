"""Texts as numbers: each different word gets a number once, and all counting after that is array work."""

# W words of all texts · T texts · V different words · G n-grams

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow
from pyarrow import compute

from metrics.texts import CHUNK, ERRORS, Texts

PART = 2**16  # keys that are sorted at a time, few enough for the processor's cache


class Words(NamedTuple):
    """The words of texts, one text after the other, as numbers: places in the vocabulary."""

    ids_W: np.ndarray
    bounds_T1: np.ndarray  # text t holds the words from bounds[t] to bounds[t + 1]
    vocabulary: list[str]

    @property
    def lengths_T(self) -> np.ndarray:
        """Number of words of each text."""
        return np.diff(self.bounds_T1)

    @property
    def texts_W(self) -> np.ndarray:
        """The text of each word."""
        return np.repeat(np.arange(len(self.bounds_T1) - 1, dtype=_whole(len(self.bounds_T1))), self.lengths_T)

    def part(self, start: int, stop: int) -> "Words":
        """The texts from `start` to `stop`."""
        bounds = self.bounds_T1[start : stop + 1]
        return Words(self.ids_W[bounds[0] : bounds[-1]], bounds - bounds[0], self.vocabulary)


def encode(*sides: Texts) -> list[Words]:
    """The words of each list of texts, split at single blanks, with one vocabulary. An empty text is one empty word."""
    numbers: dict[bytes, int] = {}
    found = []
    for texts in sides:
        ids, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
        for start in range(0, len(texts), CHUNK):
            split = compute.split_pattern(texts.slice(start, CHUNK), pattern=b" ")
            words = split.flatten().dictionary_encode()
            number_D = [numbers.setdefault(word, len(numbers)) for word in words.dictionary.to_pylist()]
            ids.append(np.array(number_D, dtype=np.int32)[words.indices.to_numpy()])
            lengths.append(np.diff(split.offsets))
        found.append((np.concatenate(ids), np.cumsum(np.concatenate(lengths))))
    vocabulary = [word.decode("utf-8", ERRORS) for word in numbers]
    return [Words(ids_W, bounds_T1, vocabulary) for ids_W, bounds_T1 in found]


def at_whitespace(sides: Sequence[Words]) -> list[Words]:
    """The same texts split at any whitespace; the very same objects where that changes nothing.

    Looks at each different word once: it is empty, or holds other whitespace, where the two ways to split differ. All
    other words keep their numbers.
    """
    vocabulary = sides[0].vocabulary
    pieces = [word.split() for word in vocabulary]
    odd_V = np.fromiter((own != [word] for own, word in zip(pieces, vocabulary, strict=True)), bool, len(vocabulary))
    if not odd_V.any():
        return list(sides)
    numbers = {word: number for number, word in enumerate(vocabulary)}
    flat = np.array([numbers.setdefault(word, len(numbers)) for word in chain.from_iterable(pieces)], dtype=np.int32)
    count_V = np.fromiter(map(len, pieces), np.int64, len(pieces))
    start_V = np.cumsum(count_V) - count_V
    found = []
    for words in sides:
        count_W = count_V[words.ids_W]
        ends_W = np.concatenate([[0], np.cumsum(count_W)])
        ids_W = flat[ranges(start_V[words.ids_W], count_W)]
        found.append(Words(ids_W, ends_W[words.bounds_T1], list(numbers)))
    return found


def lowered(sides: Sequence[Words]) -> list[Words]:
    """The same words in lower case; the very same objects where they are."""
    vocabulary = sides[0].vocabulary
    numbers: dict[str, int] = {}
    lower_V = np.array([numbers.setdefault(word.lower(), len(numbers)) for word in vocabulary], dtype=np.int32)
    if list(numbers) == vocabulary:
        return list(sides)
    return [Words(lower_V[words.ids_W], words.bounds_T1, list(numbers)) for words in sides]


def ranges(start_X: np.ndarray, count_X: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each, `count` numbers long, one after the other."""
    before_X = np.cumsum(count_X) - count_X
    return np.repeat(start_X - before_X, count_X) + np.arange(int(count_X.sum()))


def kinds(words: Words) -> np.ndarray:
    """kind_T: the same number, the same words in the same order."""
    size = words.ids_W.itemsize
    buffers = (pyarrow.py_buffer(np.ascontiguousarray(part)) for part in (words.bounds_T1 * size, words.ids_W))
    held = pyarrow.LargeBinaryArray.from_buffers(pyarrow.large_binary(), len(words.bounds_T1) - 1, [None, *buffers])
    return held.dictionary_encode().indices.to_numpy().astype(np.int64)


class Grams(NamedTuple):
    """N-grams of texts, in their order: equal ones of one group of texts have one type."""

    types_G: np.ndarray
    places_G: np.ndarray  # of the first word
    texts_G: np.ndarray

    def only(self, kept_G: np.ndarray) -> "Grams":
        """Some of them."""
        return Grams(*(part[kept_G] for part in self))


def single(words: Words, group_T: np.ndarray | None) -> Grams:
    """The words themselves; `group_T` is the group of each text, None: all are in one."""
    text_W = words.texts_W
    types_W = words.ids_W  # numbered already
    if group_T is not None:
        types_W = numbered(group_T[text_W] * np.int64(len(words.vocabulary)) + words.ids_W)
    return Grams(types_W, np.arange(len(text_W), dtype=_whole(len(text_W))), text_W)


def longer(words: Words, grams: Grams, order: int) -> Grams:
    """Those of `order` words that begin with the given ones, which have one word less."""
    grams = grams.only(grams.places_G + order <= words.bounds_T1[grams.texts_G + 1])
    # exact: a type is below the number of words, far from overflow when multiplied
    key_G = grams.types_G * np.int64(len(words.vocabulary))
    key_G += words.ids_W[grams.places_G + (order - 1)]
    _, places_G, texts_G = grams
    del grams
    return Grams(numbered(key_G), places_G, texts_G)


def ngrams_up_to(orders: int, words: Words, group_T: np.ndarray | None = None) -> Iterator[Grams]:
    """The n-grams of orders 1 to `orders`, in turn."""
    grams = single(words, group_T)
    yield grams
    for order in range(2, orders + 1):
        grams = longer(words, grams, order)
        yield grams


def numbered(key_G: np.ndarray) -> np.ndarray:
    """number_G from 0 on: equal keys, equal numbers.

    Keys are dealt to parts by a hash and each part is sorted alone, so time stays linear: one sort of all of them
    leaves the processor's cache and takes three times as long a key for six million as for a tenth of that.
    """
    bits = min((len(key_G) // PART).bit_length(), 16)
    if bits == 0:
        return np.unique(key_G, return_inverse=True)[1]
    part_G = _hashed(key_G, bits)
    order_G = np.argsort(part_G, kind="stable")  # of 16 bits: a radix sort
    ends, sorted_G, start, known = np.cumsum(np.bincount(part_G)).tolist(), key_G[order_G], 0, 0
    del key_G, part_G  # of the n-grams of millions of texts
    for end in ends:
        different, inverse = np.unique(sorted_G[start:end], return_inverse=True)
        sorted_G[start:end] = inverse + known
        start, known = end, known + len(different)
    number_G: np.ndarray = np.empty(len(sorted_G), dtype=_whole(len(sorted_G)))
    number_G[order_G] = sorted_G
    return number_G


def _hashed(key_G: np.ndarray, bits: int) -> np.ndarray:
    """Fibonacci hashing (Knuth, vol. 3, 6.4): `bits` bits of each key."""
    hash_G = key_G.astype(np.uint64)
    hash_G *= np.uint64(0x9E3779B97F4A7C15)
    hash_G >>= np.uint64(64 - bits)
    return hash_G.astype(np.uint16)


def _whole(n: int) -> type:
    """The smaller type of whole numbers that counts to `n`: corpora of millions of texts are held as such arrays."""
    return np.int32 if n < 2**31 else np.int64
