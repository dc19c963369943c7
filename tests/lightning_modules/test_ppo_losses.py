"""PPO's losses against a table worked out by hand, slow loops, and what must hold at the first step."""

import math

import pytest
import torch

from lightning_modules.ppo.losses import AdaptiveKL, policy_loss, reference_kl, token_mean, value_loss

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
TOKENS = MASK.sum()


def random(seed, *shape):
    return torch.randn(*(shape or (3, 4)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, 0.0),
        (1.5, 1.0, -1.2, 1.0),  # too likely already: no more to gain
        (1.5, -1.0, 1.5, 0.0),  # likelier although it was bad: pays in full
        (0.5, 1.0, -0.5, 0.0),  # less likely although it was good: pulled back
        (0.5, -1.0, 0.8, 1.0),  # unlikely already: no more to gain
        (1.1, 3.0, -3.3, 0.0),
        (0.9, -3.0, 2.7, 0.0),
    ],
)
def test_the_policy_loss_of_one_token_by_hand(ratio, advantage, loss, clipped):
    old = torch.tensor([[-1.0]], dtype=torch.float64)
    got, figures = policy_loss(
        old + math.log(ratio), old, torch.full_like(old, advantage), torch.ones(1, 1), 0.2, torch.tensor(1)
    )
    assert got.item() == pytest.approx(loss)
    assert figures["clip_fraction"].item() == clipped
    assert figures["ratio"].item() == pytest.approx(ratio)
    assert figures["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio))


def test_the_policy_loss_is_a_slow_loop():
    new, old, advantage = random(0) * 0.3 - 1, random(1) * 0.3 - 1, random(2)
    got, figures = policy_loss(new, old, advantage, MASK, 0.2, TOKENS)
    total = clipped = ratios = kl = 0.0
    for b, t in MASK.nonzero().tolist():
        ratio, a = math.exp(new[b, t] - old[b, t]), advantage[b, t].item()
        bounded = min(max(ratio, 0.8), 1.2)
        total -= min(ratio * a, bounded * a)
        clipped += bounded * a < ratio * a
        ratios += ratio
        kl += ratio - 1 - math.log(ratio)
    count = int(TOKENS)
    assert got.item() == pytest.approx(total / count)
    assert clipped > 0
    expected = {"ratio": ratios, "approx_kl": kl, "clip_fraction": clipped}
    assert {name: value.item() for name, value in figures.items()} == pytest.approx(
        {name: value / count for name, value in expected.items()}
    )


def test_at_the_first_step_ratio_is_one_and_nothing_is_clipped():
    same, advantage = random(3) - 2, random(4)
    loss, figures = policy_loss(same, same.clone(), advantage, MASK, 0.2, TOKENS)
    assert loss.item() == pytest.approx(-(advantage * MASK).sum().item() / int(TOKENS))
    assert figures["ratio"].item() == pytest.approx(1, abs=1e-12)
    assert figures["approx_kl"].item() == 0
    assert figures["clip_fraction"].item() == 0


def test_the_gradient_at_the_first_step_is_that_of_reinforce():
    old, advantage = random(5) - 2, random(6)
    new = old.clone().requires_grad_(True)
    policy_loss(new, old, advantage, MASK, 0.2, TOKENS)[0].backward()
    torch.testing.assert_close(new.grad, -advantage * MASK / TOKENS)


def test_a_clipped_token_has_no_gradient():
    old = torch.zeros(1, 2, dtype=torch.float64)
    new = torch.tensor([[1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    policy_loss(new, old, torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), 0.2, torch.tensor(2))[0].backward()
    assert new.grad.tolist() == [[0, 0]]


def test_the_kl_figure_is_never_negative():
    for seed in range(20):
        _, figures = policy_loss(random(seed), random(seed + 100), random(0), MASK, 0.2, TOKENS)
        assert figures["approx_kl"] >= 0


def test_what_stands_on_padding_cannot_overflow_into_a_loss():
    new, far = random(21) - 2, random(22) - 2
    far[1, 1:] = -2000.0  # the exponential of the difference is infinite, and infinity times 0 is not a number
    for loss in (policy_loss(new, far, random(23), MASK, 0.2, TOKENS)[0], reference_kl(far, new, MASK, TOKENS)):
        assert math.isfinite(loss.item())


def test_the_value_loss_is_a_slow_loop():
    new, old, target = random(7), random(8), random(9)
    got = value_loss(new, old, target, MASK, 0.2, TOKENS)
    total, moved = 0.0, 0
    for b, t in MASK.nonzero().tolist():
        v, v_old, g = new[b, t].item(), old[b, t].item(), target[b, t].item()
        bounded = min(max(v, v_old - 0.2), v_old + 0.2)
        total += max((v - g) ** 2, (bounded - g) ** 2)
        moved += bounded != v
    assert moved
    assert got.item() == pytest.approx(total / int(TOKENS))


@pytest.mark.parametrize(("new", "loss"), [(0.1, 0.81), (0.5, 0.64), (1.0, 0.64), (-0.5, 2.25), (2.5, 2.25)])
def test_the_value_loss_of_one_token_by_hand(new, loss):
    """Old value 0, return 1, clip 0.2: a value that has moved further than 0.2 counts as if it had not, if worse."""
    one = torch.ones(1, 1, dtype=torch.float64)
    got = value_loss(one * new, one * 0, one, one, 0.2, torch.tensor(1))
    assert got.item() == pytest.approx(loss)


def test_a_value_at_its_return_costs_nothing():
    values = random(10)
    assert value_loss(values, values, values, MASK, 0.2, TOKENS).item() == 0


def test_the_kl_to_the_reference_is_a_slow_loop():
    new, reference = random(19) * 0.5 - 2, random(20) * 0.5 - 2
    total = 0.0
    for b, t in MASK.nonzero().tolist():
        gap = reference[b, t].item() - new[b, t].item()
        total += math.exp(gap) - 1 - gap
    assert reference_kl(new, reference, MASK, TOKENS).item() == pytest.approx(total / int(TOKENS))
    assert reference_kl(new, new, MASK, TOKENS) == 0


def test_the_kl_to_the_reference_pulls_towards_it():
    """Its derivative by log pi is 1 - pi_ref / pi."""
    new = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-2.0, -1.0]], dtype=torch.float64)
    reference_kl(new, reference, torch.ones(1, 2), torch.tensor(1)).backward()
    assert new.grad[0].tolist() == pytest.approx([1 - math.exp(-1), 1 - math.exp(1)])


def test_masked_tokens_change_no_loss():
    noise = 50 * (1 - MASK)
    new, old, other = random(12), random(13), random(14)
    assert (
        policy_loss(new, old, other, MASK, 0.2, TOKENS)[0]
        == policy_loss(new - noise, old, other + noise, MASK, 0.2, TOKENS)[0]
    )
    assert value_loss(new, old, other, MASK, 0.2, TOKENS) == value_loss(new + noise, old, other, MASK, 0.2, TOKENS)


def test_losses_of_parts_add_up_to_that_of_the_whole():
    new, old, other = random(15) * 0.3, random(16) * 0.3, random(17)
    parts = [slice(0, 1), slice(1, 3)]
    whole = policy_loss(new, old, other, MASK, 0.2, TOKENS)[0]
    cut = sum(policy_loss(new[p], old[p], other[p], MASK[p], 0.2, TOKENS)[0] for p in parts)
    torch.testing.assert_close(cut, whole)
    whole = value_loss(new, old, other, MASK, 0.2, TOKENS)
    torch.testing.assert_close(sum(value_loss(new[p], old[p], other[p], MASK[p], 0.2, TOKENS) for p in parts), whole)
    torch.testing.assert_close(sum(token_mean(new[p], MASK[p], TOKENS) for p in parts), new[MASK.bool()].mean())


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.2),  # at the target
        (6.6, 0.2 * (1 + 0.1 * 0.0128)),
        (5.4, 0.2 * (1 - 0.1 * 0.0128)),
        (60.0, 0.2 * (1 + 0.2 * 0.0128)),  # the error is clipped to 20 %
        (0.0, 0.2 * (1 - 0.2 * 0.0128)),
    ],
)
def test_the_kl_weight_follows_ziegler_by_hand(kl, expected):
    controller = AdaptiveKL(0.2, target=6.0, horizon=10_000)
    controller.update(kl, samples=128)
    assert controller.coefficient == pytest.approx(expected)


def test_the_kl_weight_multiplies_up():
    controller = AdaptiveKL(0.2, target=6.0, horizon=1000)
    for _ in range(3):
        controller.update(12.0, samples=100)
    assert controller.coefficient == pytest.approx(0.2 * 1.02**3)


def test_without_a_target_the_kl_weight_stays():
    controller = AdaptiveKL(0.2, target=0.0, horizon=1000)
    controller.update(99.0, samples=100)
    assert controller.coefficient == 0.2
