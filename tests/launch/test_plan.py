"""What is checked before anything is trained."""

from dataclasses import replace

import pytest

from datamodules.importers.embedded import write_embedded
from launch.config import load
from launch.plan import check_batches, check_corpus, rating_batch_size
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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_embedded(30, 20, 1, tmp_path_factory.mktemp("plan") / "corpus")


def without(corpus, split):
    """The corpus, the records of a split moved to another one."""
    split_R = corpus.split_R.copy()
    split_R[corpus.rows(split)] = 1 if split == "train" else 0
    return replace(corpus, split_R=split_R)


@pytest.mark.parametrize(
    ("split", "stage"), [("train", "hqar"), ("valid", "rating"), ("valid", "ppo"), ("test", "result")]
)
def test_a_split_without_records_is_refused_before_any_stage_by_the_stage_that_reads_it(corpus, split, stage):
    small = config("rating.fit.batch_size=32")
    check_corpus(small, corpus, [stage], ranks=1)
    with pytest.raises(InputError, match=f"no {split} record, which stage={stage} reads"):
        check_corpus(small, without(corpus, split), [stage], ranks=1)


def test_a_split_that_no_stage_still_reads_may_be_empty(corpus):
    check_corpus(config("rating.fit.batch_size=32"), without(corpus, "test"), ["rating", "ppo"], ranks=1)


def test_too_few_concepts_are_refused_before_the_graph_network_is_trained(corpus):
    small = config("rating.fit.batch_size=32")
    with pytest.raises(InputError, match="names no concept.*lower concept_min_count"):
        check_corpus(small, replace(corpus, concepts=[]), ["rating"], ranks=1)
    with pytest.raises(InputError, match="graph.candidates=5 is more than the 3 concepts"):
        check_corpus(small, replace(corpus, concepts=corpus.concepts[:3]), ["rating"], ranks=1)
    check_corpus(small, replace(corpus, concepts=[]), ["ccr"], ranks=1)


def test_a_rating_batch_that_would_hide_the_whole_graph_is_a_quarter_of_the_records(corpus):
    train = len(corpus.rows("train"))
    for ranks in (1, 2, 3, 8):
        size = rating_batch_size(config("rating.fit.batch_size=512"), train, ranks)
        assert size % ranks == 0
        assert train / 5 < size <= train / 4
    assert rating_batch_size(config(f"rating.fit.batch_size={train - 1}"), train, 1) == train - 1
    assert rating_batch_size(config("rating.fit.batch_size=512", "graph.leave_one_out=false"), train, 1) == 512


def test_records_for_no_batch_at_all_are_refused(corpus):
    with pytest.raises(InputError, match="4 train records, which one batch of 8 parts .* takes at once"):
        rating_batch_size(config("rating.fit.accumulate=2"), 4, 4)
