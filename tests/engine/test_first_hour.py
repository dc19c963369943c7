"""README's "Your own data", typed by somebody with 300 reviews of 30 users and 20 items, on two ranks."""

import csv
import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASPECTS = (
    *("handle", "lid", "colour", "price", "battery", "strap", "zipper", "box", "manual", "shape", "weight", "sound"),
    *("screen", "keyboard", "cable", "stand", "cover", "button", "wheel", "seat", "pocket", "lens", "motor", "blade"),
    *("filter", "charger"),
)
PRAISE, BLAME = ("great", "comfortable", "sturdy", "beautiful"), ("terrible", "ugly", "flimsy", "awful")


def write_reviews(path: Path) -> None:
    draw = random.Random(5)
    pairs = draw.sample([(user, item) for user in range(30) for item in range(20)], 300)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["uid", "sku", "stars", "body"])
        for user, item in pairs:
            stars = draw.choice([1, 2, 4, 5, 5])
            words = PRAISE if stars > 3 else BLAME
            one, other = draw.sample(ASPECTS, 2)
            text = f"The {one} is {draw.choice(words)}.<br />The {other} is {draw.choice(words)} &amp; it came late."
            table.writerow([f"user{user:02d}", f"item{item:02d}", stars, text])


def typed(*words: str) -> str:
    """Runs a command as a user types it in the repository; returns what it printed."""
    tools = Path(sys.executable).parent
    variables = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.long
def test_300_reviews_become_explanations(tmp_path: Path) -> None:
    home = tmp_path / "my data"
    home.mkdir()
    write_reviews(home / "reviews.csv")
    columns = ["columns.user=uid", "columns.item=sku", "columns.rating=stars", "columns.text=body"]
    printed = typed(
        *("python", "launch/prepare.py", f"raw={home / 'reviews.csv'}", "format=table", f"out={home / 'corpus'}"),
        *columns,
    )
    assert "texts cleaned of markup" in printed
    look, train = printed.partition("\nnext: ")[2].strip().splitlines()
    run = home / "run"
    words = [f"run_dir={run}" if word.startswith("run_dir=") else word for word in shlex.split(train)]
    typed(*shlex.split(look), f"html={tmp_path / 'inspect.html'}")
    typed(*words)
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    assert all(row["explanation"] for row in rows)
    told = typed("python", "launch/explain.py", f"run={run}", f"user={rows[0]['user']}", f"item={rows[0]['item']}")
    assert rows[0]["explanation"] in told
    assert "bleu_1" in typed("python", "launch/evaluate.py", f"predictions={run / 'predictions.jsonl'}")
    table = tmp_path / "table.html"
    typed("python", "launch/evaluate.py", f"runs=[{run},{run / 'explanation' / 'predictions.jsonl'}]", f"out={table}")
    assert "<table" in table.read_text()
