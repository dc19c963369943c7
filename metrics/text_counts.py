"""Whole-number counts of many text pairs at once: all that BLEU, ROUGE and Distinct need of a record.

Scores of any set of records follow from sums and means over these rows, so a bootstrap, a paired test and a run on many
ranks never look at a text again. Counting is array work: words become numbers, an n-gram of a record becomes the
number of (its first n - 1 words, its last word) of that record, and each order costs one sort.
"""

# N records · W words of all of them · D documents: hypothesis and reference of each record, in turn · C columns
# G n-grams of all documents · T types: the different n-grams of each record · L words of the longest text

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

CHUNK = 8192  # records at a time: bounds memory, and no count depends on it
MAX_ORDER = 4
LCS_BLOCK = 512  # records padded to one length
LCS_BITS = 64

COLUMNS = (
    *(f"match_{order}" for order in range(1, MAX_ORDER + 1)),  # clipped, as BLEU counts them
    *(f"ours_{order}" for order in range(1, MAX_ORDER + 1)),  # n-grams of the hypothesis
    "theirs_1",  # words of the reference
    "types_1",  # different words and word pairs of the hypothesis
    "types_2",
    *(f"rouge_{order}_{part}" for order in (1, 2) for part in ("common", "ours", "theirs")),  # sets of n-grams
    *(f"rouge_l_{part}" for part in ("common", "ours", "theirs")),
)
BLEU = slice(0, 2 * MAX_ORDER + 1)
TYPES = slice(2 * MAX_ORDER + 1, 2 * MAX_ORDER + 3)
ROUGE = {"1": slice(11, 14), "2": slice(14, 17), "l": slice(17, 20)}
_FIELD_ROUGE = slice(11, 20)


class Words(NamedTuple):
    """Documents as numbers: the same number, the same word."""

    ids_W: np.ndarray
    lengths_D: np.ndarray


def text_counts(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """counts_NC, int64, with the columns `COLUMNS`.

    BLEU and Distinct split at any whitespace, the field's ROUGE at single spaces (an empty text is one empty word).
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references: one list is shorter")
    counts_NC = np.zeros((len(hypotheses), len(COLUMNS)), dtype=np.int64)
    for start in range(0, len(hypotheses), CHUNK):
        part = slice(start, start + CHUNK)
        texts = list(chain.from_iterable(zip(hypotheses[part], references[part], strict=True)))
        joined = " ".join(texts)
        counts_NC[part] = _counts(encode(joined.split(" "), [text.count(" ") + 1 for text in texts]))
        if joined.split() == joined.split(" "):
            continue
        words = [text.split() for text in texts]
        same = [bool(text) and text == " ".join(own) for text, own in zip(texts, words, strict=True)]
        differ = [row for row in range(len(texts) // 2) if not (same[2 * row] and same[2 * row + 1])]
        documents = [words[2 * row + side] for row in differ for side in (0, 1)]
        again = _counts(encode(list(chain.from_iterable(documents)), list(map(len, documents))))
        counts_NC[start + np.array(differ), : _FIELD_ROUGE.start] = again[:, : _FIELD_ROUGE.start]
    return counts_NC


def encode(words: Sequence[str], lengths: Sequence[int], numbers: dict[str, int] | None = None) -> Words:
    """The words of documents, one after the other, as numbers; a dict given as `numbers` is used and grown."""
    vocabulary: defaultdict[str, int] = defaultdict(None, numbers or {})
    vocabulary.default_factory = vocabulary.__len__
    ids_W = np.fromiter(map(vocabulary.__getitem__, words), np.int64, len(words))
    if numbers is not None:
        numbers.update(vocabulary)
    return Words(ids_W, np.array(lengths, dtype=np.int64))


def ngram_types(words: Words, group_D: np.ndarray, orders: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each order: (type_G, document_G) of every n-gram; n-grams of one group have one type if they are equal."""
    document_W = np.repeat(np.arange(len(words.lengths_D)), words.lengths_D)
    n_words = int(words.ids_W.max(initial=0)) + 1
    type_G, place_G, found = group_D[document_W], np.arange(len(document_W)), []
    for order in range(1, orders + 1):
        if order > 1:
            longer = place_G + order - 1 < len(document_W)
            longer[longer] = document_W[place_G[longer]] == document_W[place_G[longer] + order - 1]
            type_G, place_G = type_G[longer], place_G[longer]
        # exact: the number of a type is below the number of words, far from overflow when multiplied
        _, type_G = np.unique(type_G * n_words + words.ids_W[place_G + order - 1], return_inverse=True)
        found.append((type_G, document_W[place_G]))
    return found


def _counts(words: Words) -> np.ndarray:
    """counts_NC of documents, hypothesis and reference of each record in turn."""
    n = len(words.lengths_D) // 2
    lengths_N2 = words.lengths_D.reshape(n, 2)
    columns: dict[str, np.ndarray] = {"theirs_1": lengths_N2[:, 1]}
    types = ngram_types(words, np.arange(2 * n) // 2, MAX_ORDER)
    for order, (type_G, document_G) in enumerate(types, start=1):
        columns[f"ours_{order}"] = np.maximum(lengths_N2[:, 0] - order + 1, 0)
        n_types = int(type_G.max(initial=-1)) + 1
        record_T = np.zeros(n_types, dtype=np.int64)
        record_T[type_G] = document_G // 2
        of_reference_G = document_G % 2 == 1
        ours_T = np.bincount(type_G[~of_reference_G], minlength=n_types)
        theirs_T = np.bincount(type_G[of_reference_G], minlength=n_types)
        columns[f"match_{order}"] = np.bincount(record_T, np.minimum(ours_T, theirs_T), n)
        if order <= 2:
            columns[f"rouge_{order}_common"] = np.bincount(record_T, (ours_T > 0) & (theirs_T > 0), n)
            columns[f"rouge_{order}_ours"] = columns[f"types_{order}"] = np.bincount(record_T, ours_T > 0, n)
            columns[f"rouge_{order}_theirs"] = np.bincount(record_T, theirs_T > 0, n)
    columns["rouge_l_common"] = lcs_lengths(words)
    columns["rouge_l_ours"], columns["rouge_l_theirs"] = lengths_N2.T
    return np.stack([columns[name] for name in COLUMNS], axis=1).astype(np.int64)


def lcs_lengths(words: Words) -> np.ndarray:
    """Lengths of the longest common subsequence of each hypothesis and its reference: lcs_N.

    Crochemore et al., "A fast and practical bit-vector algorithm for the longest common subsequence problem" (2001),
    over many records at a time; a row of the dynamic programme is the bits of one integer. Pairs whose shorter text
    has more than LCS_BITS words are done one by one with Python's integers, which have as many bits as needed.
    """
    starts_D = np.concatenate([[0], np.cumsum(words.lengths_D)])[:-1]
    # the length is symmetric: the shorter text lies in the bits
    swap_N = words.lengths_D[0::2] > words.lengths_D[1::2]
    first_N = 2 * np.arange(len(swap_N)) + swap_N
    second_N = first_N ^ 1
    lcs_N = np.zeros(len(swap_N), dtype=np.int64)
    fits_N = words.lengths_D[first_N] <= LCS_BITS
    order = np.lexsort((words.lengths_D[second_N], words.lengths_D[first_N]))
    order = order[fits_N[order]]
    for start in range(0, len(order), LCS_BLOCK):
        rows = order[start : start + LCS_BLOCK]
        short, long = (
            _padded(words, starts_D, document_N[rows], pad) for document_N, pad in ((first_N, -1), (second_N, -2))
        )
        lcs_N[rows] = _lcs_block(short, long)
    for row in np.flatnonzero(~fits_N):
        short, long = (
            words.ids_W[starts_D[document] : starts_D[document] + words.lengths_D[document]].tolist()
            for document in (first_N[row], second_N[row])
        )
        lcs_N[row] = lcs_length(short, long)
    return lcs_N


def _padded(words: Words, starts_D: np.ndarray, documents: np.ndarray, pad: int) -> np.ndarray:
    lengths = words.lengths_D[documents]
    places = np.arange(lengths.max(initial=0))
    within = places < lengths[:, None]
    ids = np.full(within.shape, pad, dtype=np.int32)
    ids[within] = words.ids_W[(starts_D[documents][:, None] + places)[within]]
    return ids


def _lcs_block(short_NL: np.ndarray, long_NL: np.ndarray) -> np.ndarray:
    matches_NL = np.zeros(long_NL.shape, dtype=np.uint64)
    for place in range(short_NL.shape[1]):
        matches_NL |= (short_NL[:, place, None] == long_NL).astype(np.uint64) << np.uint64(place)
    row_N = np.full(len(short_NL), ~np.uint64(0))
    for matches_N in matches_NL.T:
        matched_N = row_N & matches_N
        row_N = (row_N + matched_N) | (row_N - matched_N)
    return np.bitwise_count(~row_N)  # bits beyond the text never match and stay set


def lcs_length(first: Sequence, second: Sequence) -> int:
    """Length of the longest common subsequence of one pair, of any lengths."""
    places: dict = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    all_bits = (1 << len(first)) - 1
    row = all_bits
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & all_bits
    return len(first) - row.bit_count()
