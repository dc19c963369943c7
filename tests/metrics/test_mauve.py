"""MAUVE of histograms against its package, and its interval against fresh samples."""

import numpy as np
import pytest

from metrics.mauve import mauve_interval, mauve_of


def test_equal_histograms_have_the_highest_and_disjoint_ones_nearly_the_lowest():
    same, other = np.array([[0.5, 0.5, 0.0, 0.0]]), np.array([[0.0, 0.0, 0.2, 0.8]])
    assert mauve_of(same, same) == pytest.approx(1)
    assert mauve_of(same, other)[0] < 0.01
    assert mauve_interval(np.array([5, 0]), np.array([5, 0])) is None


def test_an_interval_lies_around_the_value_and_narrows_with_more_texts():
    counts = np.array([30, 20, 10, 40]), np.array([10, 40, 30, 20])
    value = mauve_of(*(count[None] / 100 for count in counts))[0]
    low, high = mauve_interval(*counts)
    narrow = mauve_interval(*(count * 9 for count in counts))
    assert 0 <= low < value < high <= 1
    assert narrow[1] - narrow[0] == pytest.approx((high - low) / 3, rel=0.05)


def test_it_is_that_of_the_package_and_covers_the_mean_over_samples():
    """Samples are clustered anew each time, which the jackknife, with the clusters as they are, does not see."""
    package = pytest.importorskip("mauve.compute_mauve", reason="mauve-text is optional")
    rng, values, bounds = np.random.default_rng(0), [], []
    for _ in range(80):
        references, texts = rng.normal(size=(150, 6)), rng.normal(0.35, 1.1, size=(150, 6))
        found = package.compute_mauve(p_features=references, q_features=texts, verbose=False)
        assert mauve_of(found.p_hist[None], found.q_hist[None])[0] == pytest.approx(found.mauve, abs=1e-9)
        values.append(found.mauve)
        bounds.append(mauve_interval(*(np.rint(150 * hist) for hist in (found.p_hist, found.q_hist))))
    assert np.mean([low <= np.mean(values) <= high for low, high in bounds]) >= 0.9
