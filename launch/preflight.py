"""What is known of the models of a run before its first stage, and is told then."""

from collections.abc import Collection
from pathlib import Path

from transformers import PretrainedConfig

from launch.schema import TrainConfig
from metrics.errors import InputError
from models.agreement import check_family
from models.language_model import at_revision, load_tokenizer, model_config
from models.weight_files import check_folder


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
