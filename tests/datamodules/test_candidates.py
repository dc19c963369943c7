"""Candidate concepts against an enumeration of every path of a small random graph (methods A.5.3)."""

import itertools

import numpy as np
import pytest
import torch

from datamodules.candidates import (
    FREQUENT,
    OF_ITEM,
    OF_USER,
    SHARED,
    VIA_ITEM,
    Candidate,
    CandidateFinder,
    agreement,
    predicted_sentiment,
)

USERS, ITEMS, CONCEPTS = 4, 5, 9
COUNTS = {"user": USERS, "item": ITEMS, "concept": CONCEPTS}
TYPED = {
    ("concept", "liked_by", "user"): 1,
    ("concept", "disliked_by", "user"): -1,
    ("concept", "praised_in", "item"): 1,
    ("concept", "criticised_in", "item"): -1,
    ("item", "rated_high_by", "user"): 1,
    ("item", "rated_low_by", "user"): -1,
}
PLAIN = {("concept", "mentioned_by", "user"): 0, ("concept", "of", "item"): 0, ("item", "rated_by", "user"): 0}


def random_edges(relations, seed):
    """relation -> [(source, target, attention)].

    Attention is in sixteenths, so that products of three are exact in float32 and ties are frequent and true.
    """
    draw = np.random.default_rng(seed)
    return {
        relation: [
            (source, target, int(draw.integers(1, 8)) / 16)
            for source, target in itertools.product(range(COUNTS[relation[0]]), range(COUNTS[relation[2]]))
            if draw.random() < 0.22
        ]
        for relation in relations
    }


def finder_of(graph):
    edges, attention = {}, {}
    for relation, rows in graph.items():
        edges[relation] = torch.tensor([row[:2] for row in rows], dtype=torch.long).reshape(-1, 2).T
        attention[relation] = torch.tensor([row[2] for row in rows])
    return CandidateFinder(edges, attention, COUNTS)


def into(graph, relations, source, target, node):
    """[(source node, polarity, attention)] of the edges into a node."""
    return [
        (start, relations[relation], weight)
        for relation, rows in graph.items()
        if (relation[0], relation[2]) == (source, target)
        for start, end, weight in rows
        if end == node
    ]


def agree(sentiment, one, other):
    hits = sum(polarity in (sentiment, 0) for polarity in (one, other))
    return {2: 1.0, 1: 0.5, 0: 0.1}[hits]


def offers_by_kind(graph, relations, user, item, sentiment):
    """Every path, as (score, concept, polarity, via item), for each kind in the order of back-off."""
    of_item = into(graph, relations, "concept", "item", item)
    two = [
        (a * b * agree(sentiment, p, q), c, q, -1)
        for (d, p, a), (c, q, b) in itertools.product(into(graph, relations, "concept", "user", user), of_item)
        if c == d
    ]
    three = [
        (w * a * b * agree(sentiment, p, q), c, q, via)
        for via, _, w in into(graph, relations, "item", "user", user)
        if via != item
        for (d, p, a), (c, q, b) in itertools.product(into(graph, relations, "concept", "item", via), of_item)
        if c == d
    ]
    of_user = [(a, c, p, -1) for c, p, a in into(graph, relations, "concept", "user", user)]
    return {SHARED: two, VIA_ITEM: three, OF_ITEM: [(b, c, q, -1) for c, q, b in of_item], OF_USER: of_user}


def brute_force(graph, relations, user, item, sentiment, k):
    """[(concept, polarity, score, kind, allowed via items)], best first."""
    found = {}
    for kind, offers in offers_by_kind(graph, relations, user, item, sentiment).items():
        best = {}
        for score, concept, polarity, via in offers:
            key, old = (-score, -polarity), best.get(concept)
            if old is None or key < old[0]:
                best[concept] = (key, {via})
            elif key == old[0]:
                old[1].add(via)
        for concept, ((score, polarity), vias) in sorted(best.items(), key=lambda row: (row[1][0][0], row[0])):
            if concept not in found and len(found) < k:
                found[concept] = (concept, -polarity, -score, kind, vias)
    known = {row[0] for (source, _, _), rows in graph.items() if source == "concept" for row in rows}
    for concept in [c for c in range(CONCEPTS) if c in known] + [c for c in range(CONCEPTS) if c not in known]:
        if concept not in found and len(found) < k:
            found[concept] = (concept, sentiment, 0.0, FREQUENT, {-1})
    return list(found.values())


@pytest.mark.parametrize("relations", [TYPED, PLAIN], ids=["typed", "plain"])
@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_those_of_an_enumeration_of_all_paths(relations, seed):
    graph = random_edges(relations, seed)
    finder = finder_of(graph)
    kinds = set()
    for user, item, sentiment, k in itertools.product(range(USERS), range(ITEMS), (-1, 0, 1), (1, 3, CONCEPTS)):
        got = finder.find(user, item, sentiment, k)
        expected = brute_force(graph, relations, user, item, sentiment, k)
        assert [(c.concept, c.polarity, c.score, c.kind) for c in got] == [row[:4] for row in expected]
        assert all(c.via_item in row[4] for c, row in zip(got, expected, strict=True))
        kinds |= {c.kind for c in got}
    assert kinds == {SHARED, VIA_ITEM, OF_ITEM, OF_USER, FREQUENT}, "the graph must exercise every kind of path"


def test_candidates_are_k_different_concepts_best_kind_first():
    finder = finder_of(random_edges(TYPED, 0))
    for user, item, k in itertools.product(range(USERS), range(ITEMS), range(1, CONCEPTS + 1)):
        found = finder.find(user, item, 1, k)
        assert len({c.concept for c in found}) == len(found) == k
        assert [c.kind for c in found] == sorted(c.kind for c in found)


def test_fewer_candidates_are_a_prefix_of_more():
    finder = finder_of(random_edges(TYPED, 1))
    for user, item in itertools.product(range(USERS), range(ITEMS)):
        longest = finder.find(user, item, 1, CONCEPTS)
        assert all(finder.find(user, item, 1, k) == longest[:k] for k in range(1, CONCEPTS))


def test_more_than_there_are_concepts_gives_them_all():
    assert sorted(c.concept for c in finder_of(random_edges(TYPED, 0)).find(0, 0, 1, 99)) == list(range(CONCEPTS))


def test_candidates_do_not_depend_on_the_order_of_edges_or_on_earlier_questions():
    graph = random_edges(TYPED, 2)
    backwards = finder_of({relation: rows[::-1] for relation, rows in reversed(graph.items())})
    used = finder_of(graph)
    for user, item in itertools.product(range(USERS), range(ITEMS)):
        fresh = [c.concept for c in finder_of(graph).find(user, item, 1, 6)]
        assert fresh == [c.concept for c in used.find(user, item, 1, 6)]
        assert fresh == [c.concept for c in backwards.find(user, item, 1, 6)]


def hand_graph(**relations):
    """A finder over the given relations of TYPED by name; those not given have no edges."""
    return finder_of({relation: relations.get(relation[1], []) for relation in TYPED})


def test_each_kind_of_path_by_hand():
    finder = hand_graph(
        liked_by=[(5, 0, 0.5)],
        praised_in=[(5, 1, 0.25), (6, 1, 0.5), (7, 1, 0.125), (6, 2, 0.75)],
        rated_high_by=[(2, 0, 0.5), (1, 0, 0.5)],
    )
    assert finder.find(0, 1, 1, 4) == [
        Candidate(5, 1, 0.5 * 0.25, SHARED),
        Candidate(6, 1, 0.5 * 0.75 * 0.5, VIA_ITEM, 2),
        Candidate(7, 1, 0.125, OF_ITEM),
        Candidate(0, 1, 0.0, FREQUENT),
    ]


def test_a_concept_of_the_user_alone_comes_before_a_frequent_one():
    finder = hand_graph(liked_by=[(5, 0, 0.5), (7, 0, 0.25)], praised_in=[(6, 1, 0.5)])
    found = [(c.concept, c.kind) for c in finder.find(0, 1, 1, 3)]
    assert found == [(6, OF_ITEM), (5, OF_USER), (7, OF_USER)]


def test_the_item_itself_is_no_way_to_its_own_concepts():
    finder = hand_graph(praised_in=[(6, 1, 0.5)], rated_high_by=[(1, 0, 1.0)])
    assert [c.kind for c in finder.find(0, 1, 1, 1)] == [OF_ITEM]


def test_the_best_of_several_ways_counts():
    finder = hand_graph(praised_in=[(6, 1, 0.5), (6, 2, 0.25), (6, 3, 0.5)], rated_high_by=[(2, 0, 0.5), (3, 0, 0.5)])
    assert finder.find(0, 1, 1, 1) == [Candidate(6, 1, 0.125, VIA_ITEM, 3)]


def test_ties_go_to_the_more_frequent_concept():
    finder = hand_graph(praised_in=[(7, 0, 0.5), (3, 0, 0.5), (5, 0, 0.5)])
    assert [c.concept for c in finder.find(0, 0, 1, 3)] == [3, 5, 7]


def test_polarity_says_how_the_item_is_seen_not_how_the_user_sees_it():
    finder = hand_graph(liked_by=[(4, 0, 1.0)], criticised_in=[(4, 0, 1.0)])
    assert finder.find(0, 0, 1, 1) == [Candidate(4, -1, 0.5, SHARED)]


@pytest.mark.parametrize(
    ("sentiment", "one", "other", "expected"),
    [
        (1, 1, 1, 1.0),
        (1, 1, -1, 0.5),
        (1, -1, 1, 0.5),
        (1, -1, -1, 0.1),
        (-1, -1, -1, 1.0),
        (-1, 1, 1, 0.1),
        (0, 1, -1, 0.1),
        (1, 0, 0, 1.0),
        (-1, 0, 1, 0.5),
    ],
)
def test_agreement_by_hand(sentiment, one, other, expected):
    assert agreement(sentiment, np.array([one]), np.array([other])).tolist() == [expected]


@pytest.mark.parametrize(
    ("rating", "low", "high", "expected"),
    [
        (1, 1, 5, -1),
        (2.49, 1, 5, -1),
        (2.5, 1, 5, 0),
        (3.49, 1, 5, 0),
        (3.5, 1, 5, 1),
        (5, 1, 5, 1),
        (4.3, 1, 10, -1),
        (5.5, 1, 10, 0),
        (6.7, 1, 10, 1),
        (0.3, 0, 1, -1),
        (0.7, 0, 1, 1),
    ],
)
def test_predicted_sentiment_in_thirds_around_the_middle(rating, low, high, expected):
    assert predicted_sentiment(rating, low, high) == expected
