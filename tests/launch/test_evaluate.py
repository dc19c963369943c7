import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.corpus import Corpus, write_corpus
from launch.evaluate import EvaluateConfig, train_knowledge
from metrics.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "evaluate.py"

# user, item, rating, concepts, split: the last record is test and alone in naming concept 2
RECORDS = [
    (0, 0, 5.0, [0], "train"),
    (0, 1, 4.0, [0, 1], "train"),
    (1, 1, 2.0, [3], "train"),
    (1, 0, 3.0, [2], "test"),
]
CONCEPTS = ["room", "pool", "spa", "bar"]


@pytest.fixture
def corpus_path(tmp_path):
    users, items, ratings, concepts, splits = zip(*RECORDS, strict=True)
    mention = pa.struct([("concept", pa.int32()), ("opinion", pa.string()), ("polarity", pa.int8())])
    mentions = [[{"concept": concept, "opinion": "", "polarity": 1} for concept in row] for row in concepts]
    n = len(RECORDS)
    tables = {
        "records": pa.table(
            {
                "record": pa.array(range(n), pa.int32()),
                "user": pa.array(users, pa.int32()),
                "item": pa.array(items, pa.int32()),
                "rating": pa.array(ratings, pa.float32()),
                "explanation": [" ".join(CONCEPTS[concept] for concept in row) for row in concepts],
                "concepts": pa.array(mentions, pa.list_(mention)),
                "time": pa.array([None] * n, pa.int64()),
                "split": list(splits),
            }
        ),
        "users": pa.table({"id": ["ann", "7"]}),
        "items": pa.table({"id": ["inn", "hut"], "title": ["", ""], "attributes": ["", ""]}),
        "concepts": pa.table({"concept": CONCEPTS, "train_records": [2, 1, 0, 1]}),
    }
    write_corpus(tmp_path / "corpus", tables, {"options": {"rating_min": 1.0, "rating_max": 5.0}})
    return tmp_path / "corpus"


@pytest.fixture
def run_path(tmp_path):
    """A run's folder with two predictions."""
    predictions = [
        {"record": 3, "user": 7, "item": "inn", "explanation": "room bar", "reference": "spa and bar"},
        {"record": 9, "user": "ann", "item": "inn", "explanation": "room", "reference": "room"},
    ]
    run = tmp_path / "run"
    run.mkdir()
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in predictions))
    return run


def evaluate(*arguments, cwd):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_knowledge_comes_from_train_records_alone(corpus_path):
    knowledge = train_knowledge(Corpus.load(corpus_path))
    assert knowledge.concepts == ["room", "pool", "bar"]
    assert knowledge.user_concepts == [{0, 1}, {2}]
    assert knowledge.item_concepts == [{0}, {0, 1, 2}]
    assert (knowledge.rating_min, knowledge.rating_max) == (1, 5)


def test_json_is_one_flat_object(corpus_path, run_path, tmp_path):
    done = evaluate(f"predictions={run_path}/predictions.jsonl", f"data.path={corpus_path}", "json=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert all(np.isscalar(value) or isinstance(value, list) for value in scores.values())
    assert scores["n"] == 2
    assert scores["fcr"] == pytest.approx(2 / 3)
    assert scores["cor"] == pytest.approx(1 / 2)
    assert scores["cmr"] == 1  # user 7 brings the bar, the inn the room
    assert scores["cmr_both"] == pytest.approx((0 + 1) / 2)


def test_the_corpus_of_the_run_is_found_from_its_config(corpus_path, run_path, tmp_path):
    (run_path / "config.yaml").write_text("name: x\ndata:\n  path: corpus\n")
    done = evaluate("predictions=run/predictions.jsonl", "json=true", "resamples=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cmr"] == 1


def test_without_a_corpus_one_line_names_what_is_skipped(run_path, tmp_path):
    done = evaluate("predictions=run/predictions.jsonl", "resamples=10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bleu_1" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "no corpus was given or found" in line]
    assert len(lines) == 1
    assert "cor" in lines[0]


def test_a_user_outside_the_corpus_is_one_sentence(corpus_path, run_path, tmp_path):
    line = {"record": 5, "user": "bob", "item": "inn", "explanation": "room", "reference": "room"}
    (run_path / "predictions.jsonl").write_text(json.dumps(line))
    done = evaluate("predictions=run/predictions.jsonl", "data.path=corpus", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: user 'bob' of prediction 5 is not in corpus; give the corpus of the run")
    assert "Traceback" not in done.stderr


def test_a_corpus_that_moved_is_named(run_path, tmp_path):
    (run_path / "config.yaml").write_text("data:\n  path: gone\n")
    done = evaluate("predictions=run/predictions.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "config.yaml: data.path=gone is no folder seen from here; give data.path=CORPUS." in done.stderr


def test_a_broken_config_of_the_run_is_named(run_path, tmp_path):
    (run_path / "config.yaml").write_text("data: [")
    done = evaluate("predictions=run/predictions.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "config.yaml cannot be read" in done.stderr


def test_negative_resamples_are_refused():
    with pytest.raises(InputError, match="resamples=-1 must not be negative"):
        EvaluateConfig(predictions="x", resamples=-1)
