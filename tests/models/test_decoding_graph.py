"""What a CUDA graph needs of a step; the step itself: tests/models/test_generation.py, on a GPU: tests/gpu."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from models.decoding_graph import DecodingGraph, Work
from models.language_model import PLAIN_FAMILIES, attends_plainly
from models.sampling import Limits, Sampling

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


def model(family):
    config = AutoConfig.for_model(family, vocab_size=300, num_key_value_heads=2, **SIZES)
    return AutoModelForCausalLM.from_config(config).eval()


def begun(lm, greedy=False, prompts=2, length=3):
    graph = DecodingGraph(lm, Work(4, 8, 4, Limits(5, 1, 0), greedy, None))
    give(graph, prompts, length)
    return graph


def give(graph, prompts, length):
    mask_QP = torch.ones(prompts, length, dtype=torch.long)
    uniform_BT = None if graph.work.greedy else torch.full((prompts, 5), 0.9)
    graph.begin(torch.ones(prompts, length, 16), mask_QP, torch.arange(prompts), uniform_BT)


@pytest.mark.parametrize("family", sorted(PLAIN_FAMILIES))
@pytest.mark.parametrize("sampling", [None, Sampling(top_k=50, top_p=0.9)])
@pytest.mark.parametrize("greedy", [True, False])
@torch.no_grad()
def test_a_step_never_asks_for_a_number(family, sampling, greedy):
    """Fake tensors have shapes and no numbers: any `item`, `nonzero` or branch on a value would fail."""
    with FakeTensorMode():
        lm = model(family)
        graph = DecodingGraph(lm, Work(4, 8, 4, Limits(5, 1, 0), greedy, sampling))
        give(graph, 2, 3)
        graph.read_prompts(lm)
        graph.read_token(lm)


def test_rotations_that_look_at_the_length_are_not_recorded():
    assert attends_plainly(AutoConfig.for_model("llama"))
    stretched = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert not attends_plainly(AutoConfig.for_model("llama", rope_parameters=stretched))


def test_fake_tensors_do_refuse_numbers():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(3).sum().item()


def held(graph):
    """All that outlives a step."""
    layers = [part for cache in (graph.prompt_cache, graph.cache) for layer in cache.layers for part in layer_of(layer)]
    return [value for value in vars(graph).values() if isinstance(value, torch.Tensor)] + layers


def layer_of(layer):
    return layer.keys, layer.values


@torch.no_grad()
def test_all_that_a_step_changes_stays_where_it_is():
    """Else a replay would go on with what the recording left behind."""
    lm = model("llama")
    graph = begun(lm)
    graph.read_prompts(lm)
    first = held(graph)
    before = [part.clone() for part in first]
    graph.read_token(lm)
    assert all(one is other for one, other in zip(first, held(graph), strict=True))
    assert sum(not torch.equal(was, now) for was, now in zip(before, first, strict=True)) > 4
    assert (int(graph.place_1), int(graph.step_1)) == (9, 2)
    assert graph.position_R1.flatten().tolist() == [4, 4, 1 + 3, 1 + 3]  # padding goes on with the first prompt


@torch.no_grad()
def test_a_token_s_head_is_that_of_the_weights_as_they_are_when_its_batch_begins():
    """300 words are padded to 320: the copy must not be that of the recording's first batch."""
    lm = model("llama")
    graph = begun(lm)
    graph.read_prompts(lm)
    for parameter in lm.parameters():
        parameter.mul_(1.5)
    give(graph, 2, 3)
    fresh = begun(lm)
    for one in (graph, fresh):
        one.read_prompts(lm)
        one.read_token(lm)
    assert graph.head[0].shape == (320, 16)
    for mine, theirs in zip(vars(graph.made).values(), vars(fresh.made).values(), strict=True):
        assert torch.equal(mine, theirs)


@torch.no_grad()
def test_a_second_batch_finds_nothing_of_the_first():
    lm = model("gpt2")
    graph, fresh = begun(lm, prompts=4, length=8), begun(lm, prompts=1, length=2)
    for step in (graph.read_prompts, graph.read_token, graph.read_token):
        step(lm)
    give(graph, 1, 2)
    for one in (graph, fresh):
        one.read_prompts(lm)
        one.read_token(lm)
    for mine, theirs in zip(vars(graph.made).values(), vars(fresh.made).values(), strict=True):
        assert torch.equal(mine, theirs)
    assert graph.made.mask_BT[1:].sum() == 0
