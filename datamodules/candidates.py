"""Candidate concepts C_uv and the paths behind them (methods A.5.3).

Two hops u -> c <- v (a concept both know), three hops u -> v' -> c <- v (a concept of v known from an item u rated),
then the item's own concepts, then the user's, then the most frequent ones, until there are k. Scores are products of
attention and of how well the polarities agree with the predicted sentiment.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from datamodules.corpus import Corpus
from datamodules.edges import Relation
from datamodules.splits import name_ranks

SHARED, VIA_ITEM, OF_ITEM, OF_USER, FREQUENT = range(5)  # the kinds of path, best first
Columns = tuple[np.ndarray, np.ndarray, np.ndarray]  # concepts, polarities, attention
KINDS = ("shared", "via_item", "of_item", "of_user", "frequent")

# Relations into users and items, by what they carry: (name, polarity). Polarity 0: the graph does not tell (plain).
_CONCEPT_TO_USER = (("liked_by", 1), ("disliked_by", -1), ("mentioned_by", 0))
_CONCEPT_TO_ITEM = (("praised_in", 1), ("criticised_in", -1), ("of", 0))
_ITEM_TO_USER = (("rated_high_by", 1), ("rated_low_by", -1), ("rated_by", 0))


@dataclass(frozen=True)
class Candidate:
    """One offered concept: what it is, how the item is seen on it, why it is offered."""

    concept: int
    polarity: int
    score: float
    kind: int
    via_item: int = -1


class InEdges:
    """Edges into the nodes of one type, by target, then source: sources, polarities and attention."""

    def __init__(
        self,
        edges: dict[Relation, Tensor],
        attention: dict[Relation, Tensor],
        source: str,
        target: str,
        names: tuple[tuple[str, int], ...],
        targets: int,
    ) -> None:
        index, weight, polarity = [], [], []
        for name, sign in names:
            relation = (source, name, target)
            if relation in edges:
                index.append(edges[relation].numpy())
                weight.append(attention[relation].numpy())
                polarity.append(np.full(index[-1].shape[1], sign, dtype=np.int8))
        index_2E = np.concatenate(index, axis=1)
        order = np.lexsort(index_2E)
        self.source, self.attention = index_2E[0][order], np.concatenate(weight)[order]
        self.polarity = np.concatenate(polarity)[order]
        self.start = np.searchsorted(index_2E[1][order], np.arange(targets + 1))

    def of(self, node: int) -> Columns:
        """(sources, polarities, attention) of the edges into a node."""
        part = slice(self.start[node], self.start[node + 1])
        return self.source[part], self.polarity[part], self.attention[part]


def agreement(sentiment: int, *polarities: np.ndarray) -> np.ndarray:
    """1 where all polarities equal the predicted sentiment (-1, 0, 1), 0.5 where one does, else 0.1.

    Polarity 0 means that the graph does not tell, which counts as agreeing.
    """
    agreeing = sum(((polarity == sentiment) | (polarity == 0)).astype(np.int64) for polarity in polarities)
    return np.where(agreeing == len(polarities), 1.0, np.where(agreeing > 0, 0.5, 0.1))


class CandidateFinder:
    """Offers candidate concepts for pairs, on one graph with its attention."""

    def __init__(
        self,
        edges: dict[Relation, Tensor],
        attention: dict[Relation, Tensor],
        node_counts: dict[str, int],
        frequent: np.ndarray | None = None,
    ) -> None:
        """`frequent` are the concepts by their frequency on this graph; without it by that in train, as ids are."""
        users, items = node_counts["user"], node_counts["item"]
        # Behind all others those that nobody on this graph mentions: a record that is left out may be the only one.
        absent_C = np.ones(node_counts["concept"], dtype=bool)
        for (kind, _, _), index in edges.items():
            if kind == "concept":
                absent_C[index[0].numpy()] = False
        order = np.arange(len(absent_C)) if frequent is None else frequent
        self._frequent = order[np.argsort(absent_C[order], kind="stable")].tolist()
        self._of_user = InEdges(edges, attention, "concept", "user", _CONCEPT_TO_USER, users)
        self._of_item = InEdges(edges, attention, "concept", "item", _CONCEPT_TO_ITEM, items)
        self._items_of_user = InEdges(edges, attention, "item", "user", _ITEM_TO_USER, users)
        self._via_items: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}

    def find(self, user: int, item: int, sentiment: int, k: int) -> list[Candidate]:
        """The k best candidates, best first; fewer only if there are fewer concepts than k.

        `sentiment` is that of the predicted rating, never of the true one.
        """
        known = self._of_item.of(item)
        found: dict[int, Candidate] = {}
        self._take(found, self._shared(user, known, sentiment), k)
        if len(found) < k:
            self._take(found, self._three_hops(user, item, known, sentiment), k)
        if len(found) < k:
            self._take(found, Offers(OF_ITEM, *known), k)
        if len(found) < k:
            self._take(found, Offers(OF_USER, *self._of_user.of(user)), k)
        for concept in self._frequent:
            if len(found) >= k:
                break
            found.setdefault(concept, Candidate(concept, sentiment, 0.0, FREQUENT))
        return list(found.values())

    @staticmethod
    def _take(found: dict[int, Candidate], offers: "Offers", k: int) -> None:
        """Adds the best offers; ties go to the more frequent concept, so that the result is deterministic."""
        for row in np.lexsort((-offers.polarity, offers.concept, -offers.score)).tolist():
            if len(found) >= k:
                return
            concept = int(offers.concept[row])
            if concept not in found:
                via = -1 if offers.via is None else int(offers.via[row])
                polarity, score = int(offers.polarity[row]), float(offers.score[row])
                found[concept] = Candidate(concept, polarity, score, offers.kind, via)

    def _shared(self, user: int, known: Columns, sentiment: int) -> "Offers":
        """score_2(c) = a(u<-c) a(v<-c) agree."""
        concept_C, polarity_C, attention_C = known
        concept_M, polarity_M, attention_M = self._of_user.of(user)
        mine, theirs = _matches(concept_M, concept_C)
        agree = agreement(sentiment, polarity_M[mine], polarity_C[theirs])
        return Offers(SHARED, concept_C[theirs], polarity_C[theirs], attention_M[mine] * attention_C[theirs] * agree)

    def _three_hops(self, user: int, item: int, known: Columns, sentiment: int) -> "Offers":
        """score_3(c) = max over v' of a(u<-v') a(v'<-c) a(v<-c) agree."""
        concept_C, polarity_C, attention_C = known
        if user not in self._via_items:
            self._via_items = {user: self._concepts_of_items_of(user)}
        via_J, concept_J, polarity_J, weight_J = self._via_items[user]
        theirs, mine = _matches(concept_C, concept_J)
        others = via_J[mine] != item
        theirs, mine = theirs[others], mine[others]
        agree = agreement(sentiment, polarity_J[mine], polarity_C[theirs])
        score = weight_J[mine] * attention_C[theirs] * agree
        return Offers(VIA_ITEM, concept_C[theirs], polarity_C[theirs], score, via_J[mine])

    def _concepts_of_items_of(self, user: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(v', concept, polarity, a(u<-v') a(v'<-c)) for every concept of every item the user rated, by concept."""
        items, _, weights = self._items_of_user.of(user)
        parts = [self._of_item.of(int(other)) for other in items]
        via = np.repeat(items, [len(concepts) for concepts, _, _ in parts])
        concepts, polarities, attention = (
            np.concatenate([part[i] for part in parts]) if parts else np.empty(0, dtype=kind)
            for i, kind in enumerate((np.int64, np.int8, np.float32))
        )
        weight = attention * np.repeat(weights, [len(part[0]) for part in parts])
        order = np.argsort(concepts, kind="stable")
        return via[order], concepts[order], polarities[order], weight[order]


def frequent_concepts(corpus: Corpus, without: np.ndarray) -> np.ndarray:
    """Concepts by (train records that mention them, descending; name) as if the records `without` were not there.

    Ids are in this order for all of train, the record's own mention included: it could win it a tie.
    """
    record_M, concept_M, _ = corpus.mention_columns(np.setdiff1d(corpus.rows("train"), without))
    pairs_2M = np.unique(np.stack([record_M, concept_M]).astype(np.int64), axis=1)
    count_C = np.bincount(pairs_2M[1], minlength=len(corpus.concepts))
    return np.lexsort((name_ranks(corpus.concepts), -count_C))


@dataclass(frozen=True)
class Offers:
    """Candidates of one kind of path, in columns."""

    kind: int
    concept: np.ndarray
    polarity: np.ndarray
    score: np.ndarray
    via: np.ndarray | None = None


def _matches(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with one[i] == other[j]; `other` is sorted. By i, then j."""
    low, high = np.searchsorted(other, one, "left"), np.searchsorted(other, one, "right")
    size = high - low
    ends = np.cumsum(size)
    place = np.arange(ends[-1] if len(ends) else 0) + np.repeat(low - ends + size, size)
    return np.repeat(np.arange(len(one)), size), place


def predicted_sentiment(rating: float, low: float, high: float) -> int:
    """-1, 0 or 1 from a predicted rating: below 2.5, from 3.5 on a 1-5 scale, in proportion on others."""
    share = (rating - low) / (high - low)
    return -1 if share < 0.375 else 1 if share >= 0.625 else 0
