"""What is computed on a GPU against the same on a CPU; without a GPU all of it is skipped."""

from collections.abc import Iterator

import pytest
import torch
from tested_device import DEVICE


@pytest.fixture(scope="session", autouse=True)
def _needs_the_device() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The device under test, multiplying in whole float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(DEVICE)
