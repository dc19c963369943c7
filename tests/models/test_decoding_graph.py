"""What a CUDA graph needs of a step; the step itself: tests/models/test_generation.py, on a GPU: tests/gpu."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, Cache

from models.decoding_graph import DecodingGraph
from models.key_values import FixedLayer, new_cache, next_state
from models.language_model import PLAIN_FAMILIES
from models.sampling import Limits, Sampling

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


def model(family):
    config = AutoConfig.for_model(family, vocab_size=300, num_key_value_heads=2, **SIZES)
    return AutoModelForCausalLM.from_config(config).eval()


def begun(lm, greedy):
    mask_BP = torch.ones(2, 3, dtype=torch.long)
    cache, hidden = new_cache(lm, 8), torch.zeros(2, 3, 16)
    state_BW = next_state(lm, cache, mask_BP, mask_BP.cumsum(1) - 1, hidden)
    graph = DecodingGraph(cache, state_BW, (4, 8), Limits(5, 1, 0), greedy)
    graph.begin(cache, mask_BP, None if greedy else torch.full((2, 5), 0.9))
    return graph


@pytest.mark.parametrize("family", sorted(PLAIN_FAMILIES))
@pytest.mark.parametrize("sampling", [None, Sampling(top_k=50, top_p=0.9)])
@pytest.mark.parametrize("greedy", [True, False])
@torch.no_grad()
def test_a_step_never_asks_for_a_number(family, sampling, greedy):
    """Fake tensors have shapes and no numbers: any `item`, `nonzero` or branch on a value would fail."""
    with FakeTensorMode():
        lm = model(family)
        begun(lm, greedy).step(lm, sampling)


def test_fake_tensors_do_refuse_numbers():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(3).sum().item()


@torch.no_grad()
def test_all_that_a_step_changes_stays_where_it_is():
    """Else a replay would go on with what the recording left behind."""
    lm = model("llama")
    graph = begun(lm, False)
    held = [graph.place_1, graph.step_1, graph.position_R1, graph.token_R, graph.going_R, *vars(graph.made).values()]
    held += [part for layer in graph.cache.layers for part in (layer.keys, layer.values)]
    before = [part.clone() for part in held]
    graph.draw(lm, torch.randn(4, 16), None)
    graph.step(lm, None)
    after = [graph.place_1, graph.step_1, graph.position_R1, graph.token_R, graph.going_R, *vars(graph.made).values()]
    after += [part for layer in graph.cache.layers for part in (layer.keys, layer.values)]
    assert all(one is other for one, other in zip(held, after, strict=True))
    changed = [not torch.equal(was, now) for was, now in zip(before, after, strict=True)]
    assert changed[:4] == [True] * 4
    assert int(graph.place_1) == 4
    assert int(graph.step_1) == 2


@torch.no_grad()
def test_a_second_batch_finds_nothing_of_the_first():
    lm = model("gpt2")
    graph = begun(lm, True)
    graph.draw(lm, torch.randn(4, 16), None)
    graph.step(lm, None)
    mask_BP = torch.ones(1, 2, dtype=torch.long)
    cache = Cache(layers=[FixedLayer(1, 2, graph.place_1, layer) for layer in graph.cache.layers])
    graph.begin(cache, mask_BP, None)
    assert graph.going_R.tolist() == [True, False, False, False]
    assert graph.position_R1.flatten().tolist() == [2, 0, 0, 0]
    assert (int(graph.place_1), int(graph.step_1)) == (2, 0)
    assert graph.made.response_BT.eq(0).all()
    assert graph.made.mask_BT.sum() == 0
