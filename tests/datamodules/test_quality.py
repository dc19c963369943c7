"""The high-quality set H: a language model's perplexity by hand, the chain of filters, and a user's own file."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.build import BuildOptions, RawRecord, build_corpus
from datamodules.quality import (
    HighQualityConfig,
    QualityData,
    bigram_perplexities,
    pad,
    read_high_quality,
    select_high_quality,
)
from metrics.errors import InputError

EVERYTHING = {"min_words": 1, "max_words": 99, "min_concepts": 0, "perplexity_share": 1.0, "top_share": 1.0}


def test_bigram_perplexity_by_hand():
    """Sentences "a b", "a c", "a b"; vocabulary a, b, c, </s>; 9 predicted words, 6 without a sentence's own 3.

    First and third, from the other two: P(a|<s>) = .6*2/2 + .3*2/6 + .1/4; P(b|a) = .6*1/2 + .3*1/6 + .1/4;
    P(</s>|b) = .6*1/1 + .3*2/6 + .1/4. Second: P(a|<s>) as before; P(c|a) = .1/4, unseen; nothing else follows c,
    so P(</s>|c) = .3*2/6 + .1/4.
    """
    first = (0.725 * 0.375 * 0.725) ** (-1 / 3)
    second = (0.725 * 0.025 * 0.125) ** (-1 / 3)
    assert bigram_perplexities(["a b", "a c", "A B"]) == pytest.approx([first, second, first], rel=1e-12)


def test_a_text_is_no_evidence_for_itself():
    others = ["the room was clean .", "the room was quiet ."]
    strange = "zebra quark lamp fjord ."
    alone = bigram_perplexities([*others, strange])
    twice = bigram_perplexities([*others, strange, strange])
    assert alone[2] > alone[0]
    assert twice[2] < alone[2]


def corpus_of(tmp_path, rows):
    """rows: (text, rating, [(concept, polarity)], split)."""
    raw = [
        RawRecord(1, "ann", f"item{row}", rating, text, [(name, "", sign) for name, sign in mentions], split)
        for row, (text, rating, mentions, split) in enumerate(rows)
    ]
    return build_corpus(raw, tmp_path / "corpus", BuildOptions(on_bad_record="skip"), {})


def test_each_filter_takes_out_what_it_should_and_is_counted(tmp_path):
    good = [("sound", 1)]
    corpus = corpus_of(
        tmp_path,
        [
            ("the sound is warm and clear", 5, good, "train"),  # 0 kept
            ("sound good", 5, good, "train"),  # too short
            ("the sound is " + "very " * 9 + "warm", 5, good, "train"),  # too long
            ("this is warm and nice too", 5, [], "train"),  # no concept
            ("the sound is bad and thin", 5, [("sound", -1)], "train"),  # bad words, good rating
            ("the sound is fine and bold", 2, good, "train"),  # good words, bad rating
            ("the sound is so and so", 2, [("sound", 1), ("room", -1)], "train"),  # 6 kept: undecided
            ("the room is cold and loud", 1, [("room", -1)], "train"),  # 7 kept
            ("great sound and a great room", 5, good, "train"),  # repeated
            ("Great sound and a great room", 4, good, "train"),  # repeated, but for case
            ("the sound is warm and round", 5, good, "test"),  # not of train
        ],
    )
    config = HighQualityConfig(min_words=5, max_words=8, min_concepts=1, perplexity_share=1.0, top_share=1.0)
    records, steps = select_high_quality(corpus, config)
    assert records.tolist() == [0, 6, 7]
    assert steps == [
        ("train explanations", 10),
        ("words", 8),
        ("concepts", 7),
        ("polarity", 5),
        ("not repeated", 3),
        ("perplexity", 3),
        ("best score", 3),
    ]
    _, without = select_high_quality(corpus, HighQualityConfig(**EVERYTHING, polarity_agrees=False))
    assert "polarity" not in dict(without)


def test_bounds_of_length_and_concepts_belong_to_what_is_kept(tmp_path):
    rows = [
        (" ".join(f"w{row}x{i}" for i in range(row + 1)), 5, [("sound", 1)] * (row > 1), "train") for row in range(6)
    ]
    corpus = corpus_of(tmp_path, rows)
    config = HighQualityConfig(**EVERYTHING | {"min_words": 2, "max_words": 4})
    assert select_high_quality(corpus, config)[0].tolist() == [1, 2, 3]
    config = HighQualityConfig(**EVERYTHING | {"min_concepts": 1})
    assert select_high_quality(corpus, config)[0].tolist() == [2, 3, 4, 5]


def test_a_concept_named_twice_is_one(tmp_path):
    twice = [("sound", 1), ("sound", 1)]
    rows = [("warm sound", 5, twice, "train"), ("warm room", 5, [("room", 1), ("sound", 1)], "train")]
    config = HighQualityConfig(**EVERYTHING | {"min_concepts": 2})
    assert select_high_quality(corpus_of(tmp_path, rows), config)[0].tolist() == [1]


def test_the_share_with_the_lowest_perplexity_is_kept(tmp_path):
    usual = [(f"the room was clean and {word}", 5, [], "train") for word in ("quiet", "warm", "big", "neat")]
    corpus = corpus_of(tmp_path, [("purple fjord hums beyond seven", 5, [], "train"), *usual])
    config = HighQualityConfig(**EVERYTHING | {"perplexity_share": 0.8})
    records, steps = select_high_quality(corpus, config)
    assert records.tolist() == [1, 2, 3, 4]
    assert dict(steps)["perplexity"] == 4


def test_the_best_score_prefers_concepts_and_different_words(tmp_path):
    """All four have four words of the same frequencies, hence nearly one perplexity."""
    rows = [
        ("a a b b", 5, [], "train"),
        ("a b c d", 5, [("a", 1), ("b", 1)], "train"),
        ("c c d d", 5, [], "train"),
        ("d c b a", 5, [("c", 1), ("d", 1)], "train"),
    ]
    config = HighQualityConfig(**EVERYTHING | {"top_share": 0.5})
    records, steps = select_high_quality(corpus_of(tmp_path, rows), config)
    assert records.tolist() == [1, 3]
    assert steps[-1] == ("best score", 2)


def test_at_least_one_text_is_kept(tmp_path):
    rows = [("one two three", 5, [], "train"), ("four five six", 5, [], "train")]
    config = HighQualityConfig(**EVERYTHING | {"top_share": 0.01})
    assert len(select_high_quality(corpus_of(tmp_path, rows), config)[0]) == 1


def test_a_chain_that_leaves_nothing_says_what_each_filter_left(tmp_path):
    rows = [("one two three", 5, [], "train"), ("four five six", 5, [], "train")]
    with pytest.raises(InputError, match=r"train explanations: 2, words: 2, concepts: 0.*hqar\.high_quality\.file"):
        select_high_quality(corpus_of(tmp_path, rows), HighQualityConfig(min_words=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perplexity_share": 0.0}, r"hqar\.high_quality\.perplexity_share=0\.0"),
        ({"top_share": 1.5}, r"hqar\.high_quality\.top_share=1\.5"),
        ({"min_words": 9, "max_words": 8}, r"min_words=9 is above hqar\.high_quality\.max_words=8"),
    ],
)
def test_bad_values_are_refused_by_key(options, message):
    with pytest.raises(InputError, match=message):
        HighQualityConfig(**options)


def test_a_users_own_texts_are_read_in_order(tmp_path):
    file = tmp_path / "gold.jsonl"
    file.write_text('{"explanation": " warm sound . "}\n{"user": 1, "explanation": "naïve 😀"}\n', encoding="utf-8")
    assert read_high_quality(str(file)) == ["warm sound .", "naïve 😀"]


@pytest.mark.parametrize(
    "line", ["not json", '{"text": "x"}', '{"explanation": " "}', "[1]", '"explanation"', "", '{"explanation": null}']
)
def test_a_bad_line_is_told_by_file_and_number(tmp_path, line):
    file = tmp_path / "gold.jsonl"
    file.write_text('{"explanation": "fine"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"gold\.jsonl:2: expected .*explanation"):
        read_high_quality(str(file))


def test_only_a_newline_ends_a_line(tmp_path):
    """JSON may hold other line separators unescaped within a text; an editor counts none of them as a line."""
    file = tmp_path / "gold.jsonl"
    file.write_text('{"explanation": "warm\u2028sound\x85here"}\n{"explanation": "fine"}\n', encoding="utf-8")
    assert len(read_high_quality(str(file))) == 2


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path):
    (tmp_path / "gold.jsonl").write_bytes(b'{"explanation": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"gold\.jsonl"):
        read_high_quality(str(tmp_path / "gold.jsonl"))


def test_an_absent_or_empty_file_is_refused_by_key(tmp_path):
    with pytest.raises(InputError, match=r"hqar\.high_quality\.file=.*absent\.jsonl: no such file"):
        read_high_quality(str(tmp_path / "absent.jsonl"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=r"hqar\.high_quality\.file=.*empty\.jsonl: the file is empty"):
        read_high_quality(str(tmp_path / "empty.jsonl"))


def quality_data(batch_size=8, rank=0, world=1):
    real, sampled = [[10 + i] * (i % 3 + 1) for i in range(20)], [[50 + i] for i in range(20)]
    data = QualityData(real, sampled, fill=0, batch_size=batch_size, accumulate=1, seed=1)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
    return data


def test_a_tenth_of_real_and_of_sampled_texts_is_kept_for_validation():
    data = quality_data()
    parts = []
    for loader in (data.val_dataloader(), data.train_dataloader()):
        batches = list(loader)
        parts.append({int(row[0]) for batch in batches for row in batch.text_BT})
    assert parts[0] == {19, 29, 59, 69}
    assert parts[0] | parts[1] == set(range(10, 30)) | set(range(50, 70))
    assert not parts[0] & parts[1]


def test_labels_texts_and_masks_belong_together():
    for batch in quality_data().train_dataloader():
        assert batch.real_B.tolist() == [float(first < 50) for first in batch.text_BT[:, 0].tolist()]
        for ids, mask in zip(batch.text_BT.tolist(), batch.mask_BT.tolist(), strict=True):
            length = (ids[0] - 10) % 3 + 1 if ids[0] < 50 else 1
            assert ids == [ids[0]] * length + [0] * (len(ids) - length)
            assert mask == [1] * length + [0] * (len(ids) - length)


def test_padding_by_hand():
    ids_BT, mask_BT = pad([[5], [6, 7, 8], []], fill=9)
    assert torch.equal(ids_BT, torch.tensor([[5, 9, 9], [6, 7, 8], [9, 9, 9]]))
    assert torch.equal(mask_BT, torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0]]))
