"""Neighbour sampling: equal to the full graph where all in-edges are taken, bounded and unbiased where not."""

from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.graph import GraphConfig, build_graph
from datamodules.importers.embedded import write_embedded
from datamodules.sampling import NeighborSampler, _InEdges
from models.hgt import HGTConfig, RatingModel


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_embedded(60, 25, 3, tmp_path_factory.mktemp("sampling") / "corpus")


@pytest.fixture(scope="module", params=["typed", "plain"])
def graph(corpus, request):
    return build_graph(corpus, GraphConfig(relations=request.param))


def pairs_of(corpus, number):
    rows = corpus.rows("train")[:number]
    return rows, corpus.user_R[rows].astype(np.int64), corpus.item_R[rows].astype(np.int64)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_ratings_equal_those_on_the_full_graph_where_all_neighbours_are_taken(corpus, graph, layers):
    torch.manual_seed(0)
    config = HGTConfig(width=16, heads=2, layers=layers, id_embeddings=True, mlp_width=16)
    model = RatingModel(graph.node_counts, graph.relations, config, 3.0).eval()
    rows, users, items = pairs_of(corpus, 32)
    full = model.rate(model.encode(graph.edges(rows)), torch.from_numpy(users), torch.from_numpy(items))
    found = NeighborSampler(graph, layers, 0, 7).sample(users, items, rows)
    sampled = model.rate(model.encode(found.edges, found.nodes), found.user_B, found.item_B)
    torch.testing.assert_close(sampled, full, atol=1e-5, rtol=1e-5)
    seen = NeighborSampler(graph, layers, 0, 7).sample(users, items, rows[:0])
    leaky = model.rate(model.encode(seen.edges, seen.nodes), seen.user_B, seen.item_B)
    assert (leaky - full).abs().max() > 1e-3  # the records' own edges do make a difference


def test_gradients_equal_those_on_the_full_graph(corpus, graph):
    torch.manual_seed(0)
    model = RatingModel(graph.node_counts, graph.relations, HGTConfig(width=8, heads=2, layers=2, dropout=0.0), 3.0)
    rows, users, items = pairs_of(corpus, 16)
    model.rate(model.encode(graph.edges(rows)), torch.from_numpy(users), torch.from_numpy(items)).sum().backward()
    full = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = NeighborSampler(graph, 2, 0, 7).sample(users, items, rows)
    model.rate(model.encode(found.edges, found.nodes), found.user_B, found.item_B).sum().backward()
    for name, parameter in model.named_parameters():
        if name in full:
            torch.testing.assert_close(parameter.grad, full[name], atol=1e-4, rtol=1e-4, msg=name)


def test_no_node_gets_more_in_edges_of_a_relation_than_asked_for_and_all_are_edges_of_the_graph(corpus, graph):
    rows, users, items = pairs_of(corpus, 20)
    found = NeighborSampler(graph, 2, 3, 7).sample(users, items, rows)
    left = graph.edges(rows)
    for relation, index in found.edges.items():
        assert max(Counter(index[1].tolist()).values(), default=0) <= 3
        ends = found.nodes[relation[0]][index[0]].tolist(), found.nodes[relation[2]][index[1]].tolist()
        drawn = list(zip(*ends, strict=True))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(map(tuple, left[relation].T.tolist()))
    assert found.nodes["user"][found.user_B].tolist() == users.tolist()
    assert found.nodes["item"][found.item_B].tolist() == items.tolist()


def test_every_in_edge_is_drawn_as_often_as_any_other(corpus):
    graph = build_graph(corpus, GraphConfig(relations="plain"))
    edges = _InEdges(graph, ("concept", "of", "item"))
    item = int(np.argmax(np.diff(edges.start_T)))
    degree = int(np.diff(edges.start_T)[item])
    assert degree > 9
    rng, draws = np.random.default_rng(0), 4000
    drawn = Counter(place for _ in range(draws) for place in edges.draw(np.array([item]), 4, rng).tolist())
    expected = draws * 4 / degree
    assert len(drawn) == degree
    assert max(abs(count - expected) for count in drawn.values()) < 5 * expected**0.5


def test_the_same_batch_draws_the_same_and_another_seed_another(corpus, graph):
    rows, users, items = pairs_of(corpus, 20)
    one, same, other = (NeighborSampler(graph, 2, 2, seed).sample(users, items, rows) for seed in (1, 1, 2))
    assert all(one.edges[relation].equal(same.edges[relation]) for relation in one.edges)
    assert not all(one.edges[relation].equal(other.edges[relation]) for relation in one.edges)


@pytest.mark.parametrize("most", [1, 40, 10**6])
@pytest.mark.parametrize("layers", [1, 3])
def test_reading_the_graph_by_parts_gives_the_states_and_attention_of_the_whole(corpus, graph, layers, most):
    torch.manual_seed(0)
    config = HGTConfig(width=16, heads=2, layers=layers, id_embeddings=True, mlp_width=16)
    more = {kind: count + 3 for kind, count in graph.node_counts.items()}  # the last ones are without an edge
    model = RatingModel(more, graph.relations, config, 3.0).eval()
    edges = graph.edges(corpus.rows("train")[:50])
    with torch.no_grad():
        states, attention = model.encode(edges), model.attention(edges)
    parted_states, parted_attention = model.encode_by_parts(edges, most)
    for kind in more:
        torch.testing.assert_close(parted_states[kind], states[kind], atol=1e-5, rtol=1e-5)
    for name in edges:
        torch.testing.assert_close(parted_attention[name], attention[name], atol=1e-6, rtol=1e-5)
