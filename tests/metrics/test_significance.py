"""Paired tests against sacreBLEU's own, scipy's, and tests whose outcome is known."""

import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from metrics.columns import Predictions
from metrics.families import SharedPairs, Sums, means
from metrics.measures import Measures
from metrics.mentions import Mentions
from metrics.paper import measure
from metrics.significance import bootstrap_p, compare, compare_groups, holm, randomisation
from metrics.standard import library_rows, measure_library
from metrics.suite import counts_of, evaluate, resampled

WORDS = ["the", "room", "was", "nice", "pool", "bar", "staff", "very", "clean", "and"]


def corpus(n, kept, noise):
    """References, and hypotheses that keep each word with probability `kept`."""
    rng = random.Random(1)
    references = [rng.choices(WORDS, k=rng.randint(6, 14)) for _ in range(n)]
    rng = random.Random(noise)
    return [" ".join(words) for words in references], [
        " ".join(word if rng.random() < kept else rng.choice(WORDS) for word in words) for words in references
    ]


def measured(records):
    columns = Predictions.of(records)
    return measure(columns, None, counts_of(columns))


def of_values(values):
    return Measures(len(values), [means({"m": np.asarray(values, dtype=float)}, "record")])


@pytest.mark.parametrize(("kept", "kind"), [(0.62, "ar"), (0.60, "ar"), (0.62, "bs"), (0.60, "bs")])
def test_p_of_bleu_is_that_of_sacrebleu(kept, kind):
    references, ours = corpus(150, 0.6, noise=2)
    _, theirs = corpus(150, kept, noise=3)
    test = PairedTest([("a", ours), ("b", theirs)], {"BLEU": BLEU(force=True)}, [references], kind, 4000)
    expected = test()[1]["BLEU"][1].p_value
    assert 0.002 < expected < 0.9  # a case that tells something
    a, b = (measure_library(library_rows(texts, references, False), False) for texts in (ours, theirs))
    if kind == "ar":
        p = randomisation(a, b, 4000, 0)["sacrebleu"]
    else:
        # sacreBLEU's p centres absolute differences, so it is one-sided for a clear difference and too small for an
        # unclear one; with its formula our draws give its p, with ours the two-sided one
        differences = resampled(a, 4000, 0)["sacrebleu"] - resampled(b, 4000, 0)["sacrebleu"]
        sizes, observed = np.abs(differences), abs(a.values()["sacrebleu"] - b.values()["sacrebleu"])
        p = (1 + (sizes - sizes.mean() > observed).sum()) / 4001
        assert bootstrap_p(differences) > p
    # both are drawn: their difference has a standard error of about sqrt(2 p (1 - p) / 4000)
    assert p == pytest.approx(expected, abs=4 * np.sqrt(2 * max(expected * (1 - expected), 2e-4) / 4000))


def test_p_of_a_mean_is_that_of_scipy():
    rng = np.random.default_rng(0)
    ours = rng.normal(size=60)
    theirs = ours + rng.normal(0.12, 0.5, size=60)
    expected = stats.permutation_test(
        (ours, theirs),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20000,
        rng=np.random.default_rng(1),
    ).pvalue
    assert 0.01 < expected < 0.5
    assert randomisation(of_values(ours), of_values(theirs), 20000, 0)["m"] == pytest.approx(expected, abs=0.015)


def test_the_interval_of_a_difference_is_that_of_scipy():
    rng = np.random.default_rng(3)
    ours = rng.gamma(2.0, size=80)
    theirs = ours * 0.9 + rng.normal(0, 0.3, size=80)
    expected = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=8000,
        rng=np.random.default_rng(4),
    ).confidence_interval
    found = compare(of_values(ours), of_values(theirs), ["m"], resamples=8000, trials=10)["m"]
    assert found.ci == pytest.approx([expected.low, expected.high], abs=0.008)


def test_p_is_uniform_where_there_is_no_difference():
    rng = np.random.default_rng(5)
    p = [randomisation(of_values(rng.normal(size=30)), of_values(rng.normal(size=30)), 199, 0)["m"] for _ in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_equal_systems_do_not_differ():
    references, ours = corpus(40, 0.6, noise=2)
    records = [{"explanation": a, "reference": b} for a, b in zip(ours, references, strict=True)]
    measures = measured(records)
    found = compare(measures, measures, list(measures.values()), resamples=50, trials=50)
    assert len(found) > 20
    assert {test.difference for test in found.values()} == {0}
    assert {test.p for test in found.values()} == {1}


def test_exchanging_records_gives_the_metrics_of_the_exchanged_texts():
    references, ours = corpus(12, 0.6, noise=2)
    _, theirs = corpus(12, 0.3, noise=3)
    swap = np.random.default_rng(0).integers(0, 2, 12)
    mixed = [b if s else a for a, b, s in zip(ours, theirs, swap, strict=True)]
    sides = []
    for texts in (ours, theirs, mixed):
        records = [{"explanation": a, "reference": b} for a, b in zip(texts, references, strict=True)]
        sides.append(measured(records).families)
    for a, b, expected in zip(*sides, strict=True):  # BLEU, and the means
        assert isinstance(a, Sums)
        assert a.exchanged(b, swap[None].astype(float))[0][0] == pytest.approx(expected.weighted(np.ones((1, 12)))[0])


def test_records_change_places_where_each_system_leaves_other_ones_undefined():
    ours, theirs = np.array([1.0, np.nan, 3.0, 4.0]), np.array([2.0, 5.0, 6.0, np.nan])
    swap = np.array([[1.0, 0.0, 0.0, 1.0]])
    a, b = (means({"m": values, "whole": np.arange(4.0)}, "record") for values in (ours, np.nan_to_num(theirs)))
    assert a.exchanged(b, swap)[0][0].tolist() == pytest.approx([(2 + 3 + 0) / 3, 6 / 4])
    assert a.exchanged(b, swap)[1][0].tolist() == pytest.approx([(1 + 5 + 6 + 4) / 4, 6 / 4])


def test_exchanging_explanations_gives_the_div_of_the_exchanged_ones():
    rng = random.Random(0)
    ours, theirs = ([set(rng.choices(range(5), k=rng.randint(0, 3))) for _ in range(15)] for _ in range(2))
    swap = np.random.default_rng(1).integers(0, 2, 15)
    mixed = [b if s else a for a, b, s in zip(ours, theirs, swap, strict=True)]
    other = [a if s else b for a, b, s in zip(ours, theirs, swap, strict=True)]
    a, b = (SharedPairs.of(["div"], Mentions.of(found), 9) for found in (ours, theirs))
    got = a.exchanged(b, swap[None].astype(float))
    expected = [SharedPairs.of(["div"], Mentions.of(found), 9).weighted(np.ones((1, 15))) for found in (mixed, other)]
    assert [value[0, 0] for value in got] == pytest.approx([value[0, 0] for value in expected])


def test_holm_is_the_step_down_correction():
    # sorted .01 .02 .03 .04: times 4 3 2 1, never less than the one before
    assert holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_seeds_are_compared_by_their_means():
    rng = np.random.default_rng(0)
    ours = [of_values(rng.normal(0.5, 1, size=100)) for _ in range(3)]
    theirs = [of_values(rng.normal(0.0, 1, size=100)) for _ in range(2)]
    found = compare_groups(ours, theirs, ["m"], 500, 500)["m"]
    assert found.ours == pytest.approx(np.mean([m.values()["m"] for m in ours]))
    assert found.difference == pytest.approx(found.ours - found.theirs)
    assert found.ci[0] <= found.difference <= found.ci[1]
    assert found.p < 0.05


def test_jackknifed_metrics_are_tested_by_record():
    rng = random.Random(0)
    varied = [{"explanation": " ".join(rng.choices(WORDS, k=6)), "reference": "a"} for _ in range(300)]
    poor = [{"explanation": " ".join(rng.choices(WORDS[:3], k=3)), "reference": "a"} for _ in range(300)]
    a, b = (measured(records) for records in (varied, poor))
    found = compare(a, b, ["usr", "entr", "usn"], 100, 100)
    for test in found.values():
        assert test.p < 1e-6
        assert test.ci[0] <= test.difference <= test.ci[1]


def test_all_texts_equal_differs_from_all_texts_different():
    unique = [{"explanation": f"w{n}", "reference": "a"} for n in range(50)]
    same = [{"explanation": "w", "reference": "a"} for _ in range(50)]
    a, b = (measured(records) for records in (unique, same))
    found = compare(a, b, ["usr"], 10, 10)["usr"]
    assert found.p < 1e-9
    assert (found.ci, found.no_ci) == (None, "no single record changes it")


def test_what_has_no_interval_or_test_says_why():
    sides = [
        Measures(4, [means({"m": np.array([1.0, bad, 2.0, 3.0])}, "record")], plain={"mauve": 0.5}) for bad in (0, 9)
    ]
    sides[1].draws[50, 0] = {"m": np.full(50, np.nan)}
    found = compare(*sides, ["m", "mauve"], 50, 50)
    assert (found["m"].ci, found["m"].no_ci, found["m"].no_p) == (None, "a resample leaves it undefined", None)
    assert found["mauve"].p is None
    assert found["mauve"].no_p.startswith("each system's texts were clustered with the references on their own")
    assert found["m"].p_holm == found["m"].p  # what has no test is not counted


def test_intervals_do_not_depend_on_the_order_of_the_files_lines():
    references, ours = corpus(50, 0.6, noise=2)
    records = [{"explanation": a, "reference": b} for a, b in zip(ours, references, strict=True)]
    assert evaluate(records, None, 50) == evaluate(records[::-1], None, 50)
