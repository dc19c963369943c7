"""The two rewards as a scorer gives them, and their running standardisation."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from lightning_modules.ppo.rewards import RunningMoments, Scorer
from metrics.errors import InputError
from models.language_model import train_tokenizer
from models.text_encoder import TextEncoder

WORDS = ["warm", "sound", "room", ",", "!"]


def word_tokenizer(first="<pad>"):
    """One token a word: `first`, then WORDS, then the end token, which pads where nothing else does."""
    vocabulary = {word: i for i, word in enumerate([first, *(w for w in WORDS if w != first), "<eos>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=WORDS[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    special = {"eos_token": "<eos>", "pad_token": first if first == "<pad>" else "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


class Bag(nn.Module):
    """Stands for a BERT: token i is the unit vector e_i. Remembers what it read."""

    def __init__(self, vocabulary):
        super().__init__()
        self.table = nn.Parameter(torch.eye(vocabulary))
        self.config = SimpleNamespace(hidden_size=vocabulary)
        self.read = []

    def forward(self, input_ids, attention_mask):
        rows = zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
        self.read += [[i for i, kept in zip(ids, mask, strict=True) if kept] for ids, mask in rows]
        return SimpleNamespace(last_hidden_state=self.table[input_ids])


class Judge(nn.Module):
    """Stands for a discriminator: the logit of a token is its id."""

    vocabulary = 1000

    def forward(self, text_BT, mask_BT):
        return text_BT.float()


def scorer_of(policy_tokenizer, clip=0.0, reduce="mean"):
    encoder_tokenizer = word_tokenizer()
    bag = Bag(len(encoder_tokenizer))
    encoder = TextEncoder(bag, encoder_tokenizer.all_special_ids)
    return Scorer(encoder, encoder_tokenizer, Judge(), policy_tokenizer, clip, reduce), bag, encoder_tokenizer


def responses(tokenizer, *texts, length=6):
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    response = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    return response, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])


def test_ccr_is_the_cosine_of_explanation_and_candidates_by_hand():
    tokenizer = word_tokenizer()
    scorer, _, _ = scorer_of(tokenizer)
    scores = scorer.score(*responses(tokenizer, "warm warm sound", "room"), [["sound"], ["sound", "room"]])
    # (2, 1) against (0, 1); e_room against the mean of sound, comma and room.
    assert scores.ccr_B.tolist() == pytest.approx([1 / math.sqrt(5), 1 / math.sqrt(3)])


def test_the_best_explanation_of_a_list_is_that_list_and_the_worst_shares_no_word():
    tokenizer = word_tokenizer()
    scorer, _, _ = scorer_of(tokenizer)
    scores = scorer.score(*responses(tokenizer, "sound , room", "warm"), [["sound", "room"]] * 2)
    assert scores.ccr_B.tolist() == pytest.approx([1, 0], abs=1e-6)


def test_the_encoder_reads_the_words_alone_without_end_token_and_padding():
    tokenizer = word_tokenizer()
    scorer, bag, encoder_tokenizer = scorer_of(tokenizer)
    scorer.score(*responses(tokenizer, "warm sound", "room"), [["sound"], ["sound"]])
    read = [encoder_tokenizer.decode(ids).split() for ids in bag.read[:2]]
    assert sorted(read) == [["room"], ["warm", "sound"]]


def test_the_encoder_reads_the_words_alone_where_token_zero_is_a_word():
    """As in GPT-2's vocabulary, whose token 0 is an exclamation mark and which pads with the end token."""
    tokenizer = word_tokenizer("!")
    assert tokenizer.decode([0]) == "!"
    scorer, bag, encoder_tokenizer = scorer_of(tokenizer)
    scorer.score(*responses(tokenizer, "warm sound", "room"), [["sound"], ["sound"]])
    read = [encoder_tokenizer.decode(ids).split() for ids in bag.read[:2]]
    assert sorted(read) == [["room"], ["warm", "sound"]]


def test_an_explanation_without_words_earns_no_ccr():
    tokenizer = word_tokenizer()
    scorer, _, _ = scorer_of(tokenizer)
    assert scorer.score(*responses(tokenizer, "", "sound"), [["sound"]] * 2).ccr_B.tolist() == pytest.approx([0, 1])
    assert scorer.score(*responses(tokenizer, "", ""), [["sound"]] * 2).ccr_B.tolist() == [0, 0]


def test_each_candidate_list_is_encoded_once_and_order_makes_another_list():
    tokenizer = word_tokenizer()
    scorer, bag, encoder_tokenizer = scorer_of(tokenizer)
    for _ in range(3):
        scorer.score(
            *responses(tokenizer, "warm", "warm", "warm"), [["sound", "room"], ["sound", "room"], ["room", "sound"]]
        )
    read = [encoder_tokenizer.decode(ids) for ids in bag.read]
    assert read.count("sound , room") == read.count("room , sound") == 1


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_hqar_is_softplus_of_the_logits_over_the_response(reduce):
    tokenizer = word_tokenizer()
    scorer, _, _ = scorer_of(tokenizer, reduce=reduce)
    response, mask = responses(tokenizer, "warm sound", "room")
    scores = scorer.score(response, mask, [["sound"]] * 2)
    for row in range(2):
        ids = response[row][mask[row].bool()].tolist()
        parts = [math.log(1 + math.exp(i)) for i in ids]
        assert scores.hqar_BT[row].tolist() == pytest.approx(parts + [0] * (6 - len(parts)))
        assert scores.hqar_B[row].item() == pytest.approx(sum(parts) / (len(parts) if reduce == "mean" else 1))


def test_hqar_is_clipped_as_configured():
    tokenizer = word_tokenizer()
    scorer, _, _ = scorer_of(tokenizer, clip=0.4)
    response, mask = responses(tokenizer, "warm sound room")
    scores = scorer.score(response, mask, [["sound"]])
    assert scores.hqar_BT.max().item() == pytest.approx(-math.log(0.4), rel=1e-5)


def test_a_score_does_not_depend_on_the_rest_of_the_batch():
    tokenizer = word_tokenizer()
    scorer, _, _ = scorer_of(tokenizer)
    response, mask = responses(tokenizer, "warm sound", "room room room", "")
    lists = [["sound"], ["room"], ["warm"]]
    together = scorer.score(response, mask, lists)
    for row in range(3):
        alone = scorer.score(response[row : row + 1], mask[row : row + 1], lists[row : row + 1])
        torch.testing.assert_close(alone.ccr_B[0], together.ccr_B[row])
        torch.testing.assert_close(alone.hqar_B[0], together.hqar_B[row])


def test_scores_carry_no_gradient():
    tokenizer = word_tokenizer()
    scorer, _, _ = scorer_of(tokenizer)
    scores = scorer.score(*responses(tokenizer, "warm"), [["sound"]])
    assert not any(column.requires_grad for column in vars(scores).values())


def test_a_byte_level_policy_tokenizer_is_decoded_to_words():
    tokenizer = train_tokenizer(["warm sound room"] * 3, 300)
    scorer, bag, encoder_tokenizer = scorer_of(tokenizer)
    scorer.score(*responses(tokenizer, "warm sound", length=30), [["room"]])
    assert encoder_tokenizer.decode(bag.read[0]).split() == ["warm", "sound"]


def test_running_moments_are_numpys_over_all_batches_together():
    draw, moments, seen = np.random.default_rng(0), RunningMoments(), []
    for size in (1, 7, 2, 64, 3):
        batch = draw.normal(100, 0.5, size)
        seen.append(batch)
        moments.update(torch.from_numpy(batch))
        everything = np.concatenate(seen)
        assert moments.mean == pytest.approx(everything.mean(), rel=1e-12)
        assert moments.std == pytest.approx(max(everything.std(), 1e-4), rel=1e-9)
    assert moments.count == 77


def test_running_moments_do_not_depend_on_how_values_are_cut():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0))
    one, many = RunningMoments(), RunningMoments()
    one.update(values)
    for part in values.split(7):
        many.update(part)
    assert (many.mean, many.std) == pytest.approx((one.mean, one.std))


def test_equal_values_have_a_spread_that_can_be_divided_by():
    moments = RunningMoments()
    moments.update(torch.full((5,), 3.0))
    assert moments.std == 1e-4


def test_a_discriminator_of_another_tokenizer_is_refused(monkeypatch):
    monkeypatch.setattr(Judge, "vocabulary", 5)
    with pytest.raises(InputError, match="knows 5 tokens and the policy's tokenizer has 7.*stage=hqar"):
        scorer_of(word_tokenizer())
