"""Dealing records to ranks and micro-batches: a step's loss is the mean over its global batch, however it is cut."""

import itertools

import numpy as np
import pytest
import torch

from datamodules.batches import BatchPlan, planned_loader
from metrics.errors import InputError

# n, global batch, ranks, micro-batches: smaller, equal and larger than a batch, ragged ends, more parts than records.
CASES = [
    (n, parts * world * accumulate, world, accumulate)
    for n, parts, world, accumulate in itertools.product((1, 2, 3, 5, 8, 13, 29), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3))
]


def draws_of_step(plan, epoch, step):
    """draws[micro][rank] of one optimizer step."""
    micros = range(step * plan.accumulate, (step + 1) * plan.accumulate)
    return [[plan.draw(epoch, micro, rank) for rank in range(plan.world)] for micro in micros]


def test_every_row_counts_exactly_once_an_epoch():
    for n, batch, world, accumulate in CASES:
        plan = BatchPlan(n, batch, world, accumulate, seed=3)
        seen = [
            row
            for micro in range(plan.micro_steps)
            for rank in range(world)
            for row, weight in zip(*draw_rows(plan.draw(1, micro, rank)), strict=True)
            if weight == 1
        ]
        assert sorted(seen) == list(range(n)), (n, batch, world, accumulate)


def draw_rows(draw):
    return draw.rows_B.tolist(), draw.weight_B.tolist()


def test_the_scaled_sum_averaged_over_parts_is_the_mean_over_the_global_batch():
    loss_R = np.random.default_rng(0).normal(size=29)
    for n, batch, world, accumulate in CASES:
        plan = BatchPlan(n, batch, world, accumulate, seed=5)
        for step in range(plan.optimizer_steps):
            draws = [draw for ranks in draws_of_step(plan, 0, step) for draw in ranks]
            parts = [(loss_R[draw.rows_B] * draw.weight_B).sum() * draw.scale for draw in draws]
            expected = loss_R[plan.order(0)[step * batch : (step + 1) * batch]].mean()
            # What a data parallel engine does: the mean over ranks, and over accumulated micro-batches.
            assert np.mean(parts) == pytest.approx(expected, abs=1e-12), (n, batch, world, accumulate)


def test_ranks_agree_on_the_global_batch_and_share_out_each_micro_batch():
    for n, batch, world, accumulate in CASES:
        plan = BatchPlan(n, batch, world, accumulate, seed=1)
        for step in range(plan.optimizer_steps):
            micros = draws_of_step(plan, 2, step)
            for ranks in micros:
                dealt = [draw.rows_B[draw.weight_B > 0] for draw in ranks]
                assert np.concatenate(dealt).tolist() == ranks[0].micro_rows.tolist()
                assert all(draw.step_rows.tolist() == ranks[0].step_rows.tolist() for draw in ranks)
                assert all(draw.micro_rows.tolist() == ranks[0].micro_rows.tolist() for draw in ranks)
            together = np.concatenate([ranks[0].micro_rows for ranks in micros])
            assert together.tolist() == micros[0][0].step_rows.tolist()


def test_no_part_is_empty_and_a_rank_without_a_share_repeats_a_row_of_its_batch_at_weight_zero():
    for n, batch, world, accumulate in CASES:
        plan = BatchPlan(n, batch, world, accumulate)
        for micro, rank in itertools.product(range(plan.micro_steps), range(world)):
            draw = plan.draw(0, micro, rank)
            assert len(draw.rows_B) == len(draw.weight_B) >= 1
            assert set(draw.rows_B) <= set(draw.step_rows)
            assert set(draw.weight_B.tolist()) in ({1.0}, {0.0})


def test_all_ranks_take_the_same_number_of_steps():
    for n, batch, world, accumulate in CASES:
        plan = BatchPlan(n, batch, world, accumulate)
        assert plan.micro_steps == accumulate * int(np.ceil(n / batch))
        lengths = {len(planned_loader(plan, rank, lambda draw: draw)) for rank in range(world)}
        assert lengths == {plan.micro_steps}


def test_the_global_batches_do_not_depend_on_ranks_and_micro_batches():
    whole = [BatchPlan(29, 12, seed=4).draw(7, step, 0).step_rows.tolist() for step in range(3)]
    for world, accumulate in ((2, 1), (3, 2), (4, 3)):
        plan = BatchPlan(29, 12, world, accumulate, seed=4)
        assert [plan.draw(7, step * accumulate, 1).step_rows.tolist() for step in range(3)] == whole


def test_epochs_and_seeds_give_other_orders_and_the_same_ones_give_the_same():
    orders = {tuple(BatchPlan(50, 10, seed=seed).order(epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert BatchPlan(50, 10, seed=2).order(1).tolist() == BatchPlan(50, 25, 5, seed=2).order(1).tolist()


def test_without_shuffling_rows_come_in_order():
    plan = BatchPlan(5, 2, shuffle=False)
    assert [plan.draw(9, step, 0).rows_B.tolist() for step in range(3)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("batch", "world", "accumulate", "remedies"), [(10, 4, 1, "8 or 12"), (3, 2, 4, "8")])
def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_would(batch, world, accumulate, remedies):
    with pytest.raises(InputError) as error:
        BatchPlan(100, batch, world, accumulate)
    message = str(error.value)
    assert f"batch_size={batch}" in message
    assert f"{world} ranks" in message
    assert f"accumulate={accumulate}" in message
    assert message.endswith(f"use {remedies}")
    for size in remedies.split(" or "):
        BatchPlan(100, int(size), world, accumulate)


def test_no_records_is_refused():
    with pytest.raises(InputError, match="no record"):
        BatchPlan(0, 4)


def test_a_loader_yields_the_draws_of_its_rank_and_of_the_epoch_that_is_set():
    plan = BatchPlan(11, 4, world=2, seed=6)
    loader = planned_loader(plan, 1, lambda draw: draw.rows_B.tolist())
    first = list(loader)
    loader.sampler.set_epoch(3)
    assert first == [plan.draw(0, step, 1).rows_B.tolist() for step in range(3)]
    assert list(loader) == [plan.draw(3, step, 1).rows_B.tolist() for step in range(3)] != first


def test_a_loader_leaves_the_global_random_state_alone():
    loader = planned_loader(BatchPlan(9, 3), 0, lambda draw: draw)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_can_start_within_an_epoch(workers):
    plan = BatchPlan(10, 2, seed=3)
    loader = planned_loader(plan, 0, lambda draw: draw.rows_B.tolist(), workers)
    whole = {epoch: [plan.draw(epoch, step, 0).rows_B.tolist() for step in range(5)] for epoch in (0, 1, 2)}
    iter(loader)  # as Lightning does before it knows where to go on
    loader.sampler.seek(1, 3)
    assert list(loader) == whole[1][3:]
    loader.sampler.set_epoch(2)
    assert list(loader) == whole[2]
