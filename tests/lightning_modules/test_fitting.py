"""Schedules and optimizer groups that the stages share."""

import pytest
import torch
from torch import nn

from lightning_modules.fitting import FitConfig, adamw, one_group, trainable, warm_then_linear
from metrics.errors import InputError


def test_the_rate_rises_to_one_and_falls_to_a_tenth_by_hand():
    factor = warm_then_linear(14, 4 / 14)
    assert [factor(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert [factor(step) for step in (9, 14)] == pytest.approx([0.55, 0.1])


def test_the_rate_falls_in_a_straight_line_and_never_below_a_tenth():
    factor = warm_then_linear(100, 0.1)
    falls = [factor(step) - factor(step + 1) for step in range(10, 99)]
    assert falls == pytest.approx([0.9 / 90] * 89)
    assert factor(150) == pytest.approx(0.1)


def test_without_warm_up_the_first_step_is_at_the_full_rate():
    assert warm_then_linear(50, 0.0)(0) == 1


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_few_steps_has_rates_above_zero_and_at_most_one(steps):
    for warmup in (0.0, 0.05, 0.9):
        factor = warm_then_linear(steps, warmup)
        assert all(0 < factor(step) <= 1 for step in range(steps + 1))


def small():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    module[1].bias.requires_grad_(False)
    return module


def test_what_does_not_learn_is_left_out():
    module = small()
    assert [id(p) for p in trainable(module)] == [id(p) for p in module.parameters() if p.requires_grad]
    assert len(trainable(module)) == 3


def test_one_group_has_the_configured_rate_and_decay_and_steps_its_schedule_each_step():
    fit = FitConfig(lr=0.5, weight_decay=0.03, warmup=0.2)
    made = one_group(small(), fit, total_steps=10)
    [group] = made["optimizer"].param_groups
    assert group["weight_decay"] == 0.03
    assert group["initial_lr"] == 0.5
    assert len(group["params"]) == 3
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(4):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([0.25, 0.5, 0.5, 0.5 * (1 - 0.9 / 8)])


def test_each_group_follows_its_own_schedule():
    module = small()
    groups = [{"params": [module[0].weight], "lr": 1.0}, {"params": [module[1].weight], "lr": 0.1}]
    made = adamw(groups, [lambda step: 1.0, lambda step: 0.0 if step < 1 else 2.0], weight_decay=0.0)
    assert [group["lr"] for group in made["optimizer"].param_groups] == [1.0, 0.0]
    made["optimizer"].step()
    made["lr_scheduler"]["scheduler"].step()
    assert [group["lr"] for group in made["optimizer"].param_groups] == pytest.approx([1.0, 0.2])


def test_a_group_at_rate_zero_keeps_its_weights_to_the_last_bit_decay_included():
    """This is what "language model frozen" means in the first phase of the explanation stage."""
    module = small()
    before = module[1].weight.detach().clone()
    groups = [{"params": [module[0].weight], "lr": 1.0}, {"params": [module[1].weight], "lr": 0.1}]
    made = adamw(groups, [lambda step: 1.0, lambda step: 0.0], weight_decay=0.5)
    module(torch.ones(4, 2)).sum().backward()
    made["optimizer"].step()
    assert torch.equal(module[1].weight, before)


@pytest.mark.parametrize(
    ("key", "value"), [("epochs", 0), ("batch_size", 0), ("accumulate", 0), ("warmup", 1.0), ("warmup", -0.1)]
)
def test_a_bad_value_is_refused_by_its_key(key, value):
    with pytest.raises(InputError, match=f"{key}={value}"):
        FitConfig(**{key: value})
