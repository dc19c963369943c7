"""Scores of 32,003 published texts against the log of those who generated them."""

import gzip
import json
import os
from pathlib import Path

import pytest

from metrics.suite import evaluate

DATA = Path(os.environ.get("LLM2ER_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
ORACLE = DATA / "metric_oracle"
NAMES = ("bleu_1", "bleu_4", "usr", "usn", *(f"rouge_{kind}_{part}" for kind in "12l" for part in "frp"))


@pytest.fixture(scope="module")
def oracle():
    if not ORACLE.is_dir():
        pytest.skip(f"the folder metric_oracle is not in LLM2ER_DATA ({DATA})")
    expected = json.loads((ORACLE / "tripadvisor_pepler.expected.json").read_text())
    with gzip.open(ORACLE / "tripadvisor_pepler.full.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    predictions = [{"explanation": pair["generated"], "reference": pair["reference"]} for pair in pairs]
    assert len(predictions) == expected["n"]
    return evaluate(predictions, None, resamples=0), expected["reported"]


@pytest.mark.parametrize("name", NAMES)
def test_the_published_figure_is_met_to_its_last_printed_digit(oracle, name):
    scores, reported = oracle
    assert round(scores[name], 4) == reported[name if name.startswith("rouge") else name.upper()]
