"""Rewards by token, advantages and whitening, against loops written from the definitions and closed forms."""

import statistics

import numpy as np
import pytest
import torch

from lightning_modules.ppo.advantages import (
    at_last_token,
    gae,
    group_relative,
    leave_one_out,
    token_rewards,
    whiten,
)

LENGTHS = [5, 1, 3, 0, 4]
MASK = torch.tensor([[1] * n + [0] * (5 - n) for n in LENGTHS])


def random(seed):
    return torch.randn(5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_token_rewards_by_hand():
    log_prob = torch.tensor([[-1.0, -2.0, -9.0]])
    reference = torch.tensor([[-1.5, -1.0, -1.0]])
    score = torch.tensor([[0.0, 3.0, 7.0]])
    got = token_rewards(log_prob, reference, torch.tensor([[1, 1, 0]]), score, beta=0.2)
    torch.testing.assert_close(got, torch.tensor([[-0.1, 3.2, 0.0]]))


def test_a_policy_like_its_reference_earns_its_score_alone():
    score = random(0)
    assert torch.equal(token_rewards(random(1), random(1), MASK, score, 0.5), score * MASK)


def test_a_score_is_paid_at_the_last_token():
    got = at_last_token(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), MASK)
    expected = torch.zeros(5, 5)
    for row, length in enumerate(LENGTHS):
        if length:
            expected[row, length - 1] = row + 1
    assert torch.equal(got, expected)


def slow_gae(rewards, values, length, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, with V = 0 behind the last token."""
    values = [*values[:length], 0.0]
    delta = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(length)]
    return [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, length)) for t in range(length)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 0.0), (0.5, 1.0)])
def test_gae_is_its_definition_as_a_slow_loop(gamma, lam):
    rewards, values = random(2), random(3)
    advantages, returns = gae(rewards, values, MASK, gamma, lam)
    for row, length in enumerate(LENGTHS):
        expected = slow_gae(rewards[row].tolist(), values[row].tolist(), length, gamma, lam)
        assert advantages[row].tolist() == pytest.approx(expected + [0] * (5 - length), abs=1e-12)
        together = [a + v for a, v in zip(expected, values[row].tolist(), strict=False)]
        assert returns[row].tolist() == pytest.approx(together + [0] * (5 - length), abs=1e-12)


def test_without_discount_the_advantage_is_the_sum_of_future_rewards_less_the_value():
    rewards, values = random(4), random(5)
    advantages, returns = gae(rewards, values, MASK, 1.0, 1.0)
    for row, length in enumerate(LENGTHS):
        future = [rewards[row, t:length].sum().item() for t in range(length)]
        expected = [g - v for g, v in zip(future, values[row].tolist(), strict=False)]
        assert advantages[row, :length].tolist() == pytest.approx(expected)
        assert returns[row, :length].tolist() == pytest.approx(future)


def test_with_lambda_zero_the_advantage_is_the_one_step_error():
    rewards, values = random(6), random(7)
    advantages, _ = gae(rewards, values, MASK, 0.9, 0.0)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            after = values[row, t + 1].item() if t + 1 < length else 0.0
            expected = rewards[row, t].item() + 0.9 * after - values[row, t].item()
            assert advantages[row, t].item() == pytest.approx(expected)


def test_a_perfect_value_leaves_no_advantage():
    rewards = random(8) * MASK
    future = rewards.flip(1).cumsum(1).flip(1) * MASK
    advantages, returns = gae(rewards, future, MASK, 1.0, 0.95)
    torch.testing.assert_close(advantages, torch.zeros_like(advantages))
    torch.testing.assert_close(returns, future)


def test_what_stands_behind_the_end_changes_nothing():
    rewards, values = random(9), random(10)
    clean = gae(rewards * MASK, values * MASK, MASK, 1.0, 0.95)
    dirty = gae(rewards + 100 * (1 - MASK), values - 100 * (1 - MASK), MASK, 1.0, 0.95)
    assert torch.equal(clean[0], dirty[0])
    assert torch.equal(clean[1], dirty[1])


def test_whitening_is_that_of_the_unmasked_entries():
    values = random(11) * 7 + 3
    got = whiten(values, MASK)
    flat = values[MASK.bool()].numpy()
    np.testing.assert_allclose(got[MASK.bool()].numpy(), (flat - flat.mean()) / flat.std(), rtol=1e-6)
    assert (got[~MASK.bool()] == 0).all()


def test_whitened_entries_have_mean_zero_and_variance_one():
    flat = whiten(random(12) * 0.3 - 8, MASK)[MASK.bool()]
    assert flat.mean().item() == pytest.approx(0, abs=1e-10)
    assert flat.var(unbiased=False).item() == pytest.approx(1, rel=1e-4)


def test_equal_advantages_become_zero_and_not_infinite():
    assert whiten(torch.full((2, 2), 5.0), torch.ones(2, 2)).tolist() == [[0, 0], [0, 0]]
    assert whiten(torch.full((2, 2), 5.0), torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


def test_group_relative_advantages_by_hand():
    """Two prompts of three samples: mean 2 and standard deviation 1; mean 1 and 3."""
    got = group_relative(torch.tensor([1.0, 2.0, 3.0, 1.0, 4.0, -2.0], dtype=torch.float64), 3)
    assert got.tolist() == pytest.approx([-1, 0, 1, 0, 1, -1], abs=2e-4)


def test_leave_one_out_advantages_by_hand():
    got = leave_one_out(torch.tensor([1.0, 2.0, 3.0, 1.0, 4.0, -2.0]), 3)
    assert got.tolist() == pytest.approx([-1.5, 0, 1.5, 0, 4.5, -4.5])


@pytest.mark.parametrize("group", [2, 4, 8])
def test_group_advantages_are_slow_loops(group):
    rewards = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    relative, left_out = group_relative(torch.tensor(rewards), group), leave_one_out(torch.tensor(rewards), group)
    for i, reward in enumerate(rewards):
        mates = rewards[i // group * group : i // group * group + group]
        spread = statistics.stdev(mates) + 1e-4
        assert relative[i].item() == pytest.approx((reward - statistics.mean(mates)) / spread, rel=1e-5)
        others = [other for j, other in enumerate(mates) if j != i % group]
        assert left_out[i].item() == pytest.approx(reward - statistics.mean(others), rel=1e-5)


def test_samples_of_equal_reward_say_nothing_and_stay_finite():
    for advantages in (group_relative, leave_one_out):
        assert advantages(torch.full((6,), 0.7), 3).abs().max() < 1e-2


def test_a_reward_that_all_samples_of_a_prompt_share_changes_no_group_advantage():
    rewards = torch.randn(8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shared = torch.tensor([5.0, -3.0], dtype=torch.float64).repeat_interleave(4)
    for advantages in (group_relative, leave_one_out):
        torch.testing.assert_close(advantages(rewards + shared, 4), advantages(rewards, 4))
