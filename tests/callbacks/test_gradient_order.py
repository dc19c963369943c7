"""The order of gradients as one rank sees it; two real ranks are in tests/engine/test_traps.py."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from callbacks import gradient_order
from callbacks.gradient_order import SameGradientOrder
from callbacks.guards import HarmfulUpdateError


@pytest.fixture
def module():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network.device = torch.device("cpu")
    network[0].bias.requires_grad_(False)
    return network


def step(guard, module):
    module(torch.ones(1, 2)).sum().backward()
    guard.on_before_optimizer_step(SimpleNamespace(global_step=4), module, None)


def meet(monkeypatch, other):
    """A second rank, to which `other` came; the exchanges say what this rank gave."""
    given = []

    def larger(both):
        given.append(both)
        theirs = gradient_order.checksum(other)
        return torch.maximum(both, torch.tensor([theirs, -theirs], dtype=torch.float64))

    monkeypatch.setattr(gradient_order, "max_over_ranks", larger)
    monkeypatch.setattr(gradient_order, "gather_objects", lambda came: [came, other])
    return given


def test_one_rank_is_of_one_mind(module):
    guard = SameGradientOrder()
    guard.on_train_start(None, module)
    for _ in range(3):
        step(guard, module)


# Backwards, what is frozen left out: the names below have the numbers 0, 1 and 2 in the order of the module.
OWN = [2, 1, 0]  # "1.bias", "1.weight", "0.weight"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ([1, 2, 0], r"rank 1 has the gradient of 1\.weight where rank 0 has that of 1\.bias: .*zero\.stage=0"),
        ([2, 1], r"rank 1 has the gradient of none where rank 0 has that of 0\.weight:"),
        ([2, 1, 0, 0], r"rank 1 has the gradient of 0\.weight where rank 0 has that of none:"),
    ],
)
def test_the_first_difference_is_named(monkeypatch, module, other, told):
    guard = SameGradientOrder()
    guard.on_train_start(None, module)
    meet(monkeypatch, OWN)
    step(guard, module)
    meet(monkeypatch, other)
    with pytest.raises(HarmfulUpdateError, match=rf"at step 4 {told}"):
        step(guard, module)


def test_every_backward_pass_begins_anew(monkeypatch, module):
    guard = SameGradientOrder()
    guard.on_train_start(None, module)
    given = meet(monkeypatch, OWN)
    step(guard, module)
    step(guard, module)
    assert torch.equal(given[0], given[1])


def test_behind_the_stage_the_parameters_are_let_go(module):
    guard = SameGradientOrder()
    guard.on_train_start(None, module)
    guard.on_train_end(None, module)
    module(torch.ones(1, 2)).sum().backward()
    assert guard._came == []
