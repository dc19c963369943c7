"""What can be known of a model's folder by its names and first bytes, before gigabytes of it are read."""

import json
import zipfile
from pathlib import Path
from typing import Any

from metrics.errors import InputError

LFS = b"version https://git-lfs"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
LONGEST_HEADER = 100_000_000  # bytes, the limit of safetensors itself


def check_folder(folder: Path, vocabulary: int | None) -> None:
    """Refuses a folder whose weights cannot be whole, or do not fit the `vocabulary` of its config, by InputError."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and _begins_with(path, LFS):
            raise InputError(f"{path}: is a pointer of git-lfs, not the file; fetch it by `git lfs pull`")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and not list(folder.glob("*.bin")):
        raise InputError(f"{folder}: holds no weights (*.safetensors or *.bin); copy the model anew")
    for path in sorted(folder.glob("*.bin")):
        if _begins_with(path, b"PK") and not zipfile.is_zipfile(path):
            raise InputError(f"{path}: is cut off ({path.stat().st_size:,} bytes); copy it anew")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        lacking = sorted(
            {name for name in _json(index).get("weight_map", {}).values() if not (folder / name).is_file()}
        )
        if lacking:
            raise InputError(f"{index}: names {lacking[0]}, which is not there; copy the model anew")
    for path in weights:
        for name, entry in header_of(path).items():
            rows = entry["shape"][0] if entry["shape"] else 0
            if name.endswith(EMBEDDINGS) and vocabulary not in (None, rows):
                raise InputError(
                    f"{path}: {name} has {rows} rows and vocab_size in config.json is {vocabulary}; copy both from one "
                    "model"
                )


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
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise InputError(f"{path}: its header is damaged; copy it anew") from None
    if end != size:
        raise InputError(f"{path}: has {size:,} bytes where its header tells of {end:,}; copy it anew")
    return tensors


def _begins_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it anew") from None
    return tree if isinstance(tree, dict) else {}
