"""One rank or many: the same figures to the last digit."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from launch import dealing, evaluate
from launch.evaluate import EvaluateConfig
from launch.scoring import StandardConfig
from lightning_modules import collectives
from models.language_model import NewModelConfig
from models.text_encoder import create_encoder


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 4, 7, 8])
def test_rows_come_in_order_whatever_the_ranks(monkeypatch, world, n):
    """Of 7 records in batches of 4 the last batch is smaller; with more ranks than batches some get none."""

    def rows_of(batch):
        return np.array([[value, len(batch)] for value in batch])

    others = [
        [rows_of(range(n)[start : start + 4]) for start in range(0, n, 4)[rank::world]] for rank in range(1, world)
    ]
    monkeypatch.setattr(collectives, "gather_objects", lambda own: [own, *others])
    monkeypatch.setattr(dealing, "ranks", lambda: (0, world))
    merged = dealing.rows(rows_of, range(n), 4)
    assert merged[:, 0].tolist() == list(range(n))
    assert merged[:, 1].tolist() == [min(4, n - value // 4 * 4) for value in range(n)]


def test_two_ranks_print_what_one_prints(tmp_path, capsys):
    """40 records in batches of 32: the second rank has a smaller one for the encoder, and none for the text counts."""
    rng = np.random.default_rng(0)
    words = ["the", "room", "was", "nice", "pool", "bar", "staff"]
    texts = [" ".join(rng.choice(words, rng.integers(0, 12))) for _ in range(80)]
    lines = [{"record": n, "explanation": texts[2 * n], "reference": texts[2 * n + 1]} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    create_encoder(texts, NewModelConfig(width=16, layers=1, heads=2, vocabulary=300), tmp_path / "encoder", 0)
    standard = StandardConfig(encoder=str(tmp_path / "encoder"), batch_size=32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun's ranks have
    evaluate.main(
        EvaluateConfig(predictions=str(tmp_path / "a.jsonl"), suite="all", json=True, resamples=50, standard=standard)
    )
    torch.set_num_threads(threads)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", evaluate.__file__]
    command += ["predictions=a.jsonl", "suite=all", "json=true", "resamples=50"]
    command += ["standard.encoder=encoder", "standard.batch_size=32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    printed = capsys.readouterr().out.splitlines()[-1]
    assert "bert_score_f" in json.loads(printed)
    assert done.stdout.strip() == printed
