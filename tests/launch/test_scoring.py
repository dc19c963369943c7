"""What the standard suite says with models given, and without."""

import importlib.util

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from launch.scoring import StandardConfig, measure
from metrics.columns import Predictions
from metrics.errors import InputError
from metrics.suite import figures
from models.language_model import NewModelConfig, create_language_model, load_tokenizer
from models.text_encoder import create_encoder

TEXTS = ["the room was clean", "a pool", "", "the breakfast was good and the staff was nice " * 20, "bar", "a bar"]
RECORDS = Predictions.of([{"explanation": text, "reference": "the pool and the bar were nice"} for text in TEXTS])
TINY = NewModelConfig(width=16, layers=1, heads=2, vocabulary=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    create_encoder(TEXTS, TINY, root / "encoder", 0)
    create_language_model(TEXTS, TINY, 64, root / "lm", 0)
    tokenizer = load_tokenizer(str(root / "lm"))
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    ids = {name: tokenizer.eos_token_id for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id")}
    config = BartConfig(vocab_size=len(tokenizer), d_model=16, pad_token_id=tokenizer.pad_token_id, **sizes, **ids)
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(root / "bart")
    tokenizer.save_pretrained(root / "bart")
    return root


def test_every_model_adds_its_figures_its_signature_and_what_it_cut(folder):
    config = StandardConfig(**{kind: str(folder / kind) for kind in ("encoder", "lm", "bart")}, batch_size=4)
    scores = figures(measure(RECORDS, None, "standard", config), resamples=20)
    for key in ("bert_score_f", "sentence_cosine", "perplexity", "perplexity_reference", "bart_score", "bart_score_p"):
        low, high = scores[f"{key}_ci"]
        assert low <= scores[key] <= high
    for kind in ("encoder", "lm", "bart"):
        assert scores[f"{kind}_signature"].startswith(f"{kind}|sha256:")
    assert scores["skipped"] == [
        "the end of texts of 1 records, which are too long for standard.encoder",
        "the end of texts of 1 records, which are too long for standard.lm",
    ]


def test_without_models_their_figures_are_named(folder):
    scores = figures(measure(RECORDS, None, "standard", StandardConfig()), resamples=0)
    assert "bert_score, sentence_cosine: give standard.encoder=FOLDER" in scores["skipped"]
    assert {"sacrebleu", "chrf", "rouge_score_l_f", "self_bleu", "sacrebleu_signature"} <= scores.keys()
    assert "bleu_4" not in scores


def test_both_suites_stand_together():
    scores = figures(measure(RECORDS, None, "all", StandardConfig()), resamples=0)
    assert {"bleu_4", "sacrebleu"} <= scores.keys()


def test_a_layer_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match=r"standard.layer=7: .*encoder has layers 0 to 1"):
        measure(RECORDS, None, "standard", StandardConfig(encoder=str(folder / "encoder"), layer=7))


def test_mauve_needs_a_model_and_its_package(folder, monkeypatch):
    with pytest.raises(InputError, match="standard.mauve=true needs a language model"):
        StandardConfig(mauve=True)
    config = StandardConfig(lm=str(folder / "lm"), mauve=True)
    if importlib.util.find_spec("mauve") is None:
        with pytest.raises(InputError, match="pip install 'llm2er.mauve.'"):
            measure(RECORDS, None, "standard", config)
        return
    same = Predictions.of({"explanation": text, "reference": text} for text in TEXTS * 10)
    other = Predictions.of({"explanation": "room " * 9, "reference": text} for text in TEXTS * 10)
    near, far = (figures(measure(rows, None, "standard", config), resamples=20) for rows in (same, other))
    assert near["mauve"] == pytest.approx(1, abs=0.01)
    assert far["mauve"] < near["mauve"]
    assert far["mauve_ci"][0] <= far["mauve"] <= far["mauve_ci"][1]
