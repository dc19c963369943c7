import numpy as np
import pytest

from metrics import bootstrap as module
from metrics.bleu import bleu_statistics, corpus_bleu
from metrics.bootstrap import bootstrap, interval
from metrics.families import SharedPairs
from metrics.mentions import Mentions


def half_width(values_R: np.ndarray) -> float:
    low, high = interval(values_R)
    return (high - low) / 2


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error():
    values = np.random.default_rng(1).gamma(2.0, size=2000)
    means = bootstrap(lambda weights: weights @ values / len(values), len(values), resamples=4000)
    assert half_width(means) == pytest.approx(1.96 * values.std() / np.sqrt(2000), rel=0.05)
    assert np.mean(interval(means)) == pytest.approx(values.mean(), abs=0.005)


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(400):
        values = rng.normal(size=60)
        low, high = interval(bootstrap(lambda weights, v=values: weights @ v / 60, 60, 200, seed))
        covered += low <= 0 <= high
    assert 0.91 <= covered / 400 <= 0.97


def test_the_interval_of_div_has_the_width_of_a_u_statistic():
    # one concept, named with probability p: DIV estimates p^2 with standard error 2 p sqrt(p (1 - p) / n)
    n = 1500
    found = [{0} if drawn else set() for drawn in np.random.default_rng(3).random(n) < 0.4]
    p = sum(map(len, found)) / n
    values = bootstrap(SharedPairs.of(["div"], Mentions.of(found), 9).weighted, n, resamples=2000)[:, 0]
    assert half_width(values) == pytest.approx(1.96 * 2 * p * np.sqrt(p * (1 - p) / n), rel=0.08)
    assert values.mean() == pytest.approx(p**2, abs=0.002)


def test_resampled_bleu_is_the_bleu_of_the_records_drawn():
    hypotheses = ["a b c", "a c", "b b a", "x a b"]
    references = ["a b d", "c a c", "a b", "a b x"]
    drawn = []

    def statistic(weights_RN: np.ndarray) -> np.ndarray:
        drawn.extend(weights_RN)
        return corpus_bleu(weights_RN @ bleu_statistics(hypotheses, references), 2)

    values = bootstrap(statistic, 4, resamples=20)
    for weights, value in zip(drawn, values, strict=True):
        rows = np.repeat(np.arange(4), weights.astype(int))
        texts = [hypotheses[row] for row in rows], [references[row] for row in rows]
        assert len(rows) == 4
        assert value == pytest.approx(corpus_bleu(bleu_statistics(*texts).sum(axis=0), 2))


def test_a_seed_gives_the_same_resamples_and_another_seed_others():
    values = np.arange(30.0)
    first, again, other = (bootstrap(lambda weights: weights @ values, 30, 50, seed) for seed in (4, 4, 5))
    assert first.tolist() == again.tolist() != other.tolist()


def test_weights_come_in_bounded_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 100)
    shapes = []
    values = bootstrap(lambda weights: shapes.append(weights.shape) or weights.sum(axis=1), 30, resamples=10)
    assert shapes == [(3, 30)] * 3 + [(1, 30)]
    assert values.tolist() == [30] * 10


def test_an_undefined_resample_leaves_no_interval():
    assert interval(np.array([1.0, np.nan, 2.0])) is None


def test_the_interval_is_central():
    assert interval(np.arange(1001.0), level=0.9) == pytest.approx([50, 950])
