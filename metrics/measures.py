"""What a suite is given, and what it keeps of a set of predictions."""

# N records

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from metrics import diversity
from metrics.columns import ABSENT_ID, ABSENT_INDEX, Names, Predictions
from metrics.errors import InputError
from metrics.families import Family, Jackknife
from metrics.mentions import Mentions, Phrases
from metrics.sentiment import Polarity
from metrics.text_counts import Pairs
from metrics.texts import ERRORS, Texts
from metrics.words import Words, kinds, lowered

Columns = dict[str, np.ndarray]  # metric -> values, NaN where a unit does not define it


@dataclass(frozen=True)
class ConceptKnowledge:
    """What the train split alone says of concepts and ratings, and the range of ratings."""

    concepts: list[str]
    user_concepts: list[set[int]] | None  # K_u by user index; indices into `concepts`; None: not known
    item_concepts: list[set[int]] | None  # K_v by item index
    rating_min: float
    rating_max: float
    all_concepts: list[str] | None = None  # of train, valid and test: the vocabulary of PETER's scripts
    bias: tuple[float, np.ndarray, np.ndarray] | None = None  # metrics.rating.fit_bias
    polarity: Polarity | None = None
    user_records: np.ndarray | None = None  # train records by user index
    item_records: np.ndarray | None = None


@dataclass(frozen=True)
class Measures:
    """All that is kept of a set of predictions: enough for its figures, their intervals and paired tests."""

    n: int
    families: list[Family] = field(default_factory=list)
    jackknives: list[Jackknife] = field(default_factory=list)
    plain: dict[str, float] = field(default_factory=dict)  # not of sums over records
    signatures: dict[str, str] = field(default_factory=dict)  # of what was computed by a library or a model
    skipped: list[str] = field(default_factory=list)
    bounds: dict[str, list[float]] = field(default_factory=dict)  # intervals of `plain`
    draws: dict[tuple[int, int], dict[str, np.ndarray]] = field(default_factory=dict)  # kept: figures, tests ask alike

    def values(self) -> dict[str, float]:
        """Metric -> value."""
        found: dict[str, float] = {}
        for family in self.families:
            found |= zip(family.names, family.weighted(np.ones((1, family.units)))[0].tolist(), strict=True)
        return found | {jackknife.name: jackknife.value for jackknife in self.jackknives} | self.plain


class AbsentError(Exception):
    """Some metrics lack what they need; the message says what."""


class Counts(NamedTuple):
    """What is counted in the texts once, whatever is measured."""

    pairs: Pairs
    counts_NC: np.ndarray  # the columns of `text_counts`


@dataclass(frozen=True)
class Data:
    """Predictions and what is looked up or found in them; asked for what they lack, it raises AbsentError."""

    records: Predictions
    corpus: ConceptKnowledge | None
    counts: Counts

    @property
    def texts(self) -> Texts:
        """The explanations."""
        return self.records.explanations

    @property
    def words(self) -> Words:
        """All words of the explanations."""
        return self.counts.pairs.ours

    @cached_property
    def lower(self) -> list[Words]:
        """The words of explanations and references in lower case."""
        return lowered([self.counts.pairs.ours, self.counts.pairs.theirs])

    @cached_property
    def kinds(self) -> np.ndarray:
        """kind_N: the same number, the same explanation."""
        return kinds(self.words)

    @property
    def knowledge(self) -> ConceptKnowledge:
        """What train says."""
        if self.corpus is None:
            raise AbsentError("no corpus was given or found")
        return self.corpus

    @cached_property
    def _phrases(self) -> Phrases:
        if not self.knowledge.concepts:
            known = self.knowledge.user_concepts is not None
            raise AbsentError(
                "the train split of the corpus has no concepts" if known else "no corpus was given or found"
            )
        return Phrases(self.knowledge.concepts, self.lower[0].vocabulary)

    @cached_property
    def _found(self) -> tuple[Mentions, np.ndarray]:
        return self._phrases.found(self.lower[0])

    @property
    def found(self) -> Mentions:
        """K(e) of every explanation: the concepts of train that it names."""
        return self._found[0]

    @property
    def covered(self) -> np.ndarray:
        """covered_N: words of each explanation that belong to concepts of train."""
        return self._found[1]

    @property
    def found_in_references(self) -> Mentions:
        """The concepts of train that each reference names."""
        return self._phrases.found(self.lower[1])[0]

    @property
    def gold(self) -> Names:
        """The concepts of each record as given."""
        names = self.records.names["gold_concepts"]
        if len(names.place_M) == 0:
            raise AbsentError("no prediction has gold concepts")
        return names

    def ratings(self, key: str = "rating") -> np.ndarray:
        """rating_N. The gold ones must lie within the range to which predicted ones are clipped."""
        rating_N = self.records.numbers[key]
        self._need(key, np.isnan(rating_N))
        low, high = self.knowledge.rating_min, self.knowledge.rating_max
        if key == "rating" and not (low <= rating_N.min() and rating_N.max() <= high):
            raise AbsentError(f"ratings lie outside {low:g} to {high:g}: give rating_range=[LOW,HIGH]")
        return rating_N

    @property
    def candidates(self) -> Names:
        """The candidate concepts of each record."""
        names = self.records.names["concepts"]
        self._need("concepts", ~names.given_N)
        return names

    def groups(self, key: str) -> np.ndarray:
        """group_N of the `user` or `item` of each record, by index where the corpus knows it."""
        index_N, place_N = self.records.numbers[f"{key}_index"], self.records.ids[key].place_N
        if index_N[0] != ABSENT_INDEX:
            self._need(f"{key}_index", index_N == ABSENT_INDEX)
            return diversity.group_numbers(index_N)
        self._need(key, place_N == ABSENT_ID)
        return diversity.group_numbers(place_N)

    def known_concepts(self, key: str, by_index: list[set[int]] | None) -> tuple[np.ndarray, Mentions]:
        """index_N of each record's user or item, and the train concepts by index."""
        if by_index is None:
            raise AbsentError("what train says of users and items is not known without a corpus")
        return self.indices(key, len(by_index)), Mentions.of(by_index)

    def indices(self, key: str, known: int) -> np.ndarray:
        """index_N of each record's user or item, of which the corpus has `known`."""
        index_N = self.records.numbers[key]
        self._need(key, index_N == ABSENT_INDEX)
        if (outside_N := (index_N < 0) | (index_N >= known)).any():
            raise InputError(
                f"`{key}` {index_N[outside_N][0]} of a prediction is outside the {known} of the corpus; "
                "give the corpus that the system was trained on."
            )
        return index_N

    def item_names(self) -> tuple[np.ndarray, dict[int, list[bytes]]]:
        """index_N of each record's item, and by index the names of its train concepts that hold a word, as UTF-8."""
        index_N, _ = self.known_concepts("item_index", self.knowledge.item_concepts)
        names = [name.encode("utf-8", ERRORS) if name.split() else b"" for name in self.knowledge.concepts]
        items = self.knowledge.item_concepts or []
        own = {
            index: [names[concept] for concept in sorted(items[index]) if names[concept]]
            for index in np.unique(index_N).tolist()
        }
        return index_N, own

    def _need(self, key: str, absent_N: np.ndarray) -> None:
        if absent := int(absent_N.sum()):
            raise AbsentError(f"`{key}` is absent from {absent} of {len(absent_N)} predictions")
