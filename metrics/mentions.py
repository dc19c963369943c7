"""Which phrases (concepts) many texts name: `PhraseMatcher` on arrays of word numbers.

The same rule as there: whole words in any letter case, left to right, the longest phrase first, each word used once.
"""

# M mentions: a text and one concept that it names · O occurrences of phrases · T texts · W words · V vocabulary

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import NamedTuple

import numpy as np

from metrics.texts import CHUNK
from metrics.words import Words, ranges


class Mentions(NamedTuple):
    """K(e) of `n` texts: one entry for each concept that a text names, by text, then concept."""

    n: int
    texts_M: np.ndarray
    concepts_M: np.ndarray

    @classmethod
    def of(cls, sets: Sequence[AbstractSet[int]]) -> "Mentions":
        """From the concepts of each text."""
        texts_M = np.repeat(np.arange(len(sets)), [len(concepts) for concepts in sets])
        return cls(len(sets), texts_M, np.array([c for concepts in sets for c in sorted(concepts)], dtype=np.int64))

    @classmethod
    def once(cls, n: int, texts_M: np.ndarray, concepts_M: np.ndarray) -> "Mentions":
        """From mentions in any order, where a text may name a concept more than once."""
        base = int(concepts_M.max(initial=0)) + 1
        keys = np.sort(texts_M * np.int64(base) + concepts_M)
        keys = keys[np.diff(keys, prepend=-1) > 0]
        return cls(n, keys // base, keys % base)

    @property
    def sizes_T(self) -> np.ndarray:
        """Number of concepts of each text."""
        return np.bincount(self.texts_M, minlength=self.n)

    def also_in(self, row_T: np.ndarray, others: "Mentions") -> np.ndarray:
        """within_M: is the concept of a mention among those of row `row_T[text]` of `others`?"""
        base = max(int(part.concepts_M.max(initial=0)) for part in (self, others)) + 1
        own_M = row_T[self.texts_M] * np.int64(base) + self.concepts_M
        key_M = others.texts_M * np.int64(base) + others.concepts_M  # in order: nothing has to be sorted
        if len(key_M) == 0:
            return np.zeros(len(own_M), dtype=bool)
        return key_M[np.minimum(np.searchsorted(key_M, own_M), len(key_M) - 1)] == own_M

    def common(self, others: "Mentions") -> np.ndarray:
        """common_T: how many of a text's concepts the same text of `others` has, too."""
        return self.per_text(self.also_in(np.arange(self.n), others))

    def per_text(self, marked_M: np.ndarray) -> np.ndarray:
        """count_T: how many of the mentions of each text are marked."""
        return np.bincount(self.texts_M[marked_M], minlength=self.n)


class Occurrences(NamedTuple):
    """Where phrases stand in the words, by place, the shorter first; phrases that are spelt alike are one."""

    places_O: np.ndarray
    spelling_O: np.ndarray
    lengths_O: np.ndarray


class Phrases:
    """A list of phrases to look for in texts in lower case (`words.lowered`), all of one vocabulary."""

    def __init__(self, phrases: Sequence[str], vocabulary: list[str]) -> None:
        spelt = [tuple(phrase.lower().split()) for phrase in phrases]
        wanted = set(chain.from_iterable(spelt))
        numbers = {word: number for number, word in enumerate(vocabulary) if word in wanted}
        self.n_words = len(vocabulary)
        indices: dict[tuple[int, ...], list[int]] = {}
        for index, words in enumerate(spelt):
            if words and all(word in numbers for word in words):  # others stand in no text
                indices.setdefault(tuple(numbers[word] for word in words), []).append(index)
        self.concepts = np.array(list(chain.from_iterable(indices.values())), dtype=np.int64)
        self.count_S = np.array(list(map(len, indices.values())), dtype=np.int64)
        self._build(list(indices))

    def _build(self, spellings: list[tuple[int, ...]]) -> None:
        """A trie: of each depth, the edges `state * n_words + word` in order, and the states that they lead to."""
        edges: list[dict[int, int]] = [{} for _ in range(max(map(len, spellings), default=0))]
        ends, n_states = {}, 1
        for spelling, words in enumerate(spellings):
            state = 0
            for depth, word in enumerate(words):
                known = edges[depth].setdefault(state * self.n_words + word, n_states)
                n_states += known == n_states
                state = known
            ends[state] = spelling
        self.edges = [np.array(sorted(level.items()), dtype=np.int64).reshape(-1, 2).T for level in edges]
        self.spelling_of = np.full(n_states, -1)
        self.spelling_of[list(ends)] = list(ends.values())

    def occurrences(self, words: Words) -> Occurrences:
        """All of them, also where they overlap."""
        parts = [np.zeros((3, 0), dtype=np.int64)]
        place_P = state_P = end_P = np.zeros(0, dtype=np.int64)
        for depth, (keys, states) in enumerate(self.edges):
            if depth == 0:
                first_V = np.zeros(self.n_words, dtype=np.int64)
                first_V[keys] = states
                state_P = first_V[words.ids_W]
                place_P = np.flatnonzero(state_P)
                state_P = state_P[place_P]
                end_P = words.bounds_T1[np.searchsorted(words.bounds_T1, place_P, side="right")]
            else:
                longer = place_P + depth < end_P
                place_P, end_P = place_P[longer], end_P[longer]
                key_P = state_P[longer] * self.n_words + words.ids_W[place_P + depth]
                edge_P = np.minimum(np.searchsorted(keys, key_P), len(keys) - 1)
                goes_on = keys[edge_P] == key_P
                place_P, end_P, state_P = place_P[goes_on], end_P[goes_on], states[edge_P[goes_on]]
            spelling_P = self.spelling_of[state_P]
            here = spelling_P >= 0
            parts.append(np.stack([place_P[here], spelling_P[here], np.full(int(here.sum()), depth + 1)]))
        found = np.concatenate(parts, axis=1)
        return Occurrences(*found[:, np.argsort(found[0], kind="stable")])

    def found(self, words: Words) -> tuple[Mentions, np.ndarray]:
        """What each text names, the longest phrase first, and covered_T: its words that belong to these phrases."""
        return self._mentions(words, longest_first)

    def anywhere(self, words: Words) -> Mentions:
        """What each text names, also within longer phrases."""
        return self._mentions(words, lambda found: found)[0]

    def _mentions(self, words: Words, chosen: Callable[[Occurrences], Occurrences]) -> tuple[Mentions, np.ndarray]:
        start_S, n = np.cumsum(self.count_S) - self.count_S, len(words.bounds_T1) - 1
        texts, concepts, covered = ([np.zeros(0, np.int64)] for _ in range(3))
        for start in range(0, n, CHUNK):
            part = words.part(start, min(start + CHUNK, n))
            found = chosen(self.occurrences(part))
            text_O, count_O = text_of(part, found.places_O), self.count_S[found.spelling_O]
            concept_M = self.concepts[ranges(start_S[found.spelling_O], count_O)]
            own = Mentions.once(len(part.lengths_T), np.repeat(text_O, count_O), concept_M)
            texts.append(own.texts_M + start)
            concepts.append(own.concepts_M)
            covered.append(np.bincount(text_O, found.lengths_O, own.n).astype(np.int64))
        return Mentions(n, np.concatenate(texts), np.concatenate(concepts)), np.concatenate(covered)


def longest_first(found: Occurrences) -> Occurrences:
    """Of occurrences that overlap the one that begins first, of those that begin together the longest."""
    found = Occurrences(*(part[np.diff(found.places_O, append=-1) != 0] for part in found))
    ends_O = found.places_O + found.lengths_O
    # only where one begins before all that precede have ended is there anything to decide
    apart_O = np.concatenate([[True], found.places_O[1:] >= np.maximum.accumulate(ends_O)[:-1]])[: len(ends_O)]
    kept_O = np.ones(len(ends_O), dtype=bool)
    open_O = np.flatnonzero(~apart_O | ~np.concatenate([apart_O[1:], [True]])[: len(ends_O)])
    free = 0
    for number, place, end in zip(
        *(part.tolist() for part in (open_O, found.places_O[open_O], ends_O[open_O])), strict=True
    ):
        kept_O[number] = place >= free
        if place >= free:
            free = end
    return Occurrences(*(part[kept_O] for part in found))


def text_of(words: Words, places_O: np.ndarray) -> np.ndarray:
    """The text in which each place lies."""
    return np.searchsorted(words.bounds_T1, places_O, side="right") - 1
