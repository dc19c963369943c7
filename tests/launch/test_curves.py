"""metrics.csv of a run that goes on: the rows up to the checkpoint, then its own."""

import csv

import pytest

from launch.curves import continued_csv


def rows(folder):
    with (folder / "rating" / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), row["loss"]) for row in csv.DictReader(file)]


def log(logger, *steps):
    for step in steps:
        logger.log_metrics({"loss": step / 10}, step=step)
    logger.save()


def test_rows_after_the_checkpoint_are_repeated_not_doubled(tmp_path):
    log(continued_csv(tmp_path, "rating", 0), 0, 1, 2, 3)
    log(continued_csv(tmp_path, "rating", 2), 2, 3, 4)
    assert rows(tmp_path) == [(0, "0.0"), (1, "0.1"), (2, "0.2"), (3, "0.3"), (4, "0.4")]


def test_a_fresh_start_begins_a_fresh_file(tmp_path):
    log(continued_csv(tmp_path, "rating", 0), 0, 1)
    log(continued_csv(tmp_path, "rating", 0), 0)
    assert rows(tmp_path) == [(0, "0.0")]


def test_a_new_column_leaves_old_rows_whole(tmp_path):
    log(continued_csv(tmp_path, "rating", 0), 0, 1)
    logger = continued_csv(tmp_path, "rating", 2)
    logger.log_metrics({"rmse": 1.0}, step=1)
    logger.save()
    assert rows(tmp_path) == [(0, "0.0"), (1, "0.1"), (1, "")]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_start_that_is_cut_off_loses_no_row(tmp_path, cut):
    log(continued_csv(tmp_path, "rating", 0), 0, 1)
    path = tmp_path / "rating" / "metrics.csv"
    kept = path.with_name("metrics.kept.csv")
    path.rename(kept)
    if cut == "after":
        path.write_text("loss,step\n")
    log(continued_csv(tmp_path, "rating", 2), 2)
    assert rows(tmp_path) == [(0, "0.0"), (1, "0.1"), (2, "0.2")]
    assert not kept.exists()
