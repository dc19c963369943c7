"""Decoding by a recorded step against the loop that launches every kernel, on a GPU."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from models import decoding_graph, generation
from models.generation import generate
from models.language_model import PLAIN_FAMILIES
from models.sampling import Sampling, uniforms

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
VOCABULARY, END, FILL, LENGTH, WIDTH = 300, 2, 0, 12, 64
SIZES = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def exact_products():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(params=sorted(PLAIN_FAMILIES))
def lm(request):
    """Random, with weights large enough that texts differ and some of them end."""
    config = AutoConfig.for_model(request.param, vocab_size=VOCABULARY, num_key_value_heads=2, **SIZES)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).cuda().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def prompts(count, width=9):
    lengths = [2 + row % (width - 1) for row in range(count)]
    mask_BP = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device="cuda")
    draw = torch.Generator("cuda").manual_seed(count)
    return torch.randn(count, width, WIDTH, generator=draw, device="cuda"), mask_BP


def both_ways(monkeypatch, lm, count, greedy=False, end=END, sampling=None, seed=1):
    uniform_BT = None if greedy else uniforms(seed, 0, list(range(count)), LENGTH)
    given = (lm, *prompts(count), end, FILL, LENGTH, uniform_BT, None, sampling)
    recorded = generate(*given)
    with monkeypatch.context() as patch:
        patch.setattr(generation, "fits_a_graph", lambda lm: False)
        return recorded, generate(*given)


def assert_same(one, other):
    assert torch.equal(one.response_BT, other.response_BT)
    assert torch.equal(one.mask_BT, other.mask_BT)
    torch.testing.assert_close(one.log_prob_BT, other.log_prob_BT, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.hidden_BTW, other.hidden_BTW, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("greedy", [True, False])
def test_a_recorded_step_says_what_the_loop_says(monkeypatch, lm, greedy):
    assert generation.fits_a_graph(lm)
    assert_same(*both_ways(monkeypatch, lm, 70, greedy))
    assert len(decoding_graph._GRAPHS[lm]) == 1


def test_top_k_and_top_p(monkeypatch, lm):
    assert_same(*both_ways(monkeypatch, lm, 20, sampling=Sampling(30, 0.9)))


def test_batches_of_like_size_share_a_recording(monkeypatch, lm):
    for count, seed in ((20, 1), (32, 2), (1, 3), (20, 4)):
        assert_same(*both_ways(monkeypatch, lm, count, seed=seed))
    assert len(decoding_graph._GRAPHS[lm]) == 1


def test_prompts_with_several_samples_are_read_once(monkeypatch, lm):
    rows = torch.tensor([0, 0, 0, 1, 2, 2], device="cuda")
    uniform_BT = uniforms(1, 0, rows.tolist(), LENGTH, [0, 1, 2, 0, 0, 1])
    given = (lm, *prompts(3), END, FILL, LENGTH, uniform_BT, rows)
    recorded = generate(*given)
    monkeypatch.setattr(generation, "fits_a_graph", lambda lm: False)
    assert_same(recorded, generate(*given))


def test_weights_that_learn_in_place_are_those_that_are_read(monkeypatch, lm):
    before, _ = both_ways(monkeypatch, lm, 20)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.2)
    after, loop = both_ways(monkeypatch, lm, 20)
    assert_same(after, loop)
    assert not torch.equal(before.response_BT, after.response_BT)
    assert len(decoding_graph._GRAPHS[lm]) == 1


def test_weights_that_move_are_recorded_anew(monkeypatch, lm):
    both_ways(monkeypatch, lm, 20)
    for parameter in lm.parameters():
        parameter.data = parameter.data.clone() * 1.2
    assert_same(*both_ways(monkeypatch, lm, 20))
    assert len(decoding_graph._GRAPHS[lm]) == 2


def test_where_all_rows_have_ended_the_rest_is_fill(monkeypatch, lm):
    first = generate(lm, *prompts(1), END, FILL, 1, None).response_BT.item()
    recorded, loop = both_ways(monkeypatch, lm, 1, greedy=True, end=first)
    assert_same(recorded, loop)
    assert recorded.response_BT.tolist() == [[first] + [FILL] * (LENGTH - 1)]


def test_deterministic_mode_is_as_it_was(lm):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        generate(lm, *prompts(3), END, FILL, LENGTH, None)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_recording_goes_with_its_model(monkeypatch):
    config = AutoConfig.for_model("gpt2", vocab_size=VOCABULARY, **SIZES)
    model = AutoModelForCausalLM.from_config(config).cuda().eval()
    generate(model, *prompts(3), END, FILL, LENGTH, None)
    count = len(decoding_graph._GRAPHS)
    del model
    assert len(decoding_graph._GRAPHS) == count - 1
