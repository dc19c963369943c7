"""docs/metrics.md and the catalog say the same."""

import re
from pathlib import Path

from metrics.catalog import ALL

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
TABLES = "\n".join(line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `"))
FAITHFUL = PAGE.split("## Faithfulness")[1].split("##")[0]


def test_every_key_is_defined_on_the_page():
    defined = set(re.findall(r"`(\w+)`", TABLES + FAITHFUL))
    assert ALL.keys() - defined == set()


def test_the_page_defines_no_key_that_is_not_there():
    assert set(re.findall(r"`(\w+)`", TABLES)) - ALL.keys() == set()


def test_every_metric_says_which_way_is_better_and_how_it_is_printed():
    for metric in ALL.values():
        assert metric.better in ("higher", "lower", ""), metric
        assert metric.digits >= 0
        assert metric.definition.endswith((".", "(see its signature)."))
