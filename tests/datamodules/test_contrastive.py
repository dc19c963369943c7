"""Pairs of explanations and concept lists for the CCR encoder."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.build import BuildOptions, RawRecord, build_corpus
from datamodules.contrastive import ContrastiveData, concept_text, encode_texts, paired_concepts
from metrics.errors import InputError
from models.language_model import train_tokenizer

NAMES = [f"concept{letter}" for letter in "abcde"]
MENTIONED = [["a", "b"], [], ["c", "c", "d"], ["a", "b", "c", "d", "e"], ["e"], ["a"], ["b"], []]
SPLITS = ["train"] * 6 + ["valid"] * 2


def corpus_of(path, mentioned=MENTIONED):
    rows = [
        RawRecord(1, "ann", f"item{row}", 4, f"text number {row} .", [(f"concept{c}", "", 1) for c in names], "train")
        for row, names in enumerate(mentioned)
    ]
    corpus = build_corpus(rows, path, BuildOptions(), {})
    corpus.split_R[:] = [("train", "valid").index(split) for split in SPLITS]
    return corpus


@pytest.fixture
def corpus(tmp_path):
    return corpus_of(tmp_path / "corpus")


@pytest.fixture
def evidence(corpus):
    """Three candidates for every record: d, a, e."""
    row = [corpus.concepts.index(f"concept{c}") for c in "dae"]
    return SimpleNamespace(concept_RK=torch.tensor([row] * 8))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" , ".join(NAMES), "text number 0 1 2 3 4 5 6 7 ."] * 3, 320)


def data(corpus, evidence, tokenizer, batch_size=3, rank=0, world=1, seed=1):
    module = ContrastiveData(corpus, evidence, tokenizer, batch_size, 1, seed)
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world)
    return module


@pytest.mark.parametrize(
    ("record", "expected"), [(0, "abd"), (1, "dae"), (2, "cda"), (3, "abcde"), (4, "eda")], ids=str
)
def test_a_list_is_what_a_record_mentions_filled_up_with_its_candidates(corpus, evidence, record, expected):
    names = [corpus.concepts[c] for c in paired_concepts(corpus, evidence, record)]
    assert names == [f"concept{c}" for c in expected]


def test_a_concept_list_is_read_with_commas():
    assert concept_text(["sound", "battery life"]) == "sound , battery life"


def test_texts_are_padded_on_the_right(tokenizer):
    ids_BS, mask_BS = encode_texts(tokenizer, ["text number 1 .", "text"])
    length = int(mask_BS[1].sum())
    assert length < ids_BS.shape[1]
    assert mask_BS[1].tolist() == [1] * length + [0] * (ids_BS.shape[1] - length)
    assert set(ids_BS[1, length:].tolist()) == {tokenizer.pad_token_id}
    assert tokenizer.decode(ids_BS[1, :length]).strip() == "text"


def test_texts_are_cut_at_the_limit(tokenizer):
    ids_BS, _ = encode_texts(tokenizer, ["text " * 100], most=5)
    assert ids_BS.shape == (1, 5)


def test_special_tokens_written_in_a_text_stay_text(tokenizer):
    ids_BS, _ = encode_texts(tokenizer, ["a <eos> b <pad> c"])
    assert not set(ids_BS[0].tolist()) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids_BS[0]).strip() == "a <eos> b <pad> c"


def test_records_that_mention_nothing_give_no_pair(corpus, evidence, tokenizer):
    module = data(corpus, evidence, tokenizer)
    trained = [r for batch in module.train_dataloader() for r in batch.record_B.tolist()]
    checked = [r for batch in module.val_dataloader() for r in batch.record_B.tolist()]
    assert sorted(trained) == [0, 2, 3, 4, 5]
    assert checked == [6]


def test_a_pair_holds_the_explanation_and_the_concepts_of_its_record(corpus, evidence, tokenizer):
    for batch in data(corpus, evidence, tokenizer).train_dataloader():
        texts = tokenizer.batch_decode(batch.text_BS, skip_special_tokens=True)
        lists = tokenizer.batch_decode(batch.concepts_BS, skip_special_tokens=True)
        for record, text, names in zip(batch.record_B.tolist(), texts, lists, strict=True):
            assert text.strip() == corpus.explanations[record]
            expected = {corpus.concepts[c] for c in paired_concepts(corpus, evidence, record)}
            assert set(names.strip().split(" , ")) == expected


def test_the_order_of_a_list_is_random_but_drawn_by_seed_and_record(corpus, evidence, tokenizer):
    def lists(seed, batch_size):
        loader = data(corpus, evidence, tokenizer, batch_size, seed=seed).train_dataloader()
        found = {}
        for batch in loader:
            found |= dict(zip(batch.record_B.tolist(), tokenizer.batch_decode(batch.concepts_BS), strict=True))
        return {record: names.replace("<pad>", "").strip() for record, names in found.items()}

    assert lists(1, 2) == lists(1, 5)
    assert any(lists(1, 5) != lists(seed, 5) for seed in (2, 3))
    orders = {lists(seed, 5)[3] for seed in range(8)}
    assert len(orders) > 1


def test_ranks_share_out_the_pairs(corpus, evidence, tokenizer):
    seen = []
    for rank in range(2):
        loader = data(corpus, evidence, tokenizer, batch_size=4, rank=rank, world=2).train_dataloader()
        for batch in loader:
            pairs = zip(batch.record_B.tolist(), batch.weight_B.tolist(), strict=True)
            seen += [record for record, weight in pairs if weight]
    assert sorted(seen) == [0, 2, 3, 4, 5]


def test_a_split_without_any_concept_is_refused_with_the_remedy(tmp_path, evidence, tokenizer):
    corpus = corpus_of(tmp_path / "mute", [["a"]] * 6 + [[], []])
    with pytest.raises(InputError, match="no valid record mentions a concept.*import the corpus with concepts"):
        data(corpus, evidence, tokenizer).val_dataloader()
