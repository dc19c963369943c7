"""The update of PPO by hand: which coefficient weighs which term, and what changes from one iteration to the next."""

import math
from types import SimpleNamespace

import pytest
import torch
from test_ppo_module import BY_HAND, CASES, gpt2, module, rollout_by_hand

from lightning_modules.ppo.config import PPOConfig
from lightning_modules.ppo.losses import policy_loss
from lightning_modules.ppo.rollout import MiniBatch

OLD = torch.full((2, 2), -1.0)
MASK = torch.tensor([[1, 1], [1, 0]])
TOKENS = torch.tensor(4)  # of the whole optimizer step, whose other micro-batch has one
SCALE = 2.0
# Ratios 1.5, 1 and 0.5 of advantages 1, -2 and -1, clipped to 1 +- 0.2: -(1.2) + 2 + 0.8, over 4 tokens.
POLICY = (-1.2 + 2.0 + 0.8) / 4
# Values 0.5, 1 and 2 were 0, at most 0.5 away from it; returns are 1: 0.25, max(0, 0.25), max(1, 0.25).
VALUE = (0.25 + 0.25 + 1.0) / 4
ENTROPY = (1.0 + 2.0 + 3.0) / 4
NEW = OLD + torch.tensor([[math.log(1.5), 0.0], [math.log(0.5), 0.0]])
# log pi_ref - log pi is log 2 at the first token and 0 at the others: 2 - 1 - log 2.
REFERENCE = NEW + torch.tensor([[math.log(2.0), 0.0], [0.0, 0.0]])
KL = (2 - 1 - math.log(2)) / 4


def loss_of(**options):
    """The loss of a micro-batch whose networks are replaced by the numbers above; and what was logged."""
    ppo = module(gpt2(), **{"ratio_clip": 0.2, "value_clip": 0.5, "value_coef": 0.0} | options)
    reading = SimpleNamespace(log_prob_BT=NEW, entropy_BT=torch.tensor([[1.0, 2.0], [3.0, 9.0]]))
    ppo.forward = lambda prompts: (reading, torch.tensor([[0.5, 1.0], [2.0, 9.0]]))
    logged = {}
    ppo.log = lambda name, value, **how: logged.update({name: float(value)})
    ppo.log_dict = lambda *given, **how: None
    prompts = ppo.prompts.with_responses(torch.tensor([0, 1]), torch.full((2, 2), 5), MASK)
    prompts.scale = SCALE
    advantage = torch.tensor([[1.0, -2.0], [-1.0, 7.0]])
    batch = MiniBatch(
        prompts, OLD, REFERENCE, torch.zeros(2, 2), advantage, torch.ones(2, 2), TOKENS, kl_coef=0.3, first=True
    )
    return ppo, batch, float(ppo.training_step(batch, 0)), logged


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, POLICY),
        ({"value_coef": 0.4}, POLICY + 0.4 * VALUE),
        ({"entropy_coef": 0.1}, POLICY - 0.1 * ENTROPY),
        ({"algorithm": "rloo", "samples_per_prompt": 2, "value_coef": 0.4}, POLICY),  # it has no values
        ({"algorithm": "grpo", "samples_per_prompt": 2}, POLICY + 0.3 * KL),  # the weight of that rollout
        ({"value_coef": 0.4, "entropy_coef": 0.1}, POLICY + 0.4 * VALUE - 0.1 * ENTROPY),
    ],
)
def test_the_loss_by_hand(options, expected):
    _, _, loss, logged = loss_of(**options)
    assert loss == pytest.approx(SCALE * expected, rel=1e-5)
    assert logged["ppo/policy_loss"] == pytest.approx(SCALE * POLICY, rel=1e-5)
    assert logged["ppo/entropy"] == pytest.approx(SCALE * ENTROPY)
    assert logged["ppo/first/ratio"] == pytest.approx(SCALE * (1.5 + 1.0 + 0.5) / 4, rel=1e-5)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.3, 1.0), (1.9, 1.0), (0.7, -1.0), (0.1, -1.0)])
def test_a_ratio_is_worth_no_more_than_the_nearest_bound(ratio, advantage):
    old, one = torch.zeros(1, 1), torch.ones(1, 1)
    loss, _ = policy_loss(old + math.log(ratio), old, one * advantage, one, 0.2, torch.tensor(1))
    assert loss.item() == pytest.approx(-1.2 if ratio > 1 else 0.8)


def test_explanations_of_train_are_mixed_in_by_their_cross_entropy():
    ppo, batch, plain, _ = loss_of()
    written = ppo.prompts.with_responses(torch.tensor([0, 1]), torch.tensor([[5, 6], [7, 0]]), MASK)
    ppo.prompts.with_explanations = lambda records: written
    with torch.no_grad():
        cross_entropy = float(ppo._explanation_loss(batch, TOKENS))
        masks = (written.prompt_mask_BP, written.response_BT, written.response_mask_BT)
        soft = (written.slot_BP, written.user_BD, written.item_BD, written.sentiment_B)
        chance_BT = ppo.policy(ppo.policy.embed_prompt(written.prompt_BP, *soft), *masks, 1).log_prob_BT.exp()
    expected = -(chance_BT[0, 0].log() + chance_BT[0, 1].log() + chance_BT[1, 0].log()) / 4
    assert cross_entropy == pytest.approx(float(expected), rel=1e-5)
    assert cross_entropy > 0
    object.__setattr__(ppo, "config", PPOConfig(ratio_clip=0.2, value_clip=0.5, value_coef=0.0, sft_coef=0.5))
    mixed = float(ppo.training_step(batch, 0))
    assert mixed == pytest.approx(plain + SCALE * 0.5 * cross_entropy, rel=1e-5)


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_entropy_learns_where_it_is_weighed(coefficient):
    ppo = module(CASES["gpt2"](), entropy_coef=coefficient)
    reading, _ = ppo(ppo.prompts.with_responses(torch.tensor([0, 1]), torch.tensor([[5, 6], [7, 1]]), MASK))
    assert reading.entropy_BT.requires_grad == (coefficient > 0)


def test_the_weight_of_the_kl_follows_its_controller_from_rollout_to_rollout():
    """KL 0.125 a sequence, 25 % above the target, counts as 20 %: 4 samples of a horizon of 100 raise 0.2 by 0.8 %."""
    ppo = module(gpt2(), **BY_HAND | {"kl_target": 0.1}, kl_horizon=100)
    weights = []
    for _ in range(2):
        rollout = rollout_by_hand()
        _, _, figures = ppo.advantages(rollout)
        assert figures["kl_coef"] == rollout.kl_coef
        weights.append(rollout.kl_coef)
    assert weights == pytest.approx([0.2, 0.2 * 1.008])


def test_policy_and_values_have_rates_of_their_own_and_no_decay():
    ppo = module(gpt2(), lr=0.003, value_lr=0.07, warmup=0.0)
    ppo._trainer.estimated_stepping_batches = 10
    policy, value = ppo.configure_optimizers()["optimizer"].param_groups
    assert (policy["initial_lr"], value["initial_lr"]) == (0.003, 0.07)
    assert policy["weight_decay"] == value["weight_decay"] == 0
    assert [id(p) for p in value["params"]] == [id(p) for p in ppo.value.parameters()]
    assert {id(p) for p in policy["params"]} == {id(p) for p in ppo.policy.lm.parameters()}


def test_a_pass_is_all_micro_batches_of_all_epochs():
    ppo = module(gpt2())
    options = {"rollout_batch_size": 16, "mini_batch_size": 8, "accumulate": 2, "epochs": 3}
    object.__setattr__(ppo, "config", PPOConfig(**options))
    assert len(ppo.train_dataloader()) == 2 * 2 * 3


def test_each_iteration_samples_other_texts_and_shuffles_them_anew():
    ppo = module(CASES["gpt2"](), epochs=1)
    texts, orders = [], []
    for iteration in range(2):
        texts.append(ppo.rollout(iteration).response_BT.tolist())
        ppo._trainer.current_epoch = iteration
        orders.append([batch.record_B.tolist() for batch in ppo.sample()])
    assert texts[0] != texts[1]
    assert orders[0] != orders[1]
    assert sorted(orders[0][0]) == sorted(orders[1][0])
