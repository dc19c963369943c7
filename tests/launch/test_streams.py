"""Standard output that is not UTF-8: every entry point prints escapes for what the stream cannot encode."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STREAMS = {
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "the C locale, taken at its word": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "the C locale": {"LC_ALL": "C"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
}
PRINTS = """
import sys
from launch.config import command
from tests_schema import Schema
def main(config):
    print("caf\\u00e9 \\u4e2d \\ud800")
    print("caf\\u00e9 \\u4e2d \\ud800", file=sys.stderr)
command(main, Schema, "")
"""
ROWS = [
    {
        "user": f"\u00fcser {n % 4}",
        "item": f"\u9152\u5e97 {n // 4}",
        "rating": 1 + n % 5,
        "text": "The caf\u00e9 is great .",
    }
    for n in range(24)
]


def ran(arguments, stream, cwd):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(ROOT)} | STREAMS[stream],
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode("latin-1")
    return done


@pytest.mark.parametrize("stream", STREAMS)
def test_any_character_can_be_printed(tmp_path, stream):
    (tmp_path / "tests_schema.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Schema:\n    pass\n"
    )
    (tmp_path / "prints.py").write_text(PRINTS)
    done = ran(["prints.py"], stream, tmp_path)
    assert done.returncode == 0
    cafe = {
        "Latin-1": b"caf\xe9 \\u4e2d",
        "UTF-8": "caf\u00e9 \u4e2d".encode(),
        "the C locale": "caf\u00e9 \u4e2d".encode(),
    }
    expected = cafe.get(stream, rb"caf\xe9 \u4e2d") + rb" \ud800"
    assert done.stdout.strip() == expected
    assert done.stderr.strip() == expected


@pytest.mark.parametrize(
    ("stream", "name", "message"),
    [
        ("the C locale, taken at its word", "caf\u00e9".encode(), b"is read as ascii in this locale: set PYTHONUTF8=1"),
        ("UTF-8", b"caf\xe9", b"is not in UTF-8: rename the file"),
    ],
)
@pytest.mark.parametrize("entry", ["prepare", "inspect_corpus", "evaluate", "report"])
def test_a_name_that_python_cannot_read_is_one_sentence(tmp_path, entry, stream, name, message):
    keys = {
        "prepare": b"format=table out=o raw=",
        "inspect_corpus": b"data.path=",
        "evaluate": b"predictions=",
        "report": b"run=",
    }
    *others, last = keys[entry].split()
    done = ran([ROOT / "launch" / f"{entry}.py", *map(os.fsdecode, others), os.fsdecode(last + name)], stream, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: command line: ")
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("stream", ["ASCII", "Latin-1", "the C locale, taken at its word"])
def test_a_corpus_in_other_letters_is_prepared_looked_at_and_evaluated(tmp_path, stream):
    folder = "\u6570\u636e"
    if "locale" in stream:
        folder = "data"  # the name itself cannot be typed there
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "p.jsonl").write_text(json.dumps({"reference": "\u4e2d", "explanation": "caf\u00e9"}) + "\n")
    launch = ROOT / "launch"
    options = ["format=table", f"out={folder}", "concept_max_share=1.0", "concept_min_count=2"]
    assert ran([launch / "prepare.py", "raw=r.jsonl", *options], stream, tmp_path).returncode == 0
    refused = ran([launch / "prepare.py", f"raw={folder}.jsonl", *options], stream, tmp_path)
    assert (refused.returncode, refused.stderr[:6]) == (2, b"error:")
    looked = ran([launch / "inspect_corpus.py", f"data.path={folder}"], stream, tmp_path)
    assert b"records" in looked.stdout
    scored = ran([launch / "evaluate.py", "runs=[p.jsonl]", "resamples=0"], stream, tmp_path)
    assert scored.returncode == 0
