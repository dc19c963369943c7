"""Which prompts PPO samples, and which held-out ones it is watched on."""

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.rollout_prompts import RolloutPrompts

TRAIN, VALID = np.arange(100, 113), np.arange(40)  # record ids; 13 train records: no rollout size divides them


class Builder:
    """Stands for a PromptBuilder: rows of two splits, and batches that remember what they were asked for."""

    def __init__(self):
        self.corpus = SimpleNamespace(
            rows=lambda split: {"train": TRAIN, "valid": VALID}[split],
            explanations=[f"text {record}" for record in range(200)],
            concepts=["sound", "room", "bed"],
        )
        self.evidence = SimpleNamespace(concept_RK=torch.tensor([[0, 2], [1, 0], [2, 1]]))

    def batch(self, records, texts):
        return SimpleNamespace(records=records, texts=texts)


def prompts(batch_size=6, seed=1, samples=1):
    return RolloutPrompts(Builder(), batch_size, seed, samples)


def of_all_ranks(source, iteration, world):
    dealt = []
    for rank in range(world):
        records, _, weight = source.records(iteration, rank, world)
        dealt += [record for record, counts in zip(records, weight, strict=True) if counts]
    return dealt


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_the_samples_of_a_record_stand_together_and_are_numbered_however_many_ranks_share_them(world):
    source, dealt = prompts(12, samples=4), []
    for iteration in range(5):
        for rank in range(world):
            records, numbers, weight = source.records(iteration, rank, world)
            dealt += [row[:2] for row in zip(records, numbers, weight, strict=True) if row[2]]
    records = of_all_ranks(prompts(3), 0, 1) + of_all_ranks(prompts(3), 1, 1)
    assert dealt[:24] == [(record, number) for record in records for number in range(4)]
    assert Counter(dealt[: 13 * 4]) == Counter(itertools.product(TRAIN.tolist(), range(4)))


def test_every_record_comes_once_a_pass_over_train():
    stream = list(itertools.chain(*(of_all_ranks(prompts(), iteration, 1) for iteration in range(13))))
    assert len(stream) == 13 * 6
    for start in range(0, len(stream), 13):
        assert sorted(stream[start : start + 13]) == TRAIN.tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_a_rollout_is_the_same_records_however_many_ranks_share_it(world):
    for iteration in range(5):
        assert of_all_ranks(prompts(), iteration, world) == of_all_ranks(prompts(), iteration, 1)


def test_rollouts_are_full_even_where_a_pass_ends_within_one_or_train_is_smaller():
    for size in (6, 13, 20, 40):
        for iteration in range(4):
            records = of_all_ranks(prompts(size), iteration, 1)
            assert len(records) == size
            assert max(Counter(records).values()) <= -(-size // 13) + 1


def test_an_iteration_can_be_asked_for_at_any_time():
    source = prompts()
    last = of_all_ranks(source, 7, 1)
    for iteration in (0, 3, 7):
        repeated = of_all_ranks(source, iteration, 1)
    assert repeated == last == of_all_ranks(prompts(), 7, 1)


def test_passes_and_seeds_differ_in_order():
    whole = [of_all_ranks(prompts(13, seed), iteration, 1) for seed in (1, 2) for iteration in (0, 1)]
    assert len(set(map(tuple, whole))) == 4


def test_held_out_prompts_are_always_the_same_validation_records_without_repeats():
    chosen = prompts().held_out(10)
    assert chosen.tolist() == prompts().held_out(10).tolist()
    assert len(set(chosen.tolist())) == 10
    assert set(chosen) <= set(VALID)
    assert chosen.tolist() != prompts(seed=2).held_out(10).tolist()


def test_more_held_out_prompts_than_there_are_gives_them_all():
    assert sorted(prompts().held_out(999).tolist()) == VALID.tolist()


def test_fewer_held_out_prompts_are_a_part_of_more():
    assert set(prompts().held_out(5)) <= set(prompts().held_out(10))


def test_prompts_are_rebuilt_with_the_responses_sampled_for_them():
    response, mask = torch.tensor([[5, 2]]), torch.tensor([[1, 1]])
    batch = prompts().with_responses(torch.tensor([104]), response, mask)
    assert (batch.records, batch.texts) == ([104], None)
    assert batch.response_BT is response
    assert batch.response_mask_BT is mask


def test_prompts_are_built_with_what_was_really_written():
    batch = prompts().with_explanations(torch.tensor([104, 101]))
    assert (batch.records, batch.texts) == ([104, 101], ["text 104", "text 101"])


def test_candidates_are_told_by_name():
    assert prompts().candidate_names([2, 0]) == [["bed", "room"], ["sound", "bed"]]
