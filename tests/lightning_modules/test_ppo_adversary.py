"""The discriminator during PPO: what it learns from, when it rests, and who is scored by it."""

import math
from types import SimpleNamespace

import pytest
import torch
from test_ppo_module import CASES, Rewards, module
from transformers import GPT2Config, GPT2Model

from lightning_modules.ppo.adversary import Adversary
from models.discriminator import Discriminator

REAL = [[3, 4], [3]]
SAMPLED = torch.tensor([[5, 6, 7], [5, 0, 0], [5, 6, 0], [5, 5, 5]])


def adversary(lr=0.01, smoothing=0.2):
    torch.manual_seed(0)
    trunk = GPT2Model(GPT2Config(vocab_size=12, n_positions=16, n_embd=16, n_layer=1, n_head=2)).eval()
    return Adversary(Discriminator(trunk, 1), REAL, 0, smoothing, lr, seed=3)


class Samples:
    """What is read of a rollout."""

    response_BT, mask_BT = SAMPLED, (SAMPLED > 0).long()

    def __len__(self):
        return len(SAMPLED)


def weights(made):
    return torch.cat([p.detach().flatten() for p in made.discriminator.parameters()])


def test_it_learns_that_high_quality_texts_are_real_and_samples_are_not():
    made = adversary()
    first = made.update(Samples(), 0)
    for iteration in range(1, 30):
        last = made.update(Samples(), iteration)
    assert last["discriminator/loss"] < first["discriminator/loss"]
    assert last["discriminator/token_accuracy"] == 1.0
    with torch.no_grad():
        real, sampled = (
            made.discriminator(ids, torch.ones_like(ids))[0, 0] for ids in (torch.tensor([[3]]), SAMPLED[:1])
        )
    assert real > 0 > sampled


@pytest.mark.parametrize(("sign", "rests"), [(1.0, True), (-1.0, False)])
def test_it_rests_while_it_is_too_good(sign, rests):
    made = adversary()
    for iteration in range(30):
        made.update(Samples(), iteration)
    with torch.no_grad():  # turned round, it is as bad as it was good
        made.discriminator.head.weight.mul_(sign)
        made.discriminator.head.bias.mul_(sign)
    before = weights(made)
    accuracy = made.update(Samples(), 30)["discriminator/token_accuracy"]
    assert accuracy == (1.0 if rests else 0.0)
    assert torch.equal(weights(made), before) == rests


@pytest.mark.parametrize(("right", "rests"), [(19, True), (18, False)])
def test_it_rests_above_nine_tokens_of_ten(right, rests):
    made = adversary()
    before, loss = weights(made), made.discriminator.head.bias.sum() * 3
    figures = made._step_if_needed(loss, torch.tensor([0.5, float(right), 20.0]))
    assert figures == pytest.approx({"discriminator/loss": 0.5, "discriminator/token_accuracy": right / 20})
    assert torch.equal(weights(made), before) == rests
    moved = weights(made) - before
    # AdamW's first step is its rate, whatever the gradient; weight decay would come on top.
    assert moved[moved != 0].tolist() == pytest.approx([] if rests else [-0.01], abs=1e-6)


def test_each_iteration_draws_other_texts_of_the_high_quality_set():
    made, drawn = adversary(), []
    made.discriminator.register_forward_hook(lambda module, given, logits: drawn.append(given[1].sum(1).tolist()))
    for iteration in range(4):
        made.update(Samples(), iteration)
    assert len({tuple(lengths) for lengths in drawn[::2]}) > 1
    assert len({tuple(lengths) for lengths in drawn[1::2]}) == 1  # the samples, which are the same here


def test_a_discriminator_without_an_opinion_has_the_loss_of_chance_whatever_the_smoothing():
    made = adversary(smoothing=0.3)
    torch.nn.init.zeros_(made.discriminator.head.weight)
    torch.nn.init.zeros_(made.discriminator.head.bias)
    assert made.update(Samples(), 0)["discriminator/loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_it_is_updated_each_so_many_iterations():
    made, seen = module(CASES["gpt2"](), discriminator_every=2), []
    watcher = SimpleNamespace(update=lambda rollout, iteration: seen.append(iteration) or {})
    object.__setattr__(made, "adversary", watcher)
    for iteration in range(5):
        made._trainer.current_epoch = iteration
        list(made.sample())
    assert seen == [1, 3]


def test_held_out_prompts_are_scored_by_what_it_was_before():
    scorer = Rewards()
    scorer.discriminator = torch.nn.Linear(2, 1)
    made, before = module(CASES["gpt2"](), scorer), scorer.discriminator.weight.clone()
    torch.nn.init.constant_(made.scorer.discriminator.weight, 9.0)
    assert torch.equal(made.held_out_scorer.discriminator.weight, before)
