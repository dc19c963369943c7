"""The random generators of a rank, to a file and back."""

import random

import numpy as np
import pytest
import torch

from callbacks.random_state import read_random_state, write_random_state
from metrics.errors import InputError


def draw():
    return random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()


def test_all_generators_go_on_where_they_were(tmp_path):
    random.gauss(0, 1)  # leaves a second value behind, which is part of the state
    np.random.standard_normal()
    write_random_state(tmp_path, 3)
    expected = draw()
    draw()
    read_random_state(tmp_path, 3)
    assert draw() == expected


@pytest.mark.parametrize("key", ["python", "numpy", "torch", "cuda"])
def test_a_state_that_lacks_a_generator_is_refused_by_name(tmp_path, key):
    write_random_state(tmp_path, 0)
    path = tmp_path / "random-00000.pt"
    state = torch.load(path, weights_only=True)
    del state[key]
    torch.save(state, path)
    with pytest.raises(InputError, match=f"lacks {key}; resume from another checkpoint"):
        read_random_state(tmp_path, 0)
