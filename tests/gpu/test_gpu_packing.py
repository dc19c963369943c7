"""Packed reading with its real kernel against reading padded, on a GPU in bfloat16 and on a CPU in float32."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from models import reading
from models.explainer import Explainer
from models.language_model import PLAIN_FAMILIES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
VOCABULARY, WIDTH = 300, 128
SIZES = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}


def explainer(family):
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, num_key_value_heads=2, **SIZES)
    torch.manual_seed(3)
    return Explainer(AutoModelForCausalLM.from_config(config), 4).eval()


def batch(device, dtype):
    draw = torch.Generator().manual_seed(0)
    prompts, answers = [3 + row % 9 for row in range(40)], [(7 * row) % 20 for row in range(40)]
    prompt_mask = torch.tensor([[0] * (max(prompts) - n) + [1] * n for n in prompts])
    mask = torch.tensor([[1] * n + [0] * (max(answers) - n) for n in answers])
    prompt = 0.1 * torch.randn(*prompt_mask.shape, WIDTH, generator=draw)
    answer = torch.randint(VOCABULARY, mask.shape, generator=draw)
    return prompt.to(device, dtype), prompt_mask.to(device), answer.to(device), mask.to(device)


def read(model, device, dtype):
    model = model.to(device, dtype)
    model.zero_grad()
    reading_ = model(*batch(device, dtype), parts=2)
    reading_.log_prob_BT.sum().backward()
    names = [name for name, p in model.named_parameters() if p.grad is not None and p.dim() > 1]
    gradients = torch.cat([model.get_parameter(name).grad.flatten().float().cpu() for name in names])
    return reading_.log_prob_BT.detach().float().cpu(), gradients


@pytest.mark.parametrize("family", sorted(PLAIN_FAMILIES))
def test_packed_padded_and_exact_agree(monkeypatch, family):
    model = explainer(family)
    exact, exact_gradients = read(copy.deepcopy(model), "cpu", torch.float32)
    calls = []
    inner = reading._packed
    monkeypatch.setattr(reading, "_packed", lambda *args: calls.append(1) or inner(*args))
    packed, packed_gradients = read(copy.deepcopy(model), "cuda", torch.bfloat16)
    assert calls == [1]
    monkeypatch.setattr(reading, "packs_by_kernel", lambda *args: False)
    padded, padded_gradients = read(copy.deepcopy(model), "cuda", torch.bfloat16)
    assert calls == [1]
    # bfloat16 itself errs; packing must not err more
    assert (packed - exact).abs().mean() < 1.5 * (padded - exact).abs().mean() + 1e-3
    errors = [(g - exact_gradients).norm() / exact_gradients.norm() for g in (packed_gradients, padded_gradients)]
    assert errors[0] < 1.5 * errors[1] + 1e-3
    assert errors[0] < 0.05


def test_two_backward_passes_give_the_same_gradients():
    torch.use_deterministic_algorithms(True)
    try:
        model = explainer("llama")
        once, again = (read(model, "cuda", torch.bfloat16)[1] for _ in range(2))
        assert torch.equal(once, again)
    finally:
        torch.use_deterministic_algorithms(False)
