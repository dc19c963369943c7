"""Users and items that train does not know: their concepts speak for them, and nobody else changes."""

import pytest
import torch

from datamodules.candidates import CandidateFinder
from datamodules.evidence import _with_new_states
from datamodules.graph import GraphConfig, build_graph, with_new_nodes
from datamodules.importers.embedded import write_embedded
from launch.explain import Pair, cold_nodes
from metrics.errors import InputError
from models.hgt import HGTConfig, RatingModel


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_embedded(50, 20, 4, tmp_path_factory.mktemp("cold") / "corpus")


@pytest.fixture(params=["typed", "plain"])
def extended(corpus, request):
    """(graph, graph with a user and an item more, its finder, states before, states after)."""
    torch.manual_seed(0)
    graph = build_graph(corpus, GraphConfig(relations=request.param))
    config = HGTConfig(width=16, heads=2, layers=2, id_embeddings=True)
    model = RatingModel(graph.node_counts, graph.relations, config, 3.0).eval()
    before = model.encode(graph.edges())
    users, items = len(corpus.users), len(corpus.items)
    counts = graph.node_counts | {"user": users + 1, "item": items + 1}
    more = with_new_nodes(graph, {"user": {users: [0, 3]}, "item": {items: [3]}}, counts)
    model.add_nodes(counts)
    after = model.encode(more.edges())
    finder = CandidateFinder(more.edges(), model.attention(more.edges()), more.node_counts)
    return graph, more, finder, before, after


def test_the_states_of_all_others_stay_what_they_were(extended):
    graph, _, _, before, after = extended
    for kind, number in graph.node_counts.items():
        torch.testing.assert_close(after[kind][:number], before[kind])


def test_a_newcomer_differs_from_one_without_concepts_and_shares_concepts_with_an_item(extended, corpus):
    graph, _, finder, _, after = extended
    user, item = len(corpus.users), len(corpus.items)
    counts = graph.node_counts | {"user": user + 1, "item": item + 1}
    torch.manual_seed(0)
    config = HGTConfig(width=16, heads=2, layers=2, id_embeddings=True)
    model = RatingModel(graph.node_counts, graph.relations, config, 3.0).eval()
    model.add_nodes(counts)
    silent = model.encode(with_new_nodes(graph, {"user": {user: []}, "item": {item: []}}, counts).edges())
    assert (silent["user"][user] - after["user"][user]).abs().max() > 1e-3
    (best, *_) = finder.find(user, item, 1, 3)
    assert (best.concept, best.kind) == (3, 0)


def test_leave_one_out_keeps_the_edges_of_newcomers(extended, corpus):
    graph, more, _, _, _ = extended
    without = more.edges(corpus.rows("train")[:50])
    left = graph.edges(corpus.rows("train")[:50])
    added = sum(without[r].shape[1] - left[r].shape[1] for r in graph.relations)
    assert added == 3


def test_a_new_embedding_is_the_mean_of_those_of_its_kind():
    model = RatingModel(
        {"user": 3, "item": 2, "concept": 2}, [("concept", "of", "item")], HGTConfig(width=8, heads=2), 3
    )
    model.embeddings["user"].weight.data.copy_(torch.arange(24.0).reshape(3, 8))
    model.add_nodes({"user": 5, "item": 2, "concept": 2})
    assert model.embeddings["user"].weight[3:].tolist() == [list(range(8, 16))] * 2
    assert model.embeddings["item"].num_embeddings == 2


def test_states_of_newcomers_stand_behind_the_known_ones_in_every_fold():
    old, fresh = torch.zeros(3, 2, 4), torch.ones(1, 3, 4)
    states = _with_new_states(old, fresh, [2])
    assert states.shape == (3, 3, 4)
    assert states[:, :2].eq(0).all()
    assert states[:, 2].eq(1).all()


def test_concepts_come_from_what_is_told_and_from_the_title(corpus):
    first, second = corpus.concepts[:2]
    pairs = [
        Pair("newcomer", "novelty", (first.upper(),), (), f"A {second} of its own!"),
        Pair("newcomer", corpus.items[0], (second,)),
        Pair(corpus.users[0], "novelty"),
    ]
    users, items = cold_nodes(corpus, pairs, "user"), cold_nodes(corpus, pairs, "item")
    assert users.concepts == {len(corpus.users): [0, 1]}
    assert items.concepts == {len(corpus.items): [1]}
    assert (users.names[-1], items.names[-1]) == ("newcomer", "novelty")


def test_a_concept_that_the_corpus_lacks_is_named_with_those_near(corpus):
    wrong = corpus.concepts[0][:-1] + "x"
    with pytest.raises(InputError, match=f"{wrong}.*near are .*{corpus.concepts[0]}"):
        cold_nodes(corpus, [Pair("newcomer", corpus.items[0], (wrong,))], "user")
