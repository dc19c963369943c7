"""What is known of the models and texts of a run before its first stage, and is told then."""

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from datamodules.corpus import Corpus
from datamodules.prompts import text_tokens
from launch.schema import TrainConfig
from metrics.errors import InputError
from models.agreement import check_family
from models.language_model import at_revision, load_tokenizer, model_config, train_tokenizer
from models.weight_files import check_folder

COUNTED = 5000  # train records whose explanations are counted


def check_models(config: TrainConfig, stages: Collection[str]) -> None:
    """Refuses models that these stages could not use, by InputError.

    Reads configs, tokenizers and the headers of weights.
    """
    if "explanation" in stages and (name := config.explanation.model):
        _check_language_model(name)
    if "ccr" in stages and (name := config.ccr.model):
        _check_files(name, None)  # first: what is no file at all explains what cannot be read
        encoder = model_config(name)
        _check_weights(name, encoder)


def what_is_cut(config: TrainConfig, corpus: Corpus) -> list[str]:
    """Sentences on explanations and candidates that the limits of `prompt` cut, with the values that would not.

    Explanations are counted in up to `COUNTED` train records, in the tokens of the language model; where the run makes
    one, in those of a tokenizer made of these records, which differs little.
    """
    train = corpus.rows("train")
    texts = [corpus.explanations[record] for record in train[:: max(1, len(train) // COUNTED)].tolist()]
    if name := config.explanation.model:
        tokenizer = load_tokenizer(name)
    else:
        words = [*texts, config.prompt.instruction, *corpus.concepts]
        tokenizer = train_tokenizer(words, config.explanation.new_model.vocabulary)
    lengths = np.sort([len(text_tokens(tokenizer, text)) + 1 for text in texts])  # with the end token
    return [*_cut_texts(config, lengths), *_cut_candidates(config, corpus, tokenizer)]


def _cut_texts(config: TrainConfig, lengths: np.ndarray) -> list[str]:
    limit = config.prompt.max_new_tokens
    if not len(lengths) or (cut := int((lengths > limit).sum())) == 0:
        return []
    most, longest = int(np.quantile(lengths, 0.99, method="higher")), int(lengths[-1])
    return [
        f"{cut} of {len(lengths)} train explanations ({cut / len(lengths):.0%}) are longer than prompt.max_new_tokens="
        f"{limit} and lose their end and their end token, so that the model learns to break off; "
        f"prompt.max_new_tokens={most} holds 99 % of them, {longest} all"
    ]


def _cut_candidates(config: TrainConfig, corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """By the mean length of a concept: which candidates a record gets is known only after the rating stage."""
    if not corpus.concepts:
        return []
    comma = len(text_tokens(tokenizer, ","))
    a_concept = float(np.mean([len(text_tokens(tokenizer, name)) for name in corpus.concepts])) + comma
    fixed = len(text_tokens(tokenizer, config.prompt.instruction)) + 4
    room = config.prompt.max_prompt_tokens - fixed + comma
    needed = math.ceil(fixed + config.graph.candidates * a_concept - comma)
    if room >= config.graph.candidates * a_concept:
        return []
    return [
        f"of graph.candidates={config.graph.candidates} about {int(max(room, 0) / a_concept)} fit into "
        f"prompt.max_prompt_tokens={config.prompt.max_prompt_tokens}, the others are cut from the prompt's end; "
        f"prompt.max_prompt_tokens={needed} holds them all, or give fewer candidates"
    ]


def _check_language_model(name: str) -> None:
    _check_files(name, None)
    lm = model_config(name)
    check_family(lm, name)
    _check_weights(name, lm)
    words = len(load_tokenizer(name))
    if words > lm.vocab_size:
        raise InputError(
            f"{name}: its tokenizer has {words} tokens and its matrix {lm.vocab_size} rows, so that the last tokens "
            "have no vector; resize the matrix (model.resize_token_embeddings) and save the model again"
        )


def _check_weights(name: str, config: PretrainedConfig) -> None:
    if quantization := getattr(config, "quantization_config", None):
        method = quantization.get("quant_method", "") if isinstance(quantization, dict) else type(quantization).__name__
        raise InputError(
            f"{name}: its weights are quantized ({method}), and cannot be trained here; give the model in float32, "
            "float16 or bfloat16, and explanation.lora.rank=16 where memory is short"
        )
    _check_files(name, config.vocab_size)


def _check_files(name: str, vocabulary: int | None) -> None:
    folder = Path(at_revision(name)[0])
    if folder.is_dir() and not (folder / "adapter_config.json").is_file():
        check_folder(folder, vocabulary)
