"""The concept graph, against one worked out by hand, and leave-one-out against a planted concept."""

import numpy as np
import pytest
import torch

from datamodules.build import BuildOptions, RawRecord, build_corpus
from datamodules.edges import PLAIN, TYPED
from datamodules.graph import GraphConfig, build_graph, fold_of_records
from metrics.errors import InputError


def record(user, item, rating, *mentions, split="train"):
    return RawRecord(1, user, item, rating, "some words .", [(name, "", sign) for name, sign in mentions], split)


def corpus_of(tmp_path, records, **options):
    return build_corpus(records, tmp_path / "corpus", BuildOptions(**options), {})


@pytest.fixture
def five_nodes(tmp_path):
    """Users ann 0, bob 1; items amp 0, bag 1; concept sound 0. The last record is no train record."""
    return corpus_of(
        tmp_path,
        [
            record("ann", "amp", 5, ("sound", 1)),
            record("bob", "amp", 2, ("sound", -1)),
            record("ann", "bag", 4, ("sound", 0)),  # takes the sign of its rating
            record("bob", "bag", 1, ("sound", -1), split="test"),
        ],
    )


BY_HAND = {  # forward relation -> (edges, records behind each edge)
    ("user", "rated_high", "item"): ([(0, 0), (0, 1)], [[0], [2]]),
    ("user", "rated_low", "item"): ([(1, 0)], [[1]]),
    ("user", "likes", "concept"): ([(0, 0)], [[0, 2]]),
    ("user", "dislikes", "concept"): ([(1, 0)], [[1]]),
    ("item", "praised_for", "concept"): ([(0, 0), (1, 0)], [[0], [2]]),
    ("item", "criticised_for", "concept"): ([(0, 0)], [[1]]),
}
PLAIN_BY_HAND = {
    ("user", "rated", "item"): ([(0, 0), (0, 1), (1, 0)], [[0], [2], [1]]),
    ("user", "mentions", "concept"): ([(0, 0), (1, 0)], [[0, 2], [1]]),
    ("item", "has", "concept"): ([(0, 0), (1, 0)], [[0, 1], [2]]),
}


def records_behind(graph, relation):
    edge_I, record_I = graph.incidences[relation]
    edges = graph.data[relation].edge_index.shape[1]
    return [sorted(record_I[edge_I == edge].tolist()) for edge in range(edges)]


def pairs(index):
    return list(map(tuple, index.T.tolist()))


@pytest.mark.parametrize(("kind", "expected"), [("typed", BY_HAND), ("plain", PLAIN_BY_HAND)])
def test_edges_counts_and_incidences_are_those_worked_out_by_hand(five_nodes, kind, expected):
    graph = build_graph(five_nodes, GraphConfig(relations=kind))
    assert graph.node_counts == {"user": 2, "item": 2, "concept": 1}
    for relation, (edges, records) in expected.items():
        assert pairs(graph.data[relation].edge_index) == edges
        assert graph.data[relation].edge_count.tolist() == [len(row) for row in records]
        assert records_behind(graph, relation) == records


@pytest.mark.parametrize("kind", ["typed", "plain"])
def test_each_relation_has_its_reverse_with_the_same_counts_and_records(five_nodes, kind):
    graph = build_graph(five_nodes, GraphConfig(relations=kind))
    for forward, backward in zip(*[iter(TYPED if kind == "typed" else PLAIN)] * 2, strict=True):
        assert (forward[0], forward[2]) == (backward[2], backward[0])
        assert torch.equal(graph.data[backward].edge_index, graph.data[forward].edge_index.flip(0))
        assert torch.equal(graph.data[backward].edge_count, graph.data[forward].edge_count)
        assert records_behind(graph, backward) == records_behind(graph, forward)


@pytest.mark.parametrize(("kind", "count"), [("typed", 12), ("plain", 6)])
def test_typed_graphs_have_twelve_relations_and_plain_ones_six(five_nodes, kind, count):
    graph = build_graph(five_nodes, GraphConfig(relations=kind))
    assert len(graph.relations) == len(set(graph.relations)) == count
    assert set(graph.data.edge_types) == set(graph.relations)


def test_a_concept_named_twice_in_a_record_counts_once(tmp_path):
    corpus = corpus_of(tmp_path, [record("ann", "amp", 5, ("sound", 1), ("sound", 1))])
    likes = build_graph(corpus, GraphConfig()).data["user", "likes", "concept"]
    assert likes.edge_count.tolist() == [1]


def test_a_concept_both_praised_and_criticised_in_a_record_gives_an_edge_of_each_kind(tmp_path):
    graph = build_graph(corpus_of(tmp_path, [record("ann", "amp", 5, ("sound", 1), ("sound", -1))]), GraphConfig())
    for name in ("likes", "dislikes"):
        assert pairs(graph.data["user", name, "concept"].edge_index) == [(0, 0)]


@pytest.mark.parametrize(("rating", "name"), [(3, "dislikes"), (4, "likes")])
def test_the_middle_of_the_scale_counts_as_low(tmp_path, rating, name):
    graph = build_graph(corpus_of(tmp_path, [record("ann", "amp", rating, ("sound", 0))]), GraphConfig())
    assert pairs(graph.data["user", name, "concept"].edge_index) == [(0, 0)]


def test_the_middle_follows_the_scale_of_the_corpus(tmp_path):
    corpus = corpus_of(tmp_path, [record("ann", "amp", 6), record("bob", "amp", 5)], rating_max=10.0)
    graph = build_graph(corpus, GraphConfig())
    assert pairs(graph.data["user", "rated_high", "item"].edge_index) == [(0, 0)]
    assert pairs(graph.data["user", "rated_low", "item"].edge_index) == [(1, 0)]


def random_corpus(tmp_path, users=6, items=5, concepts=7, seed=0):
    draw = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for item in draw.choice(items, 3, replace=False):
            named = draw.choice(concepts, 2, replace=False)
            mentions = [(f"concept{c}", int(draw.integers(-1, 2))) for c in named]
            rows.append(record(f"user{user}", f"item{item}", int(draw.integers(1, 6)), *mentions))
    for row, split in ((0, "valid"), (4, "test"), (8, "test")):
        rows[row] = rows[row]._replace(split=split)
    return corpus_of(tmp_path, rows)


def everything(graph):
    return [
        column.tolist()
        for relation in graph.relations
        for column in (
            graph.data[relation].edge_index,
            graph.data[relation].edge_count,
            *graph.incidences[relation],
        )
    ]


def test_two_builds_are_equal_whatever_the_order_of_the_records(tmp_path):
    corpus = random_corpus(tmp_path)
    first = build_graph(corpus, GraphConfig())
    backwards = build_graph(corpus, GraphConfig(), records=corpus.rows("train")[::-1])
    assert first.relations == backwards.relations
    assert everything(first) == everything(build_graph(corpus, GraphConfig())) == everything(backwards)


@pytest.mark.parametrize("kind", ["typed", "plain"])
def test_leaving_records_out_gives_the_graph_that_was_never_told_of_them(tmp_path, kind):
    corpus, config = random_corpus(tmp_path), GraphConfig(relations=kind)
    graph, train = build_graph(corpus, config), corpus.rows("train")
    for left_out in ([int(train[0])], train[::2].tolist(), train[1:].tolist()):
        fresh = build_graph(corpus, config, records=[r for r in train.tolist() if r not in left_out])
        edges = graph.edges(without=np.array(left_out))
        for relation in graph.relations:
            assert pairs(edges[relation]) == pairs(fresh.data[relation].edge_index)


def test_leaving_nothing_out_gives_all_edges(tmp_path):
    graph = build_graph(random_corpus(tmp_path), GraphConfig())
    for nothing in (None, np.array([], dtype=np.int64), torch.tensor([], dtype=torch.long)):
        edges = graph.edges(without=nothing)
        assert all(torch.equal(edges[relation], graph.data[relation].edge_index) for relation in graph.relations)


def test_a_concept_of_one_record_alone_is_invisible_without_it(tmp_path):
    corpus = corpus_of(
        tmp_path,
        [
            record("ann", "amp", 5, ("sound", 1), ("zeppelin", 1)),
            record("bob", "amp", 4, ("sound", 1)),
            record("ann", "bag", 4, ("sound", 1)),
        ],
    )
    graph, planted = build_graph(corpus, GraphConfig()), corpus.concepts.index("zeppelin")

    def visible(edges):
        return any(
            planted in index[side].tolist()
            for (source, _, target), index in edges.items()
            for side, kind in ((0, source), (1, target))
            if kind == "concept"
        )

    assert visible(graph.edges())
    assert visible(graph.edges(without=[1]))
    assert not visible(graph.edges(without=[0]))


def test_an_edge_of_two_records_stays_until_both_are_left_out(five_nodes):
    graph = build_graph(five_nodes, GraphConfig())
    likes = ("user", "likes", "concept")
    assert pairs(graph.edges(without=[0])[likes]) == [(0, 0)]
    assert pairs(graph.edges(without=[2])[likes]) == [(0, 0)]
    assert pairs(graph.edges(without=[0, 2])[likes]) == []


def test_train_records_are_dealt_evenly_to_folds_and_all_others_are_in_fold_zero(tmp_path):
    corpus = random_corpus(tmp_path)
    fold_R = fold_of_records(corpus, GraphConfig(folds=4), seed=1)
    counts = np.bincount(fold_R[corpus.rows("train")], minlength=5)
    assert counts[0] == 0
    assert counts[1:].max() - counts[1:].min() <= 1
    assert set(fold_R[np.concatenate([corpus.rows("valid"), corpus.rows("test")])].tolist()) == {0}


def test_folds_are_drawn_by_the_seed(tmp_path):
    corpus, config = random_corpus(tmp_path), GraphConfig(folds=4)
    first = fold_of_records(corpus, config, seed=1)
    assert first.tolist() == fold_of_records(corpus, config, seed=1).tolist()
    assert first.tolist() != fold_of_records(corpus, config, seed=2).tolist()


def test_without_leave_one_out_every_record_is_in_fold_zero(tmp_path):
    assert not fold_of_records(random_corpus(tmp_path), GraphConfig(leave_one_out=False), seed=1).any()


@pytest.mark.parametrize(
    ("key", "value"), [("relations", "both"), ("candidate_source", "magic"), ("folds", 1), ("candidates", 0)]
)
def test_a_bad_value_is_refused_by_its_key(key, value):
    with pytest.raises(InputError, match=rf"graph\.{key}={value}"):
        GraphConfig(**{key: value})


def test_no_train_record_is_refused(tmp_path):
    corpus = random_corpus(tmp_path)
    with pytest.raises(InputError, match="no train record"):
        build_graph(corpus, GraphConfig(), records=[])
