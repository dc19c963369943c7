"""Log-probabilities and entropies against slow loops, and their gradients against autograd of the plain formulas."""

import math

import pytest
import torch

from models import log_probs
from models.log_probs import log_probs_and_entropy


def logits(n=5, vocabulary=7, dtype=torch.float32, scale=4.0):
    drawn = torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(0)) * scale
    return drawn.to(dtype).requires_grad_(True)


CHOSEN = torch.tensor([0, 6, 3, 3, 1])


@pytest.fixture(params=[False, True], ids=["cpu", "gpu"], autouse=True)
def as_on_a_gpu(request, monkeypatch):
    """The formulas that a GPU gets compiled, as they are; compiled and on a GPU: tests/gpu."""
    if request.param:
        monkeypatch.setattr(log_probs, "_summary", log_probs._summary_by_row)
        monkeypatch.setattr(log_probs, "_gradient", log_probs._gradient_by_entry)


@pytest.fixture(params=[1, 2, 10**6], ids=["row by row", "two rows", "at once"], autouse=True)
def block(request, monkeypatch):
    monkeypatch.setattr(log_probs, "BLOCK", {"cpu": request.param * 7})


def test_they_are_a_slow_loop_over_softmax():
    table = logits()
    log_prob_n, entropy_n = log_probs_and_entropy(table, CHOSEN)
    for row, chosen in enumerate(CHOSEN.tolist()):
        weights = [math.exp(z) for z in table[row].tolist()]
        shares = [weight / sum(weights) for weight in weights]
        assert log_prob_n[row].item() == pytest.approx(math.log(shares[chosen]), abs=1e-5)
        assert entropy_n[row].item() == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-5)


def test_the_entropy_of_equal_chances_is_the_logarithm_of_their_number_and_of_certainty_zero():
    assert log_probs_and_entropy(torch.zeros(1, 8), torch.tensor([0]))[1].item() == pytest.approx(math.log(8))
    certain = torch.tensor([[60.0, -60.0, -60.0]])
    assert log_probs_and_entropy(certain, torch.tensor([0]))[1].item() == pytest.approx(0, abs=1e-6)


def test_large_logits_do_not_overflow():
    log_prob_n, entropy_n = log_probs_and_entropy(torch.tensor([[1e4, 0.0], [0.0, -1e4]]), torch.tensor([0, 1]))
    assert log_prob_n.tolist() == [0, -1e4]
    assert entropy_n.tolist() == [0, 0]


@pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
def test_the_gradient_is_that_of_the_plain_formula(entropy_weight):
    weight_n = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0])
    table = logits()
    log_prob_n, entropy_n = log_probs_and_entropy(table * 1.0, CHOSEN, entropy_gradient=entropy_weight > 0)
    loss = (weight_n * log_prob_n).sum()
    (loss + entropy_weight * (weight_n * entropy_n).sum() if entropy_weight else loss).backward()
    plain = logits()
    log_p_nV = plain.log_softmax(-1)
    expected = (weight_n * log_p_nV.gather(1, CHOSEN[:, None])[:, 0]).sum()
    (expected - entropy_weight * (weight_n[:, None] * log_p_nV.exp() * log_p_nV).sum()).backward()
    torch.testing.assert_close(table.grad, plain.grad, atol=1e-5, rtol=1e-4)


def test_without_an_entropy_bonus_the_entropy_has_no_gradient():
    log_prob_n, entropy_n = log_probs_and_entropy(logits() * 1.0, CHOSEN)
    assert log_prob_n.requires_grad
    assert not entropy_n.requires_grad


def test_results_are_float32_and_the_gradient_has_the_type_of_the_logits():
    table = logits(dtype=torch.bfloat16)
    log_prob_n, entropy_n = log_probs_and_entropy(table * 1.0, CHOSEN)
    assert log_prob_n.dtype == entropy_n.dtype == torch.float32
    log_prob_n.sum().backward()
    assert table.grad.dtype == torch.bfloat16


def test_no_tokens_are_no_error():
    log_prob_n, entropy_n = log_probs_and_entropy(logits(0) * 1.0, torch.zeros(0, dtype=torch.long))
    log_prob_n.sum().backward()
    assert len(log_prob_n) == len(entropy_n) == 0
