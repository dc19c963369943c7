"""Which pairs launch/explain.py explains, and by what."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from datamodules.build import BuildOptions, RawRecord, build_corpus
from datamodules.graph import build_graph, fold_of_records
from launch.config import load
from launch.explain import (
    ExplainConfig,
    Pair,
    as_known,
    as_text,
    cold_nodes,
    evidence_of,
    refuse_strangers,
    wanted_pairs,
)
from launch.schema import TrainConfig
from lightning_modules.rating import infer_evidence
from metrics.errors import InputError
from models.hgt import RatingModel


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


def test_a_person_is_told_by_what_a_newcomer_is_known():
    row = {"user": "u", "item": "i", "explanation": "fine", "predicted_rating": 3.14159, "concepts": []}
    assert as_text(row | {"cold": {}}) == "user u, item i\n  fine\n  predicted rating 3.14"
    told = as_text(row | {"cold": {"user": ["price", "sound"], "item": []}})
    assert "  the user is new, known by price, sound\n" in told
    assert "  the item is new, known by nothing; tell something by item_concepts or item_title\n" in told


def test_an_id_that_looks_like_a_token_is_an_id():
    sha1 = "0123456789abcdef" * 2 + "01234567"
    assert wanted_pairs(load(ExplainConfig, ["run=r", f"user={sha1}", "item=sk-1234567890abcdefgh"])[0]) == [
        Pair(sha1, "sk-1234567890abcdefgh")
    ]
    with pytest.raises(InputError, match="`run` holds what looks like a key or token"):
        load(ExplainConfig, [f"run={sha1}", "user=u", "item=i"])


SIZE = ["rating.model.width=8", "rating.model.heads=2", "rating.model.layers=1", "graph.folds=2", "graph.candidates=2"]
NAMES = ("price", "screen", "sound", "keys")


@pytest.fixture
def rated(tmp_path):
    """(config, corpus with an item that only test holds, a finished rating stage on it)."""
    rows = [
        RawRecord(n + 1, f"u{n % 4}", f"i{n % 5}", n % 5 + 1.0, "fine", [(NAMES[n % 4], "fine", 1)], "train")
        for n in range(20)
    ]
    rows.append(RawRecord(21, "u0", "late", 5.0, "fine", [("sound", "fine", 1)], "test", item_title="keys for all"))
    corpus = build_corpus(rows, tmp_path / "corpus", BuildOptions(on_bad_record="skip"), {})
    config, _ = load(TrainConfig, SIZE)
    graph = build_graph(corpus, config.graph)
    torch.manual_seed(0)
    model = RatingModel(graph.node_counts, graph.relations, config.rating.model, 3.0).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(asdict(config.rating.model)))
    fold_R = fold_of_records(corpus, config.graph, config.seed)
    evidence = infer_evidence(model, graph, corpus, fold_R, config.graph, config.seed)
    evidence.save(tmp_path / "evidence.safetensors")
    return config, corpus, SimpleNamespace(need=lambda name, stage: tmp_path), evidence


def found_for(rated, pairs):
    config, corpus, folder, _ = rated
    nodes = {kind: cold_nodes(corpus, pairs, kind) for kind in ("user", "item")}
    return evidence_of(config, corpus, folder, pairs, nodes, "ppo")[1]


def test_a_cold_item_of_the_corpus_is_served_as_a_newcomer_of_the_same_title_is(rated):
    found = found_for(rated, [Pair("u0", "late"), Pair("u0", "later", item_title="keys for all"), Pair("u0", "plain")])
    assert found.candidates(0) == found.candidates(1)
    assert torch.equal(found.items_FND[0, 5], found.items_FND[0, 6])
    assert not torch.equal(found.items_FND[0, 6], found.items_FND[0, 7])


def test_what_is_told_of_a_newcomer_gives_it_candidates_and_a_state_and_leaves_its_rating(rated):
    told = found_for(rated, [Pair("new", "i1", ("price",)), Pair("u0", "fresh", (), ("sound",))])
    silent = found_for(rated, [Pair("new", "i1"), Pair("u0", "fresh")])
    assert told.predicted_R.tolist() == silent.predicted_R.tolist()
    for mine, other in ((told.users_FND[0, 4], silent.users_FND[0, 4]), (told.items_FND[0, 6], silent.items_FND[0, 6])):
        assert (mine - other).abs().max() > 1e-3
    assert rated[1].concepts[told.candidates(0)[0].concept] == "price"
    assert told.candidates(1) != silent.candidates(1)


def test_a_pair_that_the_run_knows_is_explained_by_what_the_run_found(rated):
    _, corpus, _, evidence = rated
    record = int(corpus.rows("train")[3])
    user, item = corpus.users[corpus.user_R[record]], corpus.items[corpus.item_R[record]]
    found = found_for(rated, [Pair("stranger", item), Pair(user, item)])
    assert found.candidates(1) == evidence.candidates(record)
    assert (found.predicted_R[1], found.fold_R[1]) == (evidence.predicted_R[record], evidence.fold_R[record])


class Known:
    path, users, items = "data/mine", ["A195EZ", "A2"], ["B0001", "B0002"]


def refusal(pair):
    with pytest.raises(InputError) as error:
        refuse_strangers(pair, Known, set(Known.users), set(Known.items))
    return str(error.value)


def test_an_id_that_nobody_has_is_a_mistake_and_near_ones_are_offered():
    told = refusal(Pair("A195EX", "B0001"))
    assert told.startswith("user=A195EX: data/mine knows no such user; near are A195EZ; give new=true")
    assert "item=zzz: data/mine knows no such item; give new=true" in refusal(Pair("A2", "zzz"))


@pytest.mark.parametrize(
    "pair",
    [
        Pair("A2", "B0002"),
        Pair("newcomer", "B0002", new=True),
        Pair("newcomer", "B0002", ("price",)),
        Pair("A2", "new", (), (), "a capo"),
        Pair("A2", "new", (), ("price",)),
    ],
)
def test_who_is_known_or_told_of_is_no_mistake(pair):
    refuse_strangers(pair, Known, set(Known.users), set(Known.items))


def test_a_line_of_a_file_may_say_that_its_pair_is_new(tmp_path):
    data = b'{"user": "a", "item": "b", "new": true}\n{"user": "a", "item": "b"}\n'
    assert [pair.new for pair in read(tmp_path, data)] == [True, False]
    with pytest.raises(InputError, match=":1: 'new' is 'yes' where true or false is due"):
        read(tmp_path, b'{"user": "a", "item": "b", "new": "yes"}')


def test_an_id_is_found_in_the_spelling_of_the_corpus():
    users, items = {"u006", " old "}, {"3"}
    assert as_known(Pair("u006 ", "3.0"), users, items) == Pair("u006", "3")
    assert as_known(Pair(" old ", " 3"), users, items) == Pair(" old ", "3")
