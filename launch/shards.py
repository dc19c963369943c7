"""How DeepSpeed's shards reach the disk and come back."""

import os
import pickle
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from metrics.errors import InputError

# Besides tensors and plain values, shards hold objects of these classes and of no others.
KNOWN = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]


class DurableShards(TorchCheckpointEngine):
    """DeepSpeed's reader and writer of one file, with two changes.

    A failed write is kept in `failure` and not raised: the other ranks wait in DeepSpeed's barriers, and all of them
    must learn of it together. Reading makes no object but those of `KNOWN`; DeepSpeed would unpickle anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure = ""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Makes a folder."""
        self._try(lambda: os.makedirs(path, exist_ok=exist_ok))

    def save(self, state_dict: dict, path: str) -> None:
        """Writes one file through to the disk."""

        def write() -> None:
            with open(path, "wb") as file:
                torch.save(state_dict, file)
                file.flush()
                os.fsync(file.fileno())

        if not self.failure:
            self._try(write)

    def _try(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            self.failure = f"{error.strerror} ({error.filename})" if error.filename else str(error)
        except RuntimeError as error:  # torch's writer fails over a full disk in words of its own
            cause = error.__cause__ or error.__context__
            self.failure = (
                cause.strerror if isinstance(cause, OSError) else ""
            ) or "the disk took only a part of a file"

    def load(self, path: str, map_location: Any = None) -> Any:
        """Reads one file; raises `InputError` if it holds anything else than a checkpoint of ours does."""
        try:
            with torch.serialization.safe_globals(KNOWN):
                return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(f"{path}: holds objects that no checkpoint of ours has; it was not read") from error
