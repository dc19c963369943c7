"""Guards: a run that goes wrong is stopped before it does harm, and says why."""

from types import SimpleNamespace

import pytest
import torch

from callbacks.guards import HarmfulUpdateError, PPOGuards, StopOnNonFinite
from lightning_modules.ppo.config import GuardConfig

LIMITS = GuardConfig(max_kl=10.0, max_distinct_1_drop=0.35, min_end_rate=0.1)


def step(guard, loss, records=(4, 2)):
    guard.on_train_batch_start(None, None, SimpleNamespace(record_B=torch.tensor(records)), 0)
    guard.on_before_backward(SimpleNamespace(global_step=17), None, torch.tensor(loss))


def test_a_finite_loss_passes():
    step(StopOnNonFinite(), 1e30)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_with_step_and_records(loss):
    with pytest.raises(HarmfulUpdateError, match=r"not finite at step 17 \(records 2, 4\); nothing was updated"):
        step(StopOnNonFinite(), loss)


def test_the_records_named_are_those_of_the_batch_at_hand():
    guard = StopOnNonFinite()
    step(guard, 1.0, records=(1, 2))
    with pytest.raises(HarmfulUpdateError, match=r"records 8, 9\)"):
        step(guard, float("nan"), records=(9, 8))


def test_of_many_records_the_first_twenty_are_named():
    with pytest.raises(HarmfulUpdateError, match=r"18, 19 \.\.\.\)"):
        step(StopOnNonFinite(), float("nan"), records=tuple(range(30)))


def test_the_records_of_every_rank_are_named(monkeypatch):
    monkeypatch.setattr("callbacks.guards.gather_objects", lambda value: [(float("nan"), [7]), value])
    with pytest.raises(HarmfulUpdateError, match=r"records 7\)"):
        step(StopOnNonFinite(), 0.5)


def epochs(*figures):
    """(stopped at, reason) of a run with these (kl, distinct_1, end_rate) an iteration."""
    guard = PPOGuards(LIMITS)
    for iteration, (kl, distinct, ended) in enumerate(figures):
        metrics = {"ppo/kl": kl, "ppo/distinct_1": distinct, "ppo/end_rate": ended}
        trainer = SimpleNamespace(
            callback_metrics={name: torch.tensor(value) for name, value in metrics.items()},
            current_epoch=iteration,
            should_stop=False,
        )
        guard.on_train_epoch_end(trainer, None)
        if trainer.should_stop:
            return iteration, guard.reason
    return None, guard.reason


def test_a_healthy_run_goes_on():
    assert epochs((0.0, 60.0, 0.9), (9.9, 40.0, 0.11), (3.0, 80.0, 1.0)) == (None, "")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((10.5, 60.0, 0.9), r"KL to the reference is 10.50, above ppo.guards.max_kl=10.0"),
        ((1.0, 38.0, 0.9), r"fell from 60.00 to 38.00, more than ppo.guards.max_distinct_1_drop=0.35"),
        ((1.0, 60.0, 0.05), r"only 5% of the rollouts end, below ppo.guards.min_end_rate=0.1"),
    ],
)
def test_a_figure_out_of_bounds_stops_the_run_and_names_its_key(bad, reason):
    stopped, told = epochs((0.0, 60.0, 0.9), (0.1, 59.0, 0.9), bad)
    assert stopped == 2
    assert reason in told


def test_the_fall_of_distinct_is_measured_from_the_first_rollout():
    steady = [(0.0, value, 1.0) for value in (60.0, 50.0, 42.0, 39.5)]
    assert epochs(*steady) == (None, "")
    assert epochs(*steady, (0.0, 38.9, 1.0))[0] == 4


def test_the_first_rollout_can_stop_a_run():
    assert epochs((11.0, 60.0, 1.0))[0] == 0


def losses_of(guard, *losses):
    for loss in losses:
        step(guard, loss)


def test_a_loss_out_of_proportion_stops_and_names_figures_key_and_records():
    guard = StopOnNonFinite(spike=4)
    losses_of(guard, *[1.0, 2.0, 3.0] * 4)
    losses_of(guard, 7.9)  # the median is 2
    message = (
        r"the loss is 8.1, more than loss_spike=4 times the usual 2 at step 17 \(records 2, 4\); nothing was updated"
    )
    with pytest.raises(HarmfulUpdateError, match=message):
        step(guard, 8.1)


def test_without_the_option_no_loss_is_too_large():
    losses_of(StopOnNonFinite(), *[1.0] * 20, 1e9)


def test_too_few_losses_are_no_measure():
    losses_of(StopOnNonFinite(spike=2), *[1.0] * 9, 100.0)


def test_the_spike_is_measured_over_all_ranks_and_names_the_records_of_all(monkeypatch):
    guard = StopOnNonFinite(spike=4)
    losses_of(guard, *[1.0] * 10)
    monkeypatch.setattr("callbacks.guards.gather_objects", lambda value: [value, (9.0, [7])])
    with pytest.raises(HarmfulUpdateError, match=r"the loss is 5, .*records 2, 4, 7\)"):
        step(guard, 1.0)


def test_a_run_that_goes_on_remembers_the_usual_loss():
    before, after = StopOnNonFinite(spike=4), StopOnNonFinite(spike=4)
    losses_of(before, *[1.0] * 60)
    assert len(before.state_dict()["recent"]) == 50
    after.load_state_dict(before.state_dict())
    with pytest.raises(HarmfulUpdateError):
        step(after, 4.1)


class Engine:
    """Stands for DeepSpeed's: one gradient of norm `norm`, at the last micro-batch of a step or before it."""

    def __init__(self, norm, last=True):
        parameter = SimpleNamespace(grad=torch.tensor([0.6 * norm, -0.8 * norm]))
        self.optimizer = SimpleNamespace(param_groups=[{"params": [parameter]}])
        self.is_gradient_accumulation_boundary = lambda: last


def update(guard, norm, loss=0.0, last=True):
    step(guard, loss)
    trainer = SimpleNamespace(global_step=17, strategy=SimpleNamespace(model=Engine(norm, last)))
    guard.on_before_optimizer_step(trainer, SimpleNamespace(device=torch.device("cpu")), None)


def test_of_a_loss_without_a_scale_the_norm_of_the_gradient_is_what_must_not_spike():
    guard = StopOnNonFinite(spike=4, of_gradient=True)
    for norm in [1.0, 2.0, 3.0] * 4:
        update(guard, norm, loss=-norm)
    update(guard, 7.9, loss=1e9)
    update(guard, 99.0, last=False)  # a part of a step is not measured
    with pytest.raises(
        HarmfulUpdateError, match="the gradient's norm is 8.1, more than loss_spike=4 times the usual 2"
    ):
        update(guard, 8.1)


def test_the_norm_is_that_over_all_ranks(monkeypatch):
    guard = StopOnNonFinite(spike=4, of_gradient=True)
    for _ in range(10):
        update(guard, 1.0)
    other = {torch.float64: 24.0, torch.float32: 0.0}  # squares on the other rank, and whether they are finite there
    monkeypatch.setattr("callbacks.guards.sum_over_ranks", lambda values: values + other[values.dtype])
    with pytest.raises(HarmfulUpdateError, match="the gradient's norm is 5,"):
        update(guard, 1.0)


def test_large_gradients_do_not_overflow_in_their_norm():
    guard = StopOnNonFinite(spike=4, of_gradient=True)
    for _ in range(20):
        update(guard, 1e30)
