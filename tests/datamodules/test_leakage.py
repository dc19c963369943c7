"""The leak check finds every planted violation, and none where there is none."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.build import BuildOptions, build_corpus
from datamodules.corpus import Corpus, sha256_of
from datamodules.graph import GraphConfig, build_graph
from datamodules.importers.embedded import write_embedded
from datamodules.leakage import check_leakage
from datamodules.records import RawRecord


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    return write_embedded(40, 20, 5, tmp_path_factory.mktemp("leakage") / "embedded")


JUDGED = ("sound", "neck", "cable", "price", "finish")


@pytest.fixture
def extracted(tmp_path):
    """Reviews; "secret" is judged in test alone, "finish" in train."""
    records = []
    for n in range(60):
        split = "train" if n < 40 else "test"
        also = " and the secret is really great ." if split == "test" else " ."
        text = f"we got it . the {JUDGED[n % 5]} is really great for what it is , number {n}{also}"
        records.append(RawRecord(n + 1, f"u{n % 4}", f"i{n}" if n < 40 else f"i{n - 40}", 5.0, text, None, split))
    records = [r for r in records if r.split == "train" or r.user != f"u{int(r.item[1:]) % 4}"] + [
        r._replace(user=f"u{(int(r.item[1:]) + 1) % 4}") for r in records if r.split == "test"
    ]
    options = BuildOptions(explanation="sentence", concept_min_count=2, concept_max_share=1.0)
    return build_corpus(records, tmp_path / "extracted", options, {"file": "r"})


def leaks(corpus, graph=None):
    return {finding.check for finding in check_leakage(corpus, graph) if finding.leak}


def rewrite(corpus, name, table):
    """Put another table into the folder, with a manifest that fits."""
    pq.write_table(table, corpus.path / name)
    manifest = json.loads((corpus.path / "manifest.json").read_text())
    manifest["files"][name] = sha256_of(corpus.path / name)
    (corpus.path / "manifest.json").write_text(json.dumps(manifest))
    return Corpus.load(corpus.path)


def test_none_is_found_where_there_is_none(embedded, extracted):
    assert leaks(embedded) == set()
    assert leaks(extracted) == set()
    assert "secret" not in extracted.concepts


def test_a_held_out_pair_in_train_is_found(embedded):
    user_R, item_R = embedded.user_R.copy(), embedded.item_R.copy()
    train, test = embedded.rows("train")[0], embedded.rows("test")[0]
    user_R[test], item_R[test] = user_R[train], item_R[train]
    assert "held-out pairs in train" in leaks(replace(embedded, user_R=user_R, item_R=item_R))


def test_held_out_texts_that_were_copied_to_train_are_found(embedded):
    texts = list(embedded.explanations)
    item_rows = {int(embedded.item_R[row]): row for row in embedded.rows("train").tolist()}
    for number, row in enumerate(embedded.rows("test").tolist()):
        texts[row] = f"a text of its own that nobody else would ever write , {number} ."
        texts[item_rows[int(embedded.item_R[row])]] = texts[row]
    assert "held-out texts in train" in leaks(replace(embedded, explanations=texts))


@pytest.mark.parametrize("planted", ["a concept of test alone", "counts over all splits"])
def test_concepts_from_held_out_records_are_found(embedded, tmp_path, planted):
    records = [
        RawRecord(1, "u", "i", 5.0, "fine sound .", [("sound", "fine", 1)], "train"),
        RawRecord(2, "u", "j", 5.0, "fine sound .", [("sound", "fine", 1)], "train"),
        RawRecord(3, "v", "i", 5.0, "fine sound .", [("sound", "fine", 1)], "train"),
        RawRecord(4, "v", "j", 5.0, "fine sound .", [("sound", "fine", 1)], "test"),
    ]
    corpus = build_corpus(records, tmp_path / "c", BuildOptions(), {})
    names, counts = (["sound", "secret"], [3, 1]) if planted == "a concept of test alone" else (["sound"], [4])
    table = pa.table({"concept": names, "train_records": pa.array(counts, pa.int32())})
    assert "concepts known from held-out records" in leaks(rewrite(corpus, "concepts.parquet", table))


def test_a_numbering_by_the_popularity_of_all_records_is_found(embedded):
    counts = np.bincount(embedded.user_R, minlength=len(embedded.users))
    order = np.lexsort((embedded.users, -counts))
    number = np.argsort(order)
    popular = replace(embedded, users=[embedded.users[i] for i in order], user_R=number[embedded.user_R])
    assert "popularity of held-out records" in leaks(popular)


def test_a_vocabulary_that_was_fitted_on_test_as_well_is_found(extracted):
    """As if `secret`, which test alone judges, had been fitted and then met in one train text."""
    train = int(extracted.rows("train")[0])
    mentions = [list(row) for row in extracted.mentions]
    mentions[train] = [mention._replace(concept=len(extracted.concepts)) for mention in mentions[train]]
    fitted_on_all = replace(extracted, concepts=[*extracted.concepts, "secret"], mentions=mentions)
    assert "vocabulary fitted on held-out texts" in leaks(fitted_on_all)


def test_reviews_of_test_that_were_fitted_on_are_found(extracted):
    table = pq.read_table(extracted.path / "reviews.parquet")
    everything = table.set_column(3, "fitted", pa.array([True] * table.num_rows))
    assert "vocabulary fitted on held-out texts" in leaks(rewrite(extracted, "reviews.parquet", everything))


def test_an_edge_of_a_test_record_is_found(embedded):
    graph = build_graph(embedded, GraphConfig(), [*embedded.rows("train").tolist(), int(embedded.rows("test")[0])])
    assert "edges of held-out records" in leaks(embedded, graph)


def test_a_graph_that_reads_held_out_records_is_found(embedded, monkeypatch):
    def careless(corpus, config, records=None):
        return build_graph(corpus, config, range(len(corpus.user_R)))

    monkeypatch.setattr("datamodules.leakage.build_graph", careless)
    assert {"graph built from junk held-out records", "edges of held-out records"} <= leaks(embedded)
