"""What the rating stage hands on: read back as written, from the right fold, and never from the record itself."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from datamodules.build import BuildOptions, RawRecord, build_corpus
from datamodules.candidates import FREQUENT, OF_ITEM, OF_USER, SHARED, VIA_ITEM, Candidate
from datamodules.corpus import Mention
from datamodules.evidence import Evidence, describe, stack_candidates
from datamodules.graph import GraphConfig, build_graph, fold_of_records
from lightning_modules import rating
from lightning_modules.rating import infer_evidence
from metrics.errors import InputError
from models.hgt import HGTConfig, RatingModel

USUAL = [f"concept{i}" for i in range(8)]
CONFIG = GraphConfig(folds=3, candidates=4)


def raw_records(users=7, items=6):
    """Every user explains four items with two usual concepts; the first record names a concept that no other has."""
    draw = np.random.default_rng(0)
    rows = []
    for user in range(users):
        for item in draw.choice(items, 4, replace=False):
            named = draw.choice(len(USUAL), 2, replace=False)
            mentions = [(USUAL[c], "", int(draw.choice([-1, 1]))) for c in named]
            rows.append(RawRecord(1, f"u{user}", f"i{item}", int(draw.integers(1, 6)), "words .", mentions, "train"))
    rows[0] = rows[0]._replace(mentions=[*rows[0].mentions, ("zeppelin", "", 1)])
    return [*rows[:-2], rows[-2]._replace(split="valid"), rows[-1]._replace(split="test")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(raw_records(), tmp_path_factory.mktemp("evidence") / "corpus", BuildOptions(), {})


@pytest.fixture(scope="module")
def model(corpus):
    graph = build_graph(corpus, CONFIG)
    torch.manual_seed(0)
    return RatingModel(graph.node_counts, graph.relations, HGTConfig(width=8, heads=2, mlp_width=8), 3.0).eval()


def evidence_of(model, corpus, config=CONFIG):
    fold_R = fold_of_records(corpus, config, seed=1)
    return infer_evidence(model, build_graph(corpus, config), corpus, fold_R, config, seed=1)


@pytest.fixture(scope="module")
def evidence(model, corpus):
    return evidence_of(model, corpus)


def test_it_is_read_back_as_it_was_written(evidence, tmp_path):
    evidence.save(tmp_path / "evidence.safetensors")
    back = Evidence.load(tmp_path / "evidence.safetensors")
    for field in fields(Evidence):
        ours, theirs = getattr(evidence, field.name), getattr(back, field.name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), field.name


def test_a_missing_file_names_the_stage_to_run(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.safetensors.*stage=rating"):
        Evidence.load(tmp_path / "nothing.safetensors")


def test_a_planted_concept_is_never_offered_to_the_record_that_wrote_it(model, corpus, evidence):
    planted = corpus.concepts.index("zeppelin")
    assert planted in {mention.concept for mention in corpus.mentions[0]}
    assert planted not in evidence.concept_RK[0].tolist()
    leaking = evidence_of(model, corpus, replace(CONFIG, leave_one_out=False))
    assert planted in leaking.concept_RK[0].tolist(), "the test has no power if nothing would leak"


def test_what_a_train_record_reads_does_not_depend_on_what_it_says(model, corpus, evidence):
    for record in corpus.rows("train")[::4].tolist():
        rating_R, mentions = corpus.rating_R.copy(), list(corpus.mentions)
        rating_R[record] = 6 - rating_R[record] + (rating_R[record] == 3)
        mentions[record] = [Mention(corpus.concepts.index("zeppelin"), "", -1)]
        changed = evidence_of(model, replace(corpus, rating_R=rating_R, mentions=mentions))
        assert changed.candidates(record) == evidence.candidates(record)
        assert changed.predicted_R[record] == evidence.predicted_R[record]
        ours, theirs = (e.states(torch.tensor([record]), corpus) for e in (evidence, changed))
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def offered_to_a_lone_record(folder, own):
    """Names of what is offered to a record of a user and an item that no other record has, if it mentions `own`."""
    usual = [RawRecord(n, f"u{n % 4}", f"i{n}", 4, "words .", [("ab"[n % 2], "", 1)], "train") for n in range(8)]
    rows = [*usual, RawRecord(9, "lone", "alone", 4, "words .", [(own, "", 1)], "train")]
    corpus = build_corpus(rows, folder / own, BuildOptions(), {})
    config = GraphConfig(folds=9, candidates=2)  # each record is a fold of its own
    graph = build_graph(corpus, config)
    model = RatingModel(graph.node_counts, graph.relations, HGTConfig(width=8, heads=2, mlp_width=8), 3.0).eval()
    return [corpus.concepts[found.concept] for found in evidence_of(model, corpus, config).candidates(8)]


def test_the_own_mention_of_a_record_makes_no_concept_frequent(tmp_path):
    assert offered_to_a_lone_record(tmp_path, "a") == ["a", "b"]
    assert offered_to_a_lone_record(tmp_path, "b") == ["a", "b"]


def test_valid_and_test_records_read_the_whole_train_graph(model, corpus, evidence):
    states = model.encode(build_graph(corpus, CONFIG).edges())
    records = np.concatenate([corpus.rows("valid"), corpus.rows("test")])
    users, items = evidence.states(torch.from_numpy(records), corpus)
    assert torch.equal(users, states["user"][corpus.user_R[records].astype(np.int64)])
    assert torch.equal(items, states["item"][corpus.item_R[records].astype(np.int64)])


def test_train_records_read_the_states_of_the_graph_without_their_fold(model, corpus, evidence):
    graph = build_graph(corpus, CONFIG)
    for record in corpus.rows("train")[::7].tolist():
        fold = int(evidence.fold_R[record])
        assert fold > 0
        states = model.encode(graph.edges(without=np.flatnonzero(evidence.fold_R.numpy() == fold)))
        users, items = evidence.states(torch.tensor([record]), corpus)
        torch.testing.assert_close(users[0], states["user"][corpus.user_R[record]])
        torch.testing.assert_close(items[0], states["item"][corpus.item_R[record]])


def test_predictions_stay_on_the_scale_and_sentiment_is_that_of_the_prediction(evidence):
    assert evidence.predicted_R.min() >= 1
    assert evidence.predicted_R.max() <= 5
    expected = [-1 if r < 2.5 else 1 if r >= 3.5 else 0 for r in evidence.predicted_R.tolist()]
    assert evidence.sentiment_R.tolist() == expected


def test_random_candidates_are_different_concepts_drawn_by_the_seed(model, corpus, evidence):
    control = evidence_of(model, corpus, replace(CONFIG, candidate_source="random"))
    assert all(len(set(row)) == 4 for row in control.concept_RK.tolist())
    assert control.concept_RK.tolist() != evidence.concept_RK.tolist()
    again = evidence_of(model, corpus, replace(CONFIG, candidate_source="random"))
    assert torch.equal(control.concept_RK, again.concept_RK)


def test_more_candidates_than_concepts_is_refused_by_key(model, corpus):
    with pytest.raises(InputError, match=r"graph\.candidates=50.* use at most 9"):
        evidence_of(model, corpus, replace(CONFIG, candidates=50))


def test_candidates_come_back_from_their_columns():
    rows = [
        [Candidate(3, 1, 0.5, SHARED), Candidate(1, -1, 0.25, VIA_ITEM, 2)],
        [Candidate(0, 0, 0.125, OF_ITEM), Candidate(2, 1, 0.0, FREQUENT)],
    ]
    unused = dict.fromkeys(("users_FND", "items_FND", "fold_R", "predicted_R", "sentiment_R"), torch.zeros(1))
    evidence = Evidence(**unused, **stack_candidates(rows))
    assert [evidence.candidates(record) for record in (0, 1)] == rows


def test_a_path_is_told_in_the_original_ids(corpus):
    user, item, via = (corpus.users.index("u3"), corpus.items.index("i2"), corpus.items.index("i5"))
    concept = corpus.concepts.index("concept4")
    told = {
        kind: describe(Candidate(concept, -1, 0.12345678, kind, via), user, item, corpus)
        for kind in (SHARED, VIA_ITEM, OF_ITEM, OF_USER, FREQUENT)
    }
    assert {kind: row["path"] for kind, row in told.items()} == {
        SHARED: ["u3", "concept4", "i2"],
        VIA_ITEM: ["u3", "i5", "concept4", "i2"],
        OF_ITEM: ["concept4", "i2"],
        OF_USER: ["u3", "concept4"],
        FREQUENT: ["concept4"],
    }
    assert told[VIA_ITEM] | {"path": []} == {
        "concept": "concept4",
        "polarity": -1,
        "score": 0.123457,
        "kind": "via_item",
        "path": [],
    }


def test_where_training_is_sampled_the_graph_is_read_by_parts_with_the_same_result(
    model, corpus, evidence, monkeypatch
):
    monkeypatch.setattr(rating, "EDGES_AT_ONCE", 7)
    parted = evidence_of(model, corpus, replace(CONFIG, sampling="neighbor"))
    for field in fields(Evidence):
        torch.testing.assert_close(getattr(parted, field.name), getattr(evidence, field.name), atol=1e-5, rtol=1e-5)
