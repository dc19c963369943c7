"""How often runs of words stand in texts, and how often with the cues that tell a feature of what is reviewed.

All counts are taken over array columns, a part of the texts at a time, shorter runs first: a longer one is counted only
where the shorter ones in it are frequent enough, so that time and memory are linear in the texts.

T tokens of a part, V words of the vocabulary, K runs.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from datamodules.concepts import STOP_WORDS
from datamodules.opinions import ENDS, NEGATORS, PAUSES
from metrics.phrases import tokenize

LONGEST = 3  # words of a run
REACH = 6  # words between a run and an opinion on it
AFTER_COPULA = 5  # words in which the opinion follows the copula

_CONTRACTIONS = ("'s", "'re", "'ll", "'ve", "'d", "'m", "n't")
_OPENERS = frozenset(tokenize("the a an my your its their our his her this these of with in"))
_COPULAS = frozenset(
    tokenize("is are was were it's looks feels sounds seems works work worked look sound feel seem has have")
)
_NO_NOUN_BEHIND = frozenset(
    tokenize("""
to i you we they he she it who will would can could should may might must do does did i'd i'll you'll please let's
they'll it'll we'll is are was were be been am i'm it's isn't aren't wasn't
""")
)
DEGREES = frozenset(
    tokenize("""
very so too really more most quite extremely pretty as fairly rather incredibly somewhat super less even
""")
)
# Cues of an occurrence: an opinion within reach, an opinion bound to it, "the" before it, a copula behind it, and "to",
# "it", "is", "very" or the like before it, as before a verb or an adjective. They are bits of its first word, from what
# stands before it, and of the word behind its last.
NEAR, BOUND, DEFINITE, COPULA, OTHER = CUES = range(5)


class Part(NamedTuple):
    """Tokenised texts one after the other, with zeros between; `before_T` and `after_T` hold the cues as bits."""

    ids_T: np.ndarray
    before_T: np.ndarray
    after_T: np.ndarray


class Runs(NamedTuple):
    """Runs of `words_KL.shape[1]` words, in singular, that enough texts hold."""

    words_KL: np.ndarray
    texts_K: np.ndarray  # texts that hold it
    occurrences_K: np.ndarray
    cues_KC: np.ndarray  # occurrences with each of CUES


def marked(words: Sequence[str], wanted: Iterable[str]) -> np.ndarray:
    """Which words [V] are among the wanted ones."""
    wanted = frozenset(wanted)
    return np.array([word in wanted for word in words])


def content(words: Sequence[str]) -> np.ndarray:
    """Which words [V] may stand in a concept."""
    return np.array(
        [
            len(word) > 1
            and word not in STOP_WORDS
            and word not in NEGATORS
            and not word.endswith(_CONTRACTIONS)
            and any(map(str.isalpha, word))
            for word in words
        ]
    )


class Cues:
    """Where the cues stand in a part."""

    def __init__(self, words: Sequence[str], opinion_V: np.ndarray) -> None:
        self._opinion_V = opinion_V
        self._passes_V = marked(words, _OPENERS) | content(words)
        self._definite_V, self._copula_V = marked(words, ("the",)), marked(words, _COPULAS)
        self._other_V = marked(words, _NO_NOUN_BEHIND | DEGREES | NEGATORS)
        self._pause_V, self._end_V = marked(words, PAUSES | {""}), marked(words, ENDS | {""})

    def part(self, ids_T: np.ndarray) -> Part:
        """A part with its cues; `ids_T` begins and ends with 0."""
        size = len(ids_T)
        opinion_T, copula_T = self._opinion_V[ids_T], self._copula_V[ids_T]
        near_before_T, near_after_T = self._near(ids_T, opinion_T)
        bound_before_T = np.zeros(size, dtype=bool)
        bound_before_T[1:] = opinion_T[:-1]  # "great X", "great for the X"
        bound_before_T[2:] |= opinion_T[:-2] & self._passes_V[ids_T[1:-1]]
        definite_T, other_T = (np.append(False, of_V[ids_T[:-1]]) for of_V in (self._definite_V, self._other_V))
        before_T = near_before_T << NEAR | bound_before_T << BOUND | definite_T << DEFINITE | other_T << OTHER
        after_T = near_after_T << NEAR | self._judged(ids_T, opinion_T, copula_T) << BOUND | copula_T << COPULA
        return Part(ids_T, before_T.astype(np.uint8), after_T.astype(np.uint8))

    def _near(self, ids_T: np.ndarray, opinion_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether an opinion stands up to REACH words before a word; in the REACH words from it on. Same sentence."""
        size, place = len(ids_T), np.arange(len(ids_T))
        end_T = self._end_V[ids_T]
        left_T = np.maximum.accumulate(np.where(end_T, place, 0))
        right_T = np.minimum.accumulate(np.where(end_T, place, size - 1)[::-1])[::-1]
        count = np.append(0, np.cumsum(opinion_T))
        before_T = count[place] > count[np.minimum(np.maximum(place - REACH, left_T), place)]
        after_T = count[np.maximum(np.minimum(place + REACH, right_T), place)] > count[place]
        return before_T, after_T

    def _judged(self, ids_T: np.ndarray, opinion_T: np.ndarray, copula_T: np.ndarray) -> np.ndarray:
        """Whether from this word on a copula and an opinion follow: "(the X) is really great"."""
        size, pad = len(ids_T), AFTER_COPULA + 2
        pause_T = np.append(self._pause_V[ids_T], np.ones(pad, dtype=bool))
        ahead_T, copula_T = (np.append(of_T, np.zeros(pad, dtype=bool)) for of_T in (opinion_T, copula_T))
        reached, open_ = np.zeros(size + 2, dtype=bool), np.ones(size + 2, dtype=bool)
        for step in range(AFTER_COPULA):  # no pause between
            open_ &= ~pause_T[step : step + size + 2]
            reached |= open_ & ahead_T[step : step + size + 2]
        judged = copula_T[: size + 2] & reached
        after_T, open_ = judged[:size].copy(), np.ones(size, dtype=bool)
        for step in range(2):  # the copula up to two words behind
            open_ &= ~pause_T[step : step + size] & ~copula_T[step : step + size]
            after_T |= open_ & judged[step + 1 : step + size + 1]
        return after_T


def count_runs(parts: Sequence[Part], singular_V: np.ndarray, content_V: np.ndarray, least: int) -> list[Runs]:
    """For each length, the runs of content words that at least so many texts hold; forms of number count as one."""
    frequency_V = sum(np.bincount(singular_V[part.ids_T], minlength=len(singular_V)) for part in parts)
    content_V = content_V & (np.asarray(frequency_V)[singular_V] >= least)
    # Where the runs of the length before start, and which of `words_KL` they are: at first the empty run, everywhere.
    starts = [np.flatnonzero(content_V[part.ids_T]).astype(np.int32) for part in parts]
    shorter = [np.zeros(len(start_S), dtype=np.int32) for start_S in starts]
    words_KL = np.empty((1, 0), dtype=np.int64)
    found: list[Runs] = []
    for length in range(1, LONGEST + 1):
        tables: list[np.ndarray] = []
        for place, part in enumerate(parts):
            going_S = content_V[part.ids_T[starts[place] + length - 1]]
            starts[place], shorter[place] = starts[place][going_S], shorter[place][going_S]
            key_S = _keys(part, starts[place], shorter[place], length, singular_V)
            tables = _with(tables, _by_run(key_S, starts[place], length, part))
        table = _summed(tables)
        key_K, *columns = table[table[:, 1] >= least].T
        for place, part in enumerate(parts):
            key_S = _keys(part, starts[place], shorter[place], length, singular_V)
            run_S = np.searchsorted(key_K, key_S)
            kept_S = np.append(key_K, -1)[run_S] == key_S
            starts[place], shorter[place] = starts[place][kept_S], run_S[kept_S].astype(np.int32)
        words_KL = np.column_stack([words_KL[key_K // len(singular_V)], key_K % len(singular_V)])
        found.append(Runs(words_KL, columns[0], columns[1], np.stack(columns[2:], axis=1)))
    return found


def count_forms(parts: Sequence[Part], singular_V: np.ndarray, runs_KL: np.ndarray) -> Iterator[tuple[list[int], int]]:
    """(codes of a form of one of the runs, which are of one length; its occurrences)."""
    member_V = np.isin(singular_V, runs_KL)
    code_M = np.flatnonzero(member_V)
    rank_V, digit_L = np.cumsum(member_V) - 1, len(code_M) ** np.arange(runs_KL.shape[1])
    key_K = np.sort(rank_V[runs_KL] @ digit_L)
    tables: list[np.ndarray] = []
    for part in parts:
        start_S = np.flatnonzero(member_V[part.ids_T])
        for step in range(1, len(digit_L)):
            start_S = start_S[member_V[part.ids_T[start_S + step]]]
        word_SL = part.ids_T[start_S[:, None] + np.arange(len(digit_L))]
        run_S = rank_V[singular_V[word_SL]] @ digit_L
        known_S = np.append(key_K, -1)[np.searchsorted(key_K, run_S)] == run_S
        keys, counts = np.unique(rank_V[word_SL[known_S]] @ digit_L, return_counts=True)
        tables = _with(tables, np.column_stack([keys, counts]))
    for key, count in _summed(tables).tolist():
        yield [int(code_M[key // digit % len(code_M)]) for digit in digit_L.tolist()], count


def _keys(part: Part, start_S: np.ndarray, shorter_S: np.ndarray, length: int, singular_V: np.ndarray) -> np.ndarray:
    """A number for each run: the shorter run that it goes on from, and its last word."""
    return shorter_S.astype(np.int64) * len(singular_V) + singular_V[part.ids_T[start_S + length - 1]]


def _by_run(key_S: np.ndarray, start_S: np.ndarray, length: int, part: Part) -> np.ndarray:
    """Rows (key, texts, occurrences, occurrences with each cue) of one part, by key; `start_S` ascends."""
    order = np.argsort(key_S, kind="stable")
    key_S, start_S = key_S[order], start_S[order]
    text_S = np.cumsum(part.ids_T == 0)[start_S]
    bits_S = part.before_T[start_S] | part.after_T[start_S + length]
    new_run_S = np.append(True, key_S[1:] != key_S[:-1])[: len(key_S)]
    new_text_S = new_run_S | np.append(True, text_S[1:] != text_S[:-1])[: len(key_S)]
    columns = [new_text_S, np.ones_like(new_text_S), *(bits_S >> cue & 1 for cue in CUES)]
    first_K = np.flatnonzero(new_run_S)
    sums = [np.add.reduceat(column, first_K, dtype=np.int64) for column in columns] if len(first_K) else columns
    return np.stack([key_S[first_K], *sums], axis=1).astype(np.int64)


def _with(tables: list[np.ndarray], table: np.ndarray) -> list[np.ndarray]:
    """Tables that hold another one; summed when the later ones outgrow the first, so that memory stays in bounds."""
    tables = [*tables, table]
    return [_summed(tables)] if sum(map(len, tables[1:])) > len(tables[0]) else tables


def _summed(tables: list[np.ndarray]) -> np.ndarray:
    """Rows with the same key as one, by key."""
    table = np.concatenate(tables)
    table = table[np.argsort(table[:, 0], kind="stable")]
    first_K = np.flatnonzero(np.append(True, table[1:, 0] != table[:-1, 0])[: len(table)])
    if not len(first_K):
        return table
    sums = np.add.reduceat(table, first_K, axis=0)
    sums[:, 0] = table[first_K, 0]
    return sums
