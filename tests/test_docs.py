"""The documentation names tests and scripts that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "NOTES.md", *(ROOT / "docs").glob("*.md")]


def test_every_test_that_is_named_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)\(", tests, re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?<![\w/])(test_\w+)(?![\w.])", page.read_text())}
    assert len(named) > 50
    assert named - defined == set()


def test_every_script_that_is_named_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"(?:tests|benchmarks)/[\w/]+\.\w+", page.read_text())}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
