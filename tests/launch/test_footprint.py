"""Predicted memory against what autograd keeps, and predicted arithmetic against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from launch.footprint import Shape, activation_bytes, reading_flops, reducing_bytes, state_bytes
from models.explainer import Explainer
from models.kernels import with_faster_kernels
from models.language_model import LoraConfig, with_adapters

ROWS, PROMPT, NEW, VOCABULARY = 8, 24, 16, 2000


def gpt2():
    return with_faster_kernels(GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=128, n_layer=3, n_head=4)))


def llama():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3}
    return with_faster_kernels(LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)))


def read(explainer, shorter=0):
    """The last rows have fewer prompt tokens than those before, each `shorter` less."""
    ids, ones = torch.ones(ROWS, PROMPT, dtype=torch.long), torch.ones(ROWS, NEW, dtype=torch.long)
    mask = (torch.arange(PROMPT) >= shorter * torch.arange(ROWS)[:, None]).long()
    return explainer(explainer.lm.get_input_embeddings()(ids), mask, ones, ones)


@pytest.mark.parametrize("shorter", [0, 2])
@pytest.mark.parametrize("family", [gpt2, llama])
def test_activations_are_what_autograd_keeps(family, shorter, monkeypatch):
    monkeypatch.setattr("models.reading.FEW", 0)  # no padding
    explainer, kept = Explainer(family(), 4).eval(), {}
    weights = {p.untyped_storage().data_ptr() for p in explainer.parameters()}
    alive = []  # else an address may be used twice

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        reading = read(explainer, shorter)
    assert reading.log_prob_BT.requires_grad
    tokens = ROWS * (PROMPT + NEW) - shorter * sum(range(ROWS))
    predicted = activation_bytes(Shape.of(explainer.lm), tokens, ROWS * NEW, bf16=False)
    assert predicted == pytest.approx(sum(kept.values()), rel=0.15)


def one_dnn(inputs, weight, *rest, **more):
    return 2 * inputs[0] * inputs[1] * weight[0]  # torch's counter does not know this product


COUNTED = {torch.ops.mkldnn._linear_pointwise: one_dnn}


@pytest.mark.parametrize("family", [gpt2, llama])
def test_arithmetic_is_what_torch_counts(family):
    explainer = Explainer(family(), 4).eval()
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as forward:
        reading = read(explainer)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as backward:
        reading.log_prob_BT.sum().backward()
    shape = Shape.of(explainer.lm)
    counted = forward.get_total_flops()
    assert reading_flops(shape, ROWS * (PROMPT + NEW), ROWS * NEW, False) == pytest.approx(counted, rel=0.05)
    counted += backward.get_total_flops()
    assert reading_flops(shape, ROWS * (PROMPT + NEW), ROWS * NEW, True) == pytest.approx(counted, rel=0.05)


def test_adapters_and_a_tied_head_are_no_blocks():
    plain, tuned = gpt2(), with_adapters(gpt2(), LoraConfig(rank=2))
    blocks = 3 * (12 * 128**2 + 13 * 128) + 2 * 128  # four products with biases and two norms a layer; the last norm
    assert Shape.of(plain).blocks == Shape.of(tuned).blocks == blocks


@pytest.mark.parametrize(
    ("stage", "accumulate", "expected"),
    [
        (0, 1, 4 + 4 + 8),
        (1, 1, 4 + 4 / 4 + 12 / 4),
        (1, 2, 4 + 4 + 12 / 4),  # gradients of several micro-batches are added up whole
        (2, 2, 4 + 4 / 4 + 12 / 4),
        (3, 1, 4 / 4 + 4 / 4 + 12 / 4),
    ],
)
def test_states_on_four_ranks_by_hand(stage, accumulate, expected):
    assert state_bytes(1000, 1000, stage, 4, bf16=False, accumulate=accumulate) == 1000 * expected


@pytest.mark.parametrize(
    ("stage", "accumulate", "bucket", "gpu", "expected"),
    [
        (0, 1, 100, False, 1000),  # a copy of all
        (1, 2, 100, False, 2 * 100 + 100 - 25),  # two buckets and a copy, less this rank's quarter of the last one
        (2, 2, 100, False, 2 * 100 + 100 - 25 + 250),  # and the quarter of an earlier micro-batch
        (2, 1, 5000, False, 1000 + 1000 - 250),  # one bucket holds all, and is filled as far as that
        (2, 1, 5000, True, 2 * 5000 + 1000 - 250),
        (3, 1, 100, False, 100 + 3000),  # all parameters, frozen ones too, are gathered
        (3, 1, 5000, True, 5000 + 3000),
    ],
)
def test_what_reducing_takes_on_four_ranks_by_hand(stage, accumulate, bucket, gpu, expected):
    found = reducing_bytes(1000, 3000, stage, 4, True, accumulate, bucket, gpu)
    assert found == 2 * expected
