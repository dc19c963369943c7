import numpy as np
import pytest

from metrics.errors import InputError
from metrics.rating import fit_bias, mae, predict_bias, rmse


def test_errors_of_predictions_inside_the_range():
    predicted, rating = np.array([1.0, 3.0]), np.array([2.0, 5.0])
    assert rmse(predicted, rating, 1, 5) == pytest.approx(np.sqrt((1 + 4) / 2))
    assert mae(predicted, rating, 1, 5) == pytest.approx(1.5)


def test_predictions_are_clipped_to_the_range():
    predicted, rating = np.array([-3.0, 9.0]), np.array([2.0, 5.0])
    assert rmse(predicted, rating, 1, 5) == pytest.approx(np.sqrt(1 / 2))
    assert mae(predicted, rating, 1, 5) == pytest.approx(1 / 2)


def test_biases_solve_the_normal_equations():
    rng = np.random.default_rng(0)
    n_users, n_items, reg = 7, 5, 0.3
    user, item = rng.integers(0, n_users, 40), rng.integers(0, n_items, 40)
    rating = rng.uniform(1, 5, 40)
    mu, b_user, b_item = fit_bias(user, item, rating, n_users, n_items, reg)
    design = np.zeros((40, n_users + n_items))
    design[np.arange(40), user] = design[np.arange(40), n_users + item] = 1
    normal = design.T @ design + reg * np.eye(n_users + n_items)
    expected = np.linalg.solve(normal, design.T @ (rating - rating.mean()))
    assert mu == pytest.approx(rating.mean())
    np.testing.assert_allclose(np.concatenate([b_user, b_item]), expected, atol=1e-7)


def test_users_and_items_without_records_keep_a_bias_of_zero():
    mu, b_user, b_item = fit_bias(np.array([0]), np.array([1]), np.array([4.0]), 3, 2, 1.0)
    assert b_user[1:].tolist() == [0, 0]
    assert b_item[0] == 0
    assert predict_bias(mu, b_user, b_item, np.array([2]), np.array([0])).tolist() == [4.0]


def test_prediction_adds_the_biases():
    predicted = predict_bias(3.0, np.array([0.5, -1]), np.array([0.25, 0]), np.array([0, 1]), np.array([0, 0]))
    assert predicted.tolist() == [3.75, 2.25]


def test_no_records_and_no_regularisation_are_refused():
    none = np.array([], dtype=int)
    with pytest.raises(InputError, match="at least one train record"):
        fit_bias(none, none, none.astype(float), 1, 1, 1.0)
    with pytest.raises(InputError, match="reg > 0"):
        fit_bias(np.array([0]), np.array([0]), np.array([1.0]), 1, 1, 0.0)
