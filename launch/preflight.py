"""What is known of the models and texts of a run before its first stage, and is told then."""

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from datamodules.corpus import Corpus
from datamodules.prompts import PromptConfig, text_tokens
from launch.plan import rating_batch_size
from launch.schema import TrainConfig
from metrics.errors import InputError
from models.agreement import SUPPORTED, check_family
from models.language_model import (
    at_revision,
    base_of_adapters,
    check_positions,
    load_tokenizer,
    model_config,
    train_tokenizer,
)
from models.text_encoder import load_encoder_tokenizer
from models.weight_files import check_config_file, check_file, check_folder
from models.weight_fit import check_fit

COUNTED = 5000  # train records whose explanations are counted


def check_models(config: TrainConfig, stages: Collection[str]) -> None:
    """Refuses models that these stages could not use, by InputError.

    Reads configs, tokenizers and the headers of weights.
    """
    if "explanation" in stages and (name := config.explanation.model):
        _check_language_model(name, config.prompt)
    if "ccr" in stages and (name := config.ccr.model):
        _check_encoder(name)


def what_is_cut(config: TrainConfig, corpus: Corpus) -> list[str]:
    """Sentences on explanations and candidates that the limits of `prompt` cut, with the values that would not.

    Explanations are counted in up to `COUNTED` train records, in the tokens of the language model; where the run makes
    one, in those of a tokenizer made of these records, which differs little.
    """
    train = corpus.rows("train")
    texts = [corpus.explanations[record] for record in train[:: max(1, math.ceil(len(train) / COUNTED))].tolist()]
    if name := config.explanation.model:
        tokenizer = load_tokenizer(name)
    else:
        words = [*texts, config.prompt.instruction, *corpus.concepts]
        tokenizer = train_tokenizer(words, config.explanation.new_model.vocabulary)
    lengths = np.sort([len(text_tokens(tokenizer, text)) + 1 for text in texts])  # with the end token
    return [*_cut_texts(config, lengths, len(train)), *_cut_candidates(config, corpus, tokenizer)]


def what_is_hidden(config: TrainConfig, train: int, ranks: int) -> list[str]:
    """A sentence on the rating stage's batch where it is made smaller, or hides more than a quarter of the graph.

    With leave-one-out the edges that a batch contributed are hidden from it.
    """
    asked, used = config.rating.fit.batch_size, rating_batch_size(config, train, ranks)
    if not config.graph.leave_one_out or 4 * used <= train and used == asked:
        return []
    if used != asked:
        return [
            f"rating: batches of {used} records, not rating.fit.batch_size={asked}: the corpus has {train} train "
            "records, and what a batch contributed to the graph is hidden from it"
        ]
    parts = ranks * config.rating.fit.accumulate
    return [
        f"rating: each batch hides {used / train:.0%} of the graph from itself, as rating.fit.batch_size={asked} and "
        f"the corpus has {train} train records; {max(train // 4 // parts, 1) * parts} hides a quarter"
    ]


def _cut_texts(config: TrainConfig, lengths: np.ndarray, train: int) -> list[str]:
    limit = config.prompt.max_new_tokens
    if not len(lengths) or (cut := int((lengths > limit).sum())) == 0:
        return []
    most, longest = int(np.quantile(lengths, 0.99, method="higher")), int(lengths[-1])
    counted = "" if len(lengths) == train else f" that were counted of {train:,}"
    return [
        f"{cut} of {len(lengths)} train explanations{counted} ({cut / len(lengths):.0%}) are longer than "
        f"prompt.max_new_tokens={limit} and lose their end and their end token, so that the model learns to break off; "
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


def _check_language_model(name: str, prompt: PromptConfig) -> None:
    _check_adapters(name)
    base = base_of_adapters(name) or name
    weights = _check_files(base)
    lm = model_config(name)
    if lm.is_encoder_decoder or _writes_no_text(lm):
        raise InputError(
            f"{name}: a model of the family {lm.model_type} with this config.json writes no text from left to right; "
            f"supported are {SUPPORTED}"
        )
    check_family(lm, name)
    _check_weights(AutoModelForCausalLM, base, weights, lm)
    _check_vocabulary(name, load_tokenizer(name), lm.vocab_size)
    check_positions(lm, prompt.max_prompt_tokens, prompt.max_new_tokens)


def _check_encoder(name: str) -> None:
    if (Path(name) / "adapter_config.json").is_file():
        raise InputError(
            f"ccr.model={name}: holds adapters and no model; give their model with the adapters merged "
            "(merge_and_unload of PEFT)"
        )
    weights = _check_files(name)
    encoder = model_config(name)
    decodes = type(encoder) in MODEL_FOR_CAUSAL_LM_MAPPING and type(encoder) not in MODEL_FOR_MASKED_LM_MAPPING
    if decodes or encoder.is_encoder_decoder or not hasattr(encoder, "vocab_size"):
        raise InputError(
            f"ccr.model={name}: a model of the family {encoder.model_type} is no encoder of texts; give one of BERT's "
            "kind (BERT, RoBERTa, MPNet, DistilBERT, DeBERTa, ModernBERT)"
        )
    _check_weights(AutoModel, name, weights, encoder)
    _check_vocabulary(name, load_encoder_tokenizer(name), encoder.vocab_size)


def _writes_no_text(config: PretrainedConfig) -> bool:
    """Whether it is an encoder, as BERT is unless its config says otherwise, or no model of texts at all."""
    if config.get_text_config(decoder=True) is not config:
        return False  # has a language model inside, which `check_family` tells of
    encodes = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    return encodes or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING


def _check_files(name: str) -> dict[str, Tensor]:
    """The names and shapes of a folder's weights, whose files are whole; of a name of the hub, read when used, none."""
    folder = Path(at_revision(name)[0])
    if not folder.is_dir():
        return {}
    weights = check_folder(folder)  # first: what is no file at all explains what cannot be read
    check_config_file(folder)
    return weights


def _check_weights(kind: type, name: str, weights: dict[str, Tensor], config: PretrainedConfig) -> None:
    if quantization := getattr(config, "quantization_config", None):
        method = quantization.get("quant_method", "") if isinstance(quantization, dict) else type(quantization).__name__
        raise InputError(
            f"{name}: its weights are quantized ({method or 'quantization_config'}), and cannot be trained here; "
            "give the model in float32, float16 or bfloat16, and explanation.lora.rank=16 where memory is short"
        )
    if weights:
        check_fit(kind, name, weights, config)


def _check_adapters(name: str) -> None:
    if not (Path(name) / "adapter_config.json").is_file():
        return
    for file in ("adapter_model.safetensors", "adapter_model.bin"):
        if (path := Path(name) / file).is_file():
            check_file(path)
            return
    raise InputError(f"{name}: holds adapter_config.json and no adapter_model.safetensors; copy the adapters anew")


def _check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    ids = set(tokenizer.get_vocab().values())
    if not ids - set(tokenizer.all_special_ids):
        raise InputError(
            f"{name}: its tokenizer has no words; copy the files of the tokenizer (tokenizer.json, or vocab.txt, or "
            "vocab.json and merges.txt, or *.model) into the folder"
        )
    if (last := max(ids)) >= rows:
        raise InputError(
            f"{name}: its tokenizer has {len(ids)} tokens, up to id {last}, and its matrix {rows} rows, so that the "
            "last tokens have no vector; resize the matrix (model.resize_token_embeddings) and save the model again"
        )
