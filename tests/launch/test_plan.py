"""What is checked before anything is trained."""

import pytest

from launch.config import load
from launch.plan import check_batches
from launch.schema import TrainConfig
from metrics.errors import InputError


def config(*arguments):
    return load(TrainConfig, list(arguments))[0]


@pytest.mark.parametrize("stage", ["all", "ppo"])
def test_a_mini_batch_that_ranks_cannot_share_is_refused_before_any_stage(stage):
    odd = config(f"stage={stage}", "ppo.mini_batch_size=1")
    check_batches(odd, ranks=1)
    with pytest.raises(InputError, match="ppo.mini_batch_size=1 cannot be split evenly over 2 ranks.*use 2"):
        check_batches(odd, ranks=2)


def test_micro_batches_count_too():
    with pytest.raises(InputError, match="ccr.fit.batch_size=64 cannot .* accumulate=3"):
        check_batches(config("ccr.fit.batch_size=64", "ccr.fit.accumulate=3"), ranks=1)


def test_a_stage_that_is_not_run_is_not_checked():
    check_batches(config("stage=rating", "ppo.mini_batch_size=1"), ranks=2)
