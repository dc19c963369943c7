"""Errors of predicted ratings, and the bias model that every recommender has to beat."""

# R records

import numpy as np

from metrics.errors import InputError


def rating_errors(predicted_R: np.ndarray, rating_R: np.ndarray, rating_min: float, rating_max: float) -> np.ndarray:
    """errors_R: predictions, clipped to the rating range, minus ratings."""
    return np.clip(predicted_R, rating_min, rating_max) - rating_R


def rmse(predicted_R: np.ndarray, rating_R: np.ndarray, rating_min: float, rating_max: float) -> float:
    """Root mean squared error of predictions clipped to the rating range."""
    return float(np.sqrt(np.mean(rating_errors(predicted_R, rating_R, rating_min, rating_max) ** 2)))


def mae(predicted_R: np.ndarray, rating_R: np.ndarray, rating_min: float, rating_max: float) -> float:
    """Mean absolute error of predictions clipped to the rating range."""
    return float(np.mean(np.abs(rating_errors(predicted_R, rating_R, rating_min, rating_max))))


def fit_bias(
    user_R: np.ndarray, item_R: np.ndarray, rating_R: np.ndarray, n_users: int, n_items: int, reg: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """(mu, b_user, b_item): the mean rating, and the biases that minimise squared error + reg * their squares.

    Each side in turn has a closed form given the other; repeated until no bias moves by more than 1e-9. Users and items
    without a record keep 0. Raises InputError for no records or for a reg of 0, which leaves the biases undetermined.
    """
    if len(rating_R) == 0:
        raise InputError("The bias model needs at least one train record: the train split is empty.")
    if reg <= 0:
        raise InputError(f"The bias model needs reg > 0, got {reg}.")
    mu = float(np.mean(rating_R))
    b_user, b_item = np.zeros(n_users), np.zeros(n_items)
    user_weights = np.bincount(user_R, minlength=n_users) + reg
    item_weights = np.bincount(item_R, minlength=n_items) + reg
    for _ in range(10_000):
        before = b_user, b_item
        b_user = np.bincount(user_R, rating_R - mu - b_item[item_R], n_users) / user_weights
        b_item = np.bincount(item_R, rating_R - mu - b_user[user_R], n_items) / item_weights
        moved = [np.abs(new - old).max(initial=0) for new, old in zip((b_user, b_item), before, strict=True)]
        if max(moved) < 1e-9:
            break
    return mu, b_user, b_item


def predict_bias(
    mu: float, b_user: np.ndarray, b_item: np.ndarray, user_R: np.ndarray, item_R: np.ndarray
) -> np.ndarray:
    """predicted_R = mu + b_user + b_item, not clipped."""
    return mu + b_user[user_R] + b_item[item_R]
