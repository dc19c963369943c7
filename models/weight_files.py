"""What can be known of a model's folder by its names and first bytes, before gigabytes of it are read."""

import json
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from metrics.errors import InputError

LFS = b"version https://git-lfs"
LONGEST_HEADER = 100_000_000  # bytes, the limit of safetensors itself
WHOLE = ("model.safetensors", "pytorch_model.bin")  # in the order in which transformers looks for them
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
OTHERS = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
          "I64": torch.int64}  # fmt: skip


def check_folder(folder: Path) -> dict[str, Tensor]:
    """Name -> a tensor without numbers, of a folder of weights; InputError where they cannot be whole."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            _refuse_pointer(path)
    return {name: tensor for path in weight_files(folder) for name, tensor in tensors_of(path).items()}


def check_file(path: Path) -> None:
    """Refuses a file of weights that is not whole, by InputError."""
    _refuse_pointer(path)
    tensors_of(path)


def check_config_file(folder: Path) -> None:
    """Refuses a folder without config.json, and one whose model transformers does not have, by InputError."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: holds no config.json; copy the model anew")
    family, code = (_json(path).get(key) for key in ("model_type", "auto_map"))
    if not isinstance(family, str):
        raise InputError(f"{path}: names no family of models (model_type); copy it anew")
    if family not in CONFIG_MAPPING:
        why = "needs code of its own, which is not run here" if code else "is unknown to the installed transformers"
        raise InputError(f"{path}: the family {family} {why}; give a model of a family that transformers holds")


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights of a folder from; InputError where there are none."""
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            return _shards(folder / f"{name}.index.json")
    names = {path.name for path in folder.iterdir()}
    if shards := sorted(name for name in names if "-of-" in name and name.endswith((".safetensors", ".bin"))):
        raise InputError(f"{folder}: holds {shards[0]} and no index of such parts (*.index.json); copy the model anew")
    if others := sorted(name for name in names if name.endswith((".gguf", ".onnx", ".h5", ".msgpack", ".pt", ".pth"))):
        raise InputError(
            f"{folder}: holds {others[0]}, a form that is not read here; give the model as model.safetensors, as "
            "save_pretrained writes it"
        )
    raise InputError(f"{folder}: holds no weights (model.safetensors or pytorch_model.bin); copy the model anew")


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Name -> a tensor of the right shape and type without numbers, of a file of weights that is whole."""
    tensors = _of_safetensors(path) if path.suffix == ".safetensors" else _of_torch(path)
    for name, tensor in tensors.items():
        if name.endswith("weight") and tensor.dim() > 1 and tensor.dtype not in FLOATS.values():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(
                f"{path}: {name} holds {kind}, so its weights are quantized, and cannot be trained here; give the "
                "model in float32, float16 or bfloat16"
            )
    return tensors


def header_of(path: Path) -> dict[str, Any]:
    """Name -> {dtype, shape, data_offsets} of a safetensors file. Raises InputError for one that is cut or damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 0 < length <= min(LONGEST_HEADER, size - 8):
            raise InputError(f"{path}: is no whole safetensors file ({size:,} bytes); copy it anew")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            well_formed = all(_is_entry(entry) for entry in tensors.values())
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            well_formed = False
    if not well_formed:
        raise InputError(f"{path}: its header is damaged; copy it anew")
    if end != size:
        raise InputError(f"{path}: has {size:,} bytes where its header tells of {end:,}; copy it anew")
    return tensors


def _is_entry(entry: dict[str, Any]) -> bool:
    return isinstance(entry["dtype"], str) and all(isinstance(n, int) and n >= 0 for n in entry["shape"])


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    kinds = FLOATS | OTHERS
    tensors = {}
    for name, entry in header_of(path).items():
        # A type that is not among them, of 8 bits and less, only quantized weights have.
        tensors[name] = torch.empty(entry["shape"], dtype=kinds.get(entry["dtype"], torch.uint8), device="meta")
        begin, end = entry["data_offsets"]
        if entry["dtype"] in kinds and end - begin != math.prod(entry["shape"]) * tensors[name].element_size():
            raise InputError(f"{path}: its header is damaged; copy it anew")
    return tensors


def _of_torch(path: Path) -> dict[str, Tensor]:
    """Reads the names alone of today's files, and the whole of those from before torch 1.6."""
    today = zipfile.is_zipfile(path)
    if path.stat().st_size == 0 or (_begins_with(path, b"PK") and not today):
        raise InputError(f"{path}: is cut off ({path.stat().st_size:,} bytes); copy it anew")
    try:
        tree = torch.load(path, map_location="meta", weights_only=True, mmap=today)
    except pickle.UnpicklingError as error:
        what = "holds" if today else "is cut off or holds"
        raise InputError(
            f"{path}: {what} something else than tensors, which is not read, as it could run code; copy it anew, or "
            "give the model as model.safetensors"
        ) from error
    except Exception as error:  # torch's reader fails over broken files in many ways
        raise InputError(f"{path}: is no whole file of weights ({type(error).__name__}); copy it anew") from error
    tensors = (
        {name: value for name, value in tree.items() if isinstance(value, Tensor)} if isinstance(tree, dict) else {}
    )
    if not tensors:
        raise InputError(f"{path}: holds no weights by their names; give the model as model.safetensors")
    return tensors


def _shards(index: Path) -> list[Path]:
    names = _json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index}: names no files of weights (weight_map); copy it anew")
    paths = [index.parent / name for name in sorted(set(names.values()))]
    if lacking := [path.name for path in paths if not path.is_file()]:
        raise InputError(f"{index}: names {lacking[0]}, which is not there; copy the model anew")
    return paths


def _refuse_pointer(path: Path) -> None:
    if _begins_with(path, LFS):
        raise InputError(f"{path}: is a pointer of git-lfs, not the file; fetch it by `git lfs pull`")


def _begins_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it anew") from None
    return tree if isinstance(tree, dict) else {}
