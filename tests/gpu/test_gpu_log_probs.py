"""Log-probabilities as a GPU computes them, compiled, against the plain formulas in float64."""

import pytest
import torch

from models import log_probs
from models.log_probs import log_probs_and_entropy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def logits_nV(request):
    draw = torch.Generator("cuda").manual_seed(0)
    return (4 * torch.randn(70, 5003, generator=draw, device="cuda")).to(request.param)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(log_probs, "BLOCK", {"cuda": 32 * 5003})


def test_they_are_compiled():
    for function in (log_probs._summary_by_row, log_probs._gradient_by_entry):
        assert log_probs._fused(function) is not function


@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
def test_values_and_gradients_are_those_of_the_formulas(logits_nV, entropy_weight):
    chosen_n = torch.arange(70, device="cuda") * 71
    weight_n = torch.linspace(-1, 1, 70, device="cuda")
    exact_nV = logits_nV.double().requires_grad_()
    share_nV = exact_nV.log_softmax(1)
    expected_n, entropy_n = share_nV.gather(1, chosen_n[:, None])[:, 0], -(share_nV.exp() * share_nV).sum(1)
    ((expected_n + entropy_weight * entropy_n) * weight_n).sum().backward()
    given_nV = logits_nV.clone().requires_grad_()
    log_prob_n, found_n = log_probs_and_entropy(given_nV * 1.0, chosen_n, entropy_gradient=entropy_weight > 0)
    ((log_prob_n + entropy_weight * found_n) * weight_n).sum().backward()
    torch.testing.assert_close(log_prob_n.double(), expected_n, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found_n.double(), entropy_n, atol=1e-3, rtol=1e-4)
    tolerance = {"atol": 1e-6, "rtol": 1e-4} if logits_nV.dtype == torch.float32 else {"atol": 1e-4, "rtol": 1e-2}
    torch.testing.assert_close(given_nV.grad.double(), exact_nV.grad, **tolerance)
