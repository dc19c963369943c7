"""The graph transformer, against loops over single edges written from the formulas (methods A.5.2) and against PyG."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch_geometric.nn import HGTConv

from metrics.errors import InputError
from models.hgt import HGTConfig, RatingModel, ReadableHGTConv
from models.sparse_attention import RUN, sums_by_runs

COUNTS = {"user": 4, "item": 3, "concept": 5}
RELATIONS = [
    ("user", "rated", "item"),
    ("item", "rated_by", "user"),
    ("user", "likes", "concept"),
    ("concept", "liked_by", "user"),
    ("user", "dislikes", "concept"),
    ("concept", "disliked_by", "user"),
    ("item", "has", "concept"),
    ("concept", "of", "item"),
]
D, H = 8, 2


def random_edges(seed=0, share=0.5):
    """A random graph in which one relation is empty and user 3 has no edges at all."""
    draw = torch.Generator().manual_seed(seed)
    edges = {}
    for source, name, target in RELATIONS:
        index = (torch.rand(COUNTS[source], COUNTS[target], generator=draw) < share).nonzero().T
        lonely = (index[0] == 3) & (source == "user") | (index[1] == 3) & (target == "user")
        edges[source, name, target] = index[:, ~lonely]
    edges["user", "dislikes", "concept"] = torch.zeros(2, 0, dtype=torch.long)
    return edges


def random_layer(kind=ReadableHGTConv, seed=1):
    torch.manual_seed(seed)
    layer = kind(D, D, (list(COUNTS), RELATIONS), H)
    for parameter in layer.parameters():  # else mu and skip would all be 1
        torch.nn.init.normal_(parameter, std=0.7)
    return layer


def random_states(seed=2):
    draw = torch.Generator().manual_seed(seed)
    return {kind: torch.randn(n, D, generator=draw) for kind, n in COUNTS.items()}


def slow_layer(layer, states, edges):
    """(new states, attention [E, H] by relation), one edge and one head at a time."""
    width = D // H
    keys, queries, values = {}, {}, {}
    for kind, state_ND in states.items():
        linear = layer.kqv_lin.lins[kind]
        kqv = state_ND @ linear.weight.T + linear.bias
        keys[kind], queries[kind], values[kind] = (kqv[:, i * D : (i + 1) * D] for i in range(3))
    scores, messages = {}, {}
    for number, relation in enumerate(RELATIONS):
        source, _, target = relation
        prior = layer.p_rel["__".join(relation)][0]
        for edge, (s, t) in enumerate(edges[relation].T.tolist()):
            for h in range(H):
                part = slice(h * width, (h + 1) * width)
                attend = layer.k_rel.weight[h * len(RELATIONS) + number]
                transform = layer.v_rel.weight[h * len(RELATIONS) + number]
                score = (keys[source][s, part] @ attend) @ queries[target][t, part]
                scores[relation, edge, h] = score * prior[h] / math.sqrt(width)
                messages[relation, edge, h] = values[source][s, part] @ transform
    attention = {relation: torch.zeros(edges[relation].shape[1], H) for relation in RELATIONS}
    result = {kind: torch.zeros(n, D) for kind, n in COUNTS.items()}
    for kind, count in COUNTS.items():
        for node in range(count):
            into = [
                (relation, edge)
                for relation in RELATIONS
                if relation[2] == kind
                for edge, t in enumerate(edges[relation][1].tolist())
                if t == node
            ]
            gathered_D = torch.zeros(D)
            for h in range(H):
                total = sum(math.exp(scores[relation, edge, h]) for relation, edge in into)
                for relation, edge in into:
                    alpha = math.exp(scores[relation, edge, h]) / total
                    attention[relation][edge, h] = alpha
                    gathered_D[h * width : (h + 1) * width] += alpha * messages[relation, edge, h]
            linear, gate = layer.out_lin.lins[kind], torch.sigmoid(layer.skip[kind])
            new_D = F.gelu(gathered_D) @ linear.weight.T + linear.bias
            result[kind][node] = gate * new_D + (1 - gate) * states[kind][node]
    return result, attention


@torch.no_grad()
def test_a_layer_is_the_formula_edge_by_edge():
    layer, states, edges = random_layer(), random_states(), random_edges()
    expected, attention = slow_layer(layer, states, edges)
    got = layer(states, edges)
    for kind in COUNTS:
        torch.testing.assert_close(got[kind], expected[kind], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.attention_EH, torch.cat([attention[r] for r in RELATIONS]), atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_layer_is_pygs_with_the_same_weights():
    ours, theirs = random_layer(), random_layer(HGTConv, seed=5)
    theirs.load_state_dict(ours.state_dict())
    states, edges = random_states(), random_edges(3)
    expected = theirs(states, edges)
    for kind, state_ND in ours(states, edges).items():
        torch.testing.assert_close(state_ND, expected[kind], atol=1e-6, rtol=1e-5)


def test_a_layer_has_pygs_gradients():
    ours, theirs = random_layer(), random_layer(HGTConv, seed=5)
    theirs.load_state_dict(ours.state_dict())
    states, edges = random_states(), random_edges(3)
    for layer in (ours, theirs):
        sum(state_ND.square().sum() for state_ND in layer(states, edges).values()).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-4)


def test_several_edges_between_the_same_two_nodes_count_each():
    ours, theirs = random_layer(), random_layer(HGTConv, seed=5)
    theirs.load_state_dict(ours.state_dict())
    states = random_states()
    edges = {relation: torch.cat([index, index[:, :2]], dim=1) for relation, index in random_edges(3).items()}
    for layer in (ours, theirs):
        sum(state_ND.square().sum() for state_ND in layer(states, edges).values()).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [[0], [3, 0, 1], [5, 3 * RUN + 7, 0, 0, RUN, 2 * RUN, 1]])
def test_sums_by_runs_as_a_gpu_takes_them_are_sums(sizes):
    value_EW = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(0))
    start_N1 = torch.tensor([0, *sizes]).cumsum(0)
    expected_NW = torch.stack([part_EW.sum(0) for part_EW in value_EW.split(sizes)])
    torch.testing.assert_close(sums_by_runs(value_EW, start_N1), expected_NW, atol=1e-4, rtol=1e-4)


def test_a_graph_without_edges_leaves_states_of_their_own():
    layer, states = random_layer(), random_states()
    edges = {relation: torch.zeros(2, 0, dtype=torch.long) for relation in RELATIONS}
    new = layer(states, edges)
    for kind, state_ND in states.items():
        gate = torch.sigmoid(layer.skip[kind])
        torch.testing.assert_close(new[kind], gate * layer.out_lin.lins[kind].bias + (1 - gate) * state_ND)
    sum(state_ND.sum() for state_ND in new.values()).backward()


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_scores_of_any_size_stay_finite(scale):
    """exp(score) of the largest would overflow."""
    layer, states = random_layer(), {kind: state_ND * scale for kind, state_ND in random_states().items()}
    new = layer(states, random_edges())
    assert all(torch.isfinite(state_ND).all() for state_ND in new.values())


def rating_model(seed=0, **options):
    torch.manual_seed(seed)
    config = HGTConfig(**{"width": D, "heads": H, "mlp_width": 12} | options)
    return RatingModel(COUNTS, RELATIONS, config, mean_rating=3.7)


@torch.no_grad()
def test_attention_sums_to_one_over_the_edges_into_each_node_of_all_relations_together():
    model, edges = rating_model().eval(), random_edges()
    model.encode(edges)
    attention = model.attention(edges)
    totals = {kind: torch.zeros(n) for kind, n in COUNTS.items()}
    degrees = {kind: torch.zeros(n) for kind, n in COUNTS.items()}
    for relation, index in edges.items():
        totals[relation[2]].index_add_(0, index[1], attention[relation])
        degrees[relation[2]].index_add_(0, index[1], torch.ones(index.shape[1]))
    for kind in COUNTS:
        torch.testing.assert_close(totals[kind], (degrees[kind] > 0).float())
    assert totals["user"][3] == 0


@torch.no_grad()
def test_attention_is_that_of_the_last_layer_averaged_over_heads_by_relation():
    model, edges = rating_model(layers=2).eval(), random_edges()
    model.encode(edges)
    states = {kind: table.weight for kind, table in model.embeddings.items()}
    messages, _ = slow_layer(model.layers[0], states, edges)
    states = {kind: model.norms[0][kind](state_ND) for kind, state_ND in messages.items()}
    _, expected = slow_layer(model.layers[1], states, edges)
    got = model.attention(edges)
    assert list(got) == list(edges)
    for relation in RELATIONS:
        torch.testing.assert_close(got[relation], expected[relation].mean(1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_model_is_layers_with_norms_and_a_head_over_both_states():
    model, edges = rating_model(layers=2).eval(), random_edges(4)
    states = {kind: table.weight for kind, table in model.embeddings.items()}
    for layer, norms in zip(model.layers, model.norms, strict=True):
        messages, _ = slow_layer(layer, states, edges)
        states = {
            kind: F.layer_norm(state_ND, (D,), norms[kind].weight, norms[kind].bias)
            for kind, state_ND in messages.items()
        }
    encoded = model.encode(edges)
    for kind in COUNTS:
        torch.testing.assert_close(encoded[kind], states[kind], atol=1e-4, rtol=1e-3)
    users, items = torch.tensor([0, 3, 1]), torch.tensor([2, 0, 2])
    hidden = torch.cat([states["user"][users], states["item"][items]], dim=1)
    linear = [part for part in model.mlp if isinstance(part, torch.nn.Linear)]
    for part in linear[:-1]:
        hidden = F.relu(hidden @ part.weight.T + part.bias)
    expected_B = (hidden @ linear[-1].weight.T + linear[-1].bias)[:, 0]
    torch.testing.assert_close(model.rate(encoded, users, items), expected_B, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_an_edge_that_is_taken_away_is_as_if_it_had_never_been():
    model, edges = rating_model().eval(), random_edges()
    without = {relation: index[:, 1:] for relation, index in edges.items()}
    before = model.encode(without)
    model.encode(edges)
    after = model.encode(without)
    assert all(torch.equal(before[kind], after[kind]) for kind in COUNTS)


def test_users_and_items_have_no_vectors_of_their_own_unless_asked_for():
    for wanted in (False, True):
        tables = rating_model(id_embeddings=wanted).embeddings
        for kind in ("user", "item"):
            assert tables[kind].weight.requires_grad == wanted
            assert bool(tables[kind].weight.any()) == wanted
        assert tables["concept"].weight.requires_grad
        assert tables["concept"].weight.any()


def test_vectors_that_do_not_learn_stay_zero_in_training():
    model, edges = rating_model(), random_edges()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    loss = model.rate(model.encode(edges), torch.tensor([0, 1]), torch.tensor([0, 1])).square().sum()
    loss.backward()
    optimizer.step()
    assert not model.embeddings["user"].weight.any()
    assert not model.embeddings["item"].weight.any()


@torch.no_grad()
def test_ratings_begin_near_the_mean_of_train():
    model = rating_model().eval()
    users, items = torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4)
    ratings_B = model.rate(model.encode(random_edges()), users, items)
    assert ratings_B.shape == (12,)
    assert (ratings_B - 3.7).abs().max() < 1.5


def test_dropout_acts_in_training_only():
    model, edges = rating_model(dropout=0.5), random_edges()
    with torch.no_grad():
        one, other = (model.train().encode(edges)["user"] for _ in range(2))
        assert not torch.equal(one, other)
        one, other = (model.eval().encode(edges)["user"] for _ in range(2))
        assert torch.equal(one, other)


@torch.no_grad()
def test_dropout_spares_what_passes_a_layer_by():
    model = rating_model(dropout=1.0).train()
    states = {kind: torch.randn(count, D) for kind, count in COUNTS.items()}
    taken = []
    for norm in model.norms[0].values():
        norm.register_forward_hook(lambda module, inputs, output: taken.append(inputs[0]))
    model.dropout.eval()  # that of the first states
    for kind, state in states.items():
        model.embeddings[kind].weight.copy_(state)
    model.encode(random_edges())
    for (kind, state), seen in zip(states.items(), taken, strict=True):
        torch.testing.assert_close(seen, (1 - model.layers[0].skip[kind].sigmoid()) * state)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(InputError, match="width=10 is not a multiple of heads=4"):
        HGTConfig(width=10, heads=4)
