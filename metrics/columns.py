"""Predictions as columns: what millions of records need a fifth of the room for that a dict each takes.

A system's predictions are read one line at a time and kept as this; all metrics work on it.
"""

# N records · M names that records list, one record after the other · P places: records that are picked out

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import numpy as np

from metrics.texts import CHUNK, ERRORS, Texts, joined, texts_of
from metrics.words import ranges

IDS = ("record", "user", "item")
RATINGS = ("rating", "predicted_rating")
INDICES = ("user_index", "item_index")
LISTS = ("concepts", "gold_concepts")
ABSENT_ID, ABSENT_INDEX = -1, np.iinfo(np.int64).min


class Ids(NamedTuple):
    """One id a record, each different one kept once."""

    values: list[str | int]
    place_N: np.ndarray  # int32; ABSENT_ID where a record has none

    @property
    def absent(self) -> int:
        """Number of records without an id."""
        return int((self.place_N < 0).sum())

    def told(self) -> Iterator[str | int | None]:
        """The id of each record, in turn."""
        return (None if place < 0 else self.values[place] for place in self.place_N.tolist())


class Names(NamedTuple):
    """The names that each record lists (its concepts), each different one kept once."""

    values: list[str]
    given_N: np.ndarray  # false where a record has no list, not even an empty one
    bounds_N1: np.ndarray  # record n lists those from bounds[n] to bounds[n + 1]
    place_M: np.ndarray

    @classmethod
    def of(cls, lists: Sequence[Sequence[str] | None]) -> "Names":
        """From a list a record."""
        numbers: dict[str, int] = {}
        return _names([_listed(lists, numbers)], numbers)

    @property
    def row_M(self) -> np.ndarray:
        """The record of each name."""
        return np.repeat(np.arange(len(self.given_N)), self.sizes_N)

    @property
    def sizes_N(self) -> np.ndarray:
        """How many each record lists."""
        return np.diff(self.bounds_N1)

    @property
    def _spans(self) -> tuple[np.ndarray, np.ndarray]:
        return self.bounds_N1[:-1], self.bounds_N1[1:]

    def take(self, place_P: np.ndarray) -> "Names":
        """Those of some records."""
        size_P = self.sizes_N[place_P]
        bounds = np.concatenate([[0], np.cumsum(size_P)])
        own_M = self.place_M[ranges(self.bounds_N1[:-1][place_P], size_P)]
        return Names(self.values, self.given_N[place_P], bounds, own_M)

    def told(self) -> Iterator[list[str] | None]:
        """The names of each record, in turn; None where it has no list."""
        places = self.place_M.tolist()
        for given, start, stop in zip(*(part.tolist() for part in (self.given_N, *self._spans)), strict=True):
            yield [self.values[place] for place in places[start:stop]] if given else None

    def encoded(self) -> Iterator[list[bytes]]:
        """The names of each record that hold a word, as UTF-8, in turn."""
        held = [name.encode("utf-8", ERRORS) if name.split() else b"" for name in self.values]
        places = self.place_M.tolist()
        for start, stop in zip(*(part.tolist() for part in self._spans), strict=True):
            yield [held[place] for place in places[start:stop] if held[place]]


@dataclass(frozen=True)
class Predictions:
    """What a system said of N records and what is known of them."""

    explanations: Texts
    references: Texts
    ids: Mapping[str, Ids]  # of IDS
    numbers: Mapping[str, np.ndarray]  # of RATINGS, NaN where absent, and of INDICES
    names: Mapping[str, Names]  # of LISTS
    line_N: np.ndarray  # how many records were read before this one

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Predictions":
        """From one dict a record, as `metrics.predictions` describes them; few are in memory at a time."""
        interned: dict[str, dict] = {key: {} for key in (*IDS, *LISTS)}
        parts: dict[str, list[Any]] = {}
        stream = iter(records)
        while chunk := list(islice(stream, CHUNK)):
            for key, part in _parts(chunk, interned).items():
                parts.setdefault(key, []).append(part)
        explanations = joined(parts.pop("explanation", []))
        return cls(
            explanations,
            joined(parts.pop("reference", [])),
            {key: Ids(list(interned[key]), _array(parts.pop(key, []), np.int32)) for key in IDS},
            {key: _array(parts.pop(key, []), np.float64) for key in RATINGS}
            | {key: _array(parts.pop(key, []), np.int64) for key in INDICES},
            {key: _names(parts.pop(key, []), interned[key]) for key in LISTS},
            np.arange(len(explanations), dtype=np.int32),
        )

    def __len__(self) -> int:
        """Number of records."""
        return len(self.line_N)

    def __getitem__(self, part: slice) -> "Predictions":
        """Some records in a row."""
        return self.take(np.arange(*part.indices(len(self))))

    def take(self, place_P: np.ndarray) -> "Predictions":
        """The records at these places, in their order; itself where these are all of them in the order they have."""
        if np.array_equal(place_P, np.arange(len(self))):
            return self
        return Predictions(
            self.explanations.take(place_P),
            self.references.take(place_P),
            {key: Ids(ids.values, ids.place_N[place_P]) for key, ids in self.ids.items()},
            {key: values_N[place_P] for key, values_N in self.numbers.items()},
            {key: names.take(place_P) for key, names in self.names.items()},
            self.line_N[place_P],
        )

    def rest(self) -> Iterator[bytes]:
        """What each record holds beside its texts, as one text that only equal records share; empty where nothing."""
        parts: list[Iterable[Any]] = [ids.told() for ids in self.ids.values() if ids.values]
        parts += [self.numbers[key].tolist() for key in RATINGS if not np.isnan(self.numbers[key]).all()]
        parts += [self.numbers[key].tolist() for key in INDICES if (self.numbers[key] != ABSENT_INDEX).any()]
        parts += [names.told() for names in self.names.values() if names.given_N.any()]
        rows: Iterable[tuple] = zip(*parts, strict=True) if parts else repeat((), len(self))
        return (repr(row).encode("utf-8", ERRORS) if row else b"" for row in rows)


def _parts(records: list[Mapping[str, Any]], interned: dict[str, dict]) -> dict[str, Any]:
    parts: dict[str, Any] = {key: texts_of([r[key] for r in records]) for key in ("explanation", "reference")}
    for key in IDS:
        numbers, found = interned[key], (record.get(key) for record in records)
        places = [ABSENT_ID if value is None else numbers.setdefault(value, len(numbers)) for value in found]
        parts[key] = np.array(places, dtype=np.int32)
    for keys, absent, kind in ((RATINGS, np.nan, np.float64), (INDICES, ABSENT_INDEX, np.int64)):
        for key in keys:
            found = (record.get(key) for record in records)
            parts[key] = np.array([absent if value is None else value for value in found], dtype=kind)
    gold = [record.get("gold_concepts") for record in records]
    parts["gold_concepts"] = _listed(gold, interned["gold_concepts"])
    candidates = [record.get("concepts") for record in records]
    names = [own if own is None else [entry["concept"] for entry in own] for own in candidates]
    parts["concepts"] = _listed(names, interned["concepts"])
    return parts


def _listed(lists: Sequence[Sequence[str] | None], numbers: dict[str, int]) -> tuple[np.ndarray, ...]:
    """Which are given, how long each is, and the places of their names."""
    given = [own is not None for own in lists]
    sizes = [len(own or ()) for own in lists]
    places = [numbers.setdefault(name, len(numbers)) for name in chain.from_iterable(own or () for own in lists)]
    return np.array(given, bool), np.array(sizes, np.int32), np.array(places, np.int32)


def _names(parts: list[tuple[np.ndarray, ...]], numbers: dict[str, int]) -> Names:
    given, sizes, places = zip(*parts, strict=True) if parts else ((), (), ())
    bounds = np.concatenate([[0], np.cumsum(_array(sizes, np.int64))])
    return Names(list(numbers), _array(given, bool), bounds, _array(places, np.int32))


def _array(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *parts])
