"""Whether weights are those that a config asks for, by their names and shapes.

transformers draws at random what a folder lacks, and goes on: such a model trains, and is not the one that was named.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from metrics.errors import InputError

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
UNUSED = ("pooler.",)  # of encoders: nothing here reads it
SHOWN = 3  # names of tensors


def check_fit(kind: Any, name: str, tensors: dict[str, Tensor], config: PretrainedConfig) -> None:
    """Refuses weights that lack a tensor of the config or have another shape, by InputError.

    `kind` is the Auto class that will read them: it compares names and shapes as it will then, and no weight is read.
    """
    for key, tensor in tensors.items():
        rows = tensor.shape[0] if tensor.dim() else 0
        if key.endswith(EMBEDDINGS) and rows != config.vocab_size:
            raise InputError(
                f"{name}: {key} has {rows} rows and vocab_size in config.json is {config.vocab_size}; copy both from "
                "one model"
            )
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            family = type(kind.from_config(config))
        _, report = family.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            device_map="meta",
            ignore_mismatched_sizes=True,  # they are told below, all in one form
            output_loading_info=True,
        )
    except Exception as error:  # each family fails over a config or weights of another in its own way
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name}: its config.json and weights do not fit ({cause}); copy both from one model"
        ) from error
    refuse_gaps(name, report)


def refuse_gaps(name: str, report: Mapping[str, Iterable]) -> None:
    """Refuses what transformers reports of a model that it has read with tensors missing or of other shapes."""
    if others := sorted(report.get("mismatched_keys", ())):
        key, in_weights, by_config = others[0]
        raise InputError(
            f"{name}: {key} is {_shape(in_weights)} in the weights and {_shape(by_config)} by config.json; copy both "
            "from one model"
        )
    if lacking := sorted(key for key in report.get("missing_keys", ()) if not key.startswith(UNUSED)):
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise InputError(
            f"{name}: its weights lack {', '.join(lacking[:SHOWN])}{more}, which config.json asks for and which would "
            "be drawn at random; copy both from one model"
        )


def _shape(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))
