"""TRL's PPO functions on the same numbers. TRL 1.12 is the last version that has them.

Skipped unless PEER_PYTHON names a Python whose environment has TRL, and TRL_PPO a folder with trl 1.12 in it.
"""

import json
import os
import subprocess

import pytest
import torch

from lightning_modules.ppo.advantages import gae, token_rewards, whiten
from lightning_modules.ppo.losses import policy_loss, token_mean
from models.log_probs import log_probs_and_entropy

# Rows are of full length: behind an end token TRL pays the score one place later, on the padding.
SCRIPT = """
import json, sys, torch
from trl.experimental.ppo.ppo_trainer import masked_mean, masked_whiten, selective_log_softmax
from trl.trainer.utils import entropy_from_logits
g = torch.Generator().manual_seed(0)
logits = torch.randn(3, 5, 11, generator=g) * 3
chosen = torch.randint(11, (3, 5), generator=g)
old, value, advantage = (torch.randn(3, 5, generator=g) for _ in range(3))
mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)
new = selective_log_softmax(logits, chosen)
ratio = torch.exp(new - old)
loss = torch.max(-advantage * ratio, -advantage * torch.clamp(ratio, 0.8, 1.2))
print(json.dumps({
    "log_prob": new.tolist(), "entropy": entropy_from_logits(logits).tolist(),
    "mean": masked_mean(value, mask).item(), "whitened": masked_whiten(value, mask).tolist(),
    "loss": masked_mean(loss, mask).item(),
}))
"""


@pytest.fixture(scope="module")
def theirs():
    python, path = os.environ.get("PEER_PYTHON"), os.environ.get("TRL_PPO")
    if not python or not path:
        pytest.skip("PEER_PYTHON and TRL_PPO are not set: no TRL 1.12 to ask")
    environment = os.environ | {"PYTHONPATH": path, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return {name: torch.tensor(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.fixture(scope="module")
def given():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 11, generator=draw) * 3
    chosen = torch.randint(11, (3, 5), generator=draw)
    old, value, advantage = (torch.randn(3, 5, generator=draw) for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    return logits, chosen, old, value, advantage, mask


def test_log_probabilities_and_entropies(theirs, given):
    logits, chosen, *_ = given
    log_prob_n, entropy_n = log_probs_and_entropy(logits.flatten(0, 1).clone(), chosen.flatten())
    torch.testing.assert_close(log_prob_n, theirs["log_prob"].flatten(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy_n, theirs["entropy"].flatten(), atol=1e-6, rtol=1e-5)


def test_the_policy_loss(theirs, given):
    *_, old, _, advantage, mask = given
    loss, _ = policy_loss(theirs["log_prob"], old, advantage, mask, 0.2, mask.sum())
    torch.testing.assert_close(loss, theirs["loss"], atol=1e-6, rtol=1e-6)


def test_means_and_whitening(theirs, given):
    """TRL divides by n - 1, this project by n: a known factor apart."""
    *_, value, _, mask = given
    torch.testing.assert_close(token_mean(value, mask, mask.sum()), theirs["mean"], atol=1e-6, rtol=1e-6)
    n = int(mask.sum())
    expected = theirs["whitened"] * mask * (n / (n - 1)) ** 0.5
    torch.testing.assert_close(whiten(value, mask), expected, atol=1e-6, rtol=1e-5)


def test_advantages_are_those_of_trls_loop():
    """Steps 4 and 6 of its training loop, written out, on rows of full length."""
    draw = torch.Generator().manual_seed(1)
    new, reference, values = (torch.randn(3, 5, generator=draw, dtype=torch.float64) for _ in range(3))
    score, beta, lam = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 0.1, 0.95
    rewards = -beta * (new - reference)
    rewards[:, -1] += score
    last, reversed_advantages = 0.0, []
    for t in reversed(range(5)):
        next_values = values[:, t + 1] if t < 4 else 0.0
        last = rewards[:, t] + next_values - values[:, t] + lam * last
        reversed_advantages.append(last)
    expected = torch.stack(reversed_advantages[::-1], dim=1)
    mask, at_end = torch.ones(3, 5), torch.zeros(3, 5, dtype=torch.float64)
    at_end[:, -1] = score
    got, returns = gae(token_rewards(new, reference, mask, at_end, beta), values, mask, 1.0, lam)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(returns, expected + values, atol=1e-12, rtol=0)
