"""Predictions as columns, against the dicts that they were made of."""

import numpy as np
import pytest

from metrics import columns as module
from metrics.columns import Names, Predictions
from metrics.texts import strings

RECORDS = [
    {"explanation": "a \ud800", "reference": "", "record": 7, "user": "u", "item": 1, "rating": 3},
    {"explanation": "", "reference": "é b", "record": "7", "user": None, "user_index": 0, "concepts": []},
    {"explanation": "c", "reference": "d", "user": "u", "item": "1", "predicted_rating": 2.5, "user_index": 4,
     "concepts": [{"concept": "bar"}, {"concept": "spa", "score": 1}], "gold_concepts": ["spa", "spa"]},
    {"explanation": "c", "reference": "d"},
]  # fmt: skip


def told(predictions):
    """What is kept of each record, as dicts without what is absent."""
    rows = [{} for _ in range(len(predictions))]
    columns = {"explanation": strings(predictions.explanations), "reference": strings(predictions.references)}
    columns |= {key: ids.told() for key, ids in predictions.ids.items()}
    for key, values in predictions.numbers.items():
        columns[key] = [None if v in (np.iinfo(np.int64).min,) or v != v else v for v in values.tolist()]
    columns |= {key: names.told() for key, names in predictions.names.items()}
    for key, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[key] = value
    return rows


def plain(record):
    """The same of a record as given."""
    known = {key: value for key, value in record.items() if value is not None}
    return known | ({"concepts": [entry["concept"] for entry in known["concepts"]]} if "concepts" in known else {})


@pytest.mark.parametrize("chunk", [1, 3, 8192])
@pytest.mark.parametrize("places", [[0, 1, 2, 3], [3, 2, 2, 0], []])
def test_columns_hold_what_the_records_hold(monkeypatch, chunk, places):
    monkeypatch.setattr(module, "CHUNK", chunk)
    predictions = Predictions.of(RECORDS)
    assert told(predictions.take(np.array(places, dtype=np.int64))) == [plain(RECORDS[place]) for place in places]
    assert told(predictions[1:3]) == [plain(record) for record in RECORDS[1:3]]
    assert predictions.take(np.array([3, 1])).line_N.tolist() == [3, 1]


def test_no_records_are_no_rows():
    predictions = Predictions.of([])
    assert (len(predictions), told(predictions), list(predictions.rest())) == (0, [], [])


def test_the_rest_tells_records_apart_that_have_the_same_texts():
    rest = list(Predictions.of(RECORDS).rest())
    assert len(set(rest)) == len(RECORDS)
    bare = Predictions.of([{"explanation": "a", "reference": "b"}] * 2)
    assert list(bare.rest()) == [b"", b""]


def test_names_without_a_word_are_never_looked_for():
    names = Names.of([["spa", " "], None, ["é"]])
    assert list(names.encoded()) == [[b"spa"], [], ["é".encode()]]
    assert list(names.told()) == [["spa", " "], None, ["é"]]
