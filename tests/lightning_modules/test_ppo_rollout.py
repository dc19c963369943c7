"""From a rollout to mini-batches: every sample once a pass, and a loss that does not depend on how it is split."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.batches import BatchPlan
from lightning_modules.ppo.rollout import Rollout, RolloutStream, mini_batches

SAMPLES, LENGTH = 12, 5
CASES = [(12, 1, 1), (6, 1, 1), (6, 2, 1), (6, 3, 2), (4, 2, 2), (12, 4, 3), (2, 1, 2)]  # mini-batch, ranks, micros


def rollout():
    """Sample b has record 100 + b, and b stands in each of its columns."""
    rows = torch.arange(SAMPLES)
    lengths = 1 + rows * 7 % LENGTH
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    column = rows[:, None].expand(-1, LENGTH)
    return Rollout(100 + rows, column, mask, column + 0.1, column + 0.2, column + 0.3, torch.ones(SAMPLES))


def deal(batch_size, world, accumulate, epochs=2, seed=5):
    """batches[rank] of a whole iteration."""
    whole = rollout()
    advantage = torch.arange(SAMPLES)[:, None] + torch.full((SAMPLES, LENGTH), 0.4)
    plan = BatchPlan(SAMPLES, batch_size, world, accumulate, seed)

    def prompts(record_M, response_MT, mask_MT):
        return SimpleNamespace(record_B=record_M, response_BT=response_MT, response_mask_BT=mask_MT, scale=None)

    args = (whole, advantage, advantage + 0.1, plan, epochs)
    return whole, plan, [list(mini_batches(*args, rank, prompts)) for rank in range(world)]


def counted(batch):
    """Rows that count: those whose mask has not been taken away."""
    return batch.prompts.response_mask_BT.sum(1) > 0


@pytest.mark.parametrize(("batch_size", "world", "accumulate"), CASES)
def test_each_sample_comes_once_a_pass(batch_size, world, accumulate):
    _, plan, ranks = deal(batch_size, world, accumulate)
    for epoch in range(2):
        part = slice(epoch * plan.micro_steps, (epoch + 1) * plan.micro_steps)
        seen = [r for batches in ranks for b in batches[part] for r in b.record_B[counted(b)].tolist()]
        assert sorted(seen) == [100 + row for row in range(SAMPLES)]


@pytest.mark.parametrize(("batch_size", "world", "accumulate"), CASES)
def test_all_ranks_take_the_same_number_of_steps(batch_size, world, accumulate):
    _, _, ranks = deal(batch_size, world, accumulate)
    assert {len(batches) for batches in ranks} == {2 * SAMPLES // batch_size * accumulate}


@pytest.mark.parametrize(("batch_size", "world", "accumulate"), CASES)
def test_tokens_are_those_of_the_whole_optimizer_step_over_ranks_and_micro_batches(batch_size, world, accumulate):
    _, plan, ranks = deal(batch_size, world, accumulate)
    for step in range(2 * plan.optimizer_steps):
        part = slice(step * accumulate, (step + 1) * accumulate)
        batches = [batch for rank in ranks for batch in rank[part]]
        total = sum(int(batch.prompts.response_mask_BT.sum()) for batch in batches)
        assert {int(batch.tokens) for batch in batches} == {total}


@pytest.mark.parametrize(("batch_size", "world", "accumulate"), CASES)
def test_the_averaged_loss_of_a_step_is_the_mean_over_its_tokens(batch_size, world, accumulate):
    """A loss a token stands in `old_value`; engines average over ranks and micro-batches."""
    whole, plan, ranks = deal(batch_size, world, accumulate)
    for step in range(plan.optimizer_steps):
        part = slice(step * accumulate, (step + 1) * accumulate)
        losses = [
            (b.old_value_MT * b.prompts.response_mask_BT).sum() / b.tokens * b.prompts.scale
            for rank in ranks
            for b in rank[part]
        ]
        rows = torch.from_numpy(plan.draw(0, step * accumulate, 0).step_rows)
        mask = whole.mask_BT[rows]
        expected = (whole.value_BT[rows] * mask).sum() / mask.sum()
        torch.testing.assert_close(torch.stack(losses).mean(), expected)


def test_the_columns_of_a_sample_stay_together():
    _, _, ranks = deal(6, 2, 1)
    for batch in itertools.chain(*ranks):
        rows = (batch.record_B - 100)[:, None].expand(-1, LENGTH)
        assert torch.equal(batch.prompts.response_BT, rows)
        offsets = {
            "old_log_prob_MT": 0.1,
            "ref_log_prob_MT": 0.2,
            "old_value_MT": 0.3,
            "advantage_MT": 0.4,
            "return_MT": 0.5,
        }
        for name, offset in offsets.items():
            torch.testing.assert_close(getattr(batch, name), rows + offset)


def test_passes_come_in_different_orders_that_the_seed_draws():
    _, plan, [batches] = deal(6, 1, 1)
    orders = [[r for b in batches[i : i + 2] for r in b.record_B.tolist()] for i in (0, 2)]
    assert orders[0] != orders[1]
    again = deal(6, 1, 1)[2][0]
    other = deal(6, 1, 1, seed=6)[2][0]
    assert [b.record_B.tolist() for b in again] == [b.record_B.tolist() for b in batches]
    assert [b.record_B.tolist() for b in other] != [b.record_B.tolist() for b in batches]


@pytest.mark.parametrize(("batch_size", "world", "accumulate"), CASES)
def test_all_of_the_first_update_is_marked_first_and_nothing_else(batch_size, world, accumulate):
    """All micro-batches of the first optimizer step see the policy that sampled; its figures are the mean over them."""
    _, _, ranks = deal(batch_size, world, accumulate)
    for batches in ranks:
        assert [batch.first for batch in batches] == [index < accumulate for index in range(len(batches))]


def test_a_stream_samples_anew_at_each_pass_and_knows_its_length():
    passes = itertools.count()
    stream = RolloutStream(
        3, lambda: (f"rollout {number}, step {step}" for number in [next(passes)] for step in range(3))
    )
    loader = DataLoader(stream, batch_size=None)
    assert len(loader) == 3
    for number in range(2):
        assert list(loader) == [f"rollout {number}, step {step}" for step in range(3)]


def test_a_rollout_has_as_many_samples_as_records():
    assert len(rollout()) == SAMPLES
