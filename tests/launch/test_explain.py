"""Which pairs launch/explain.py explains, and by what."""

import json

import pytest

from launch.config import load
from launch.explain import ExplainConfig, Pair, wanted_pairs
from metrics.errors import InputError


def read(tmp_path, data):
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(data)
    return wanted_pairs(load(ExplainConfig, ["run=r", f"pairs={file}"])[0])


def test_pairs_are_read_a_line_each_whatever_stands_in_their_texts(tmp_path):
    rows = [
        {"user": "ü", "item": 5},
        {"user": "new\u2028comer", "item": "i", "user_concepts": ["price", " "], "item_title": "a\x85b"},
    ]
    data = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode() + b"\n"
    assert read(tmp_path, data) == [Pair("ü", "5"), Pair("new\u2028comer", "i", ("price",), (), "a\x85b")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "holds no pair"),
        (b"u,i", ":1: is not JSON"),
        (b'["u", "i"]', ":1: is JSON but not an object"),
        (b'{"user": "u"}', ":1: has no 'item'"),
        (b'{"user": null, "item": "i"}', ":1: has no 'user'"),
        (b'{"user": "\xfc", "item": "i"}', ":1: holds bytes or escapes that are not valid UTF-8"),
        (b'{"user": "u", "item": "i", "user_concepts": "price"}', ":1: 'user_concepts' is 'price' where a list"),
        (b'{"user": "u", "item": "i", "item_concepts": [1]}', ":1: 'item_concepts' is .* where a list"),
    ],
)
def test_a_file_without_pairs_or_with_a_bad_line_is_one_sentence(tmp_path, line, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, line)
