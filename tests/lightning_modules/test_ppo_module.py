"""The PPO module without an engine: rollouts and updates agree, rewards and advantages by hand, bad input."""

import copy
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from datamodules.prompts import PromptBatch
from lightning_modules.ppo.adversary import Adversary
from lightning_modules.ppo.config import PPOConfig
from lightning_modules.ppo.module import PPOModule
from lightning_modules.ppo.rewards import Scores
from lightning_modules.ppo.rollout import Rollout
from metrics.errors import InputError
from models.explainer import Explainer
from models.language_model import LoraConfig, check_context, with_adapters

VOCABULARY, END, LENGTH = 12, 1, 9


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=40, n_embd=16, n_layer=2, n_head=2))


def llama():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))


def tokenizer():
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0", eos_token="w1")


class Prompts:
    """Prompts of uneven lengths with soft vectors; several samples of each, if asked for."""

    def __init__(self, samples=1, names=("sound",)):
        self.samples, self.names = samples, names

    def records(self, iteration, rank, world):
        rows = [i // self.samples for i in range(8)]
        return rows, [i % self.samples for i in range(8)], np.ones(8)

    def batch(self, records):
        lengths = [5 + record % 3 for record in records]
        width, draw = max(lengths), torch.Generator().manual_seed(3)
        states = torch.randn(9, 4, generator=draw)
        mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
        rows = [[0] * (width - n) + [2 + (r + i) % 9 for i in range(n)] for r, n in zip(records, lengths, strict=True)]
        ids = torch.tensor(rows)
        slots = torch.zeros_like(ids)
        slots[:, -3:] = torch.tensor([1, 2, 3])
        rows = torch.tensor(records)
        nothing = torch.zeros(len(records), 0, dtype=torch.long)
        states = (states[rows], states[rows + 1], rows % 3)
        return PromptBatch(ids, slots, mask, nothing, nothing, *states, rows, torch.ones(len(records)), 1.0)

    def with_responses(self, record_M, response_MT, mask_MT):
        batch = self.batch(record_M.tolist())
        batch.response_BT, batch.response_mask_BT = response_MT, mask_MT
        return batch

    def candidate_names(self, records):
        return [list(self.names) for _ in records]


class Rewards:
    """Stands for a Scorer: rewards as given."""

    reduce = "mean"

    def __init__(self, value=0.5):
        self.value = value

    def to(self, device):
        pass

    def score(self, response_BT, mask_BT, names):
        ccr = torch.full((len(mask_BT),), 0.5)
        ccr[3] = self.value
        return Scores(ccr, torch.zeros(len(mask_BT)), torch.zeros(mask_BT.shape))


def module(lm, scorer=None, prompts=None, **options):
    torch.manual_seed(0)
    config = PPOConfig(rollout_batch_size=8, mini_batch_size=8, **options)
    prompts = prompts or Prompts(config.samples_per_prompt)
    made = PPOModule(config, Explainer(lm, 4), tokenizer(), scorer or Rewards(), prompts, LENGTH, seed=2)
    made._trainer = SimpleNamespace(strategy=SimpleNamespace(model=None))
    if made.value is not None:
        torch.nn.init.normal_(made.value.weight, std=0.1)
    return made


def sharpen(lm):
    """Weights large enough that texts differ and some of them end."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if parameter.dim() > 1 and "lora_A" not in name:
                torch.nn.init.normal_(parameter, std=0.02 if "lora_B" in name else 0.2)
    return lm


CASES = {
    "gpt2": lambda: sharpen(gpt2()),
    "llama": lambda: sharpen(llama()),
    "gpt2, adapters": lambda: sharpen(with_adapters(gpt2(), LoraConfig(rank=2))),
    "llama, adapters": lambda: sharpen(with_adapters(llama(), LoraConfig(rank=2))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("samples", [1, 4])
def test_log_probabilities_and_values_of_a_rollout_are_those_of_the_update(case, samples):
    """With left padding, soft vectors, a cache and rows that end; the update reads anew, without cache or padding."""
    ppo = module(CASES[case](), samples_per_prompt=samples)
    rollout = ppo.rollout(0)
    assert len(set(rollout.mask_BT.sum(1).tolist())) > 1
    assert rollout.ended_B.any()
    batch = ppo.prompts.with_responses(rollout.record_B, rollout.response_BT, rollout.mask_BT)
    batch.parts = 2
    reading, value_BT = ppo(batch)
    torch.testing.assert_close(reading.log_prob_BT, rollout.log_prob_BT, atol=1e-5, rtol=0)
    torch.testing.assert_close(value_BT, rollout.value_BT, atol=1e-5, rtol=0)
    # The policy has not moved from its reference.
    torch.testing.assert_close(rollout.ref_log_prob_BT, rollout.log_prob_BT, atol=1e-5, rtol=0)
    assert len({tuple(row) for row in rollout.response_BT.tolist()}) > 4  # samples of a prompt differ


def rollout_by_hand():
    """Two prompts with two samples; the second text does not end, the third has one token."""
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    log_prob = torch.tensor([[-1.0, -2.0, -1.0], [-1.0, -1.0, -1.0], [-0.5, 0, 0], [-2.0, -1.0, 0]])
    reference = torch.tensor([[-1.5, -2.0, -1.0], [-1.0, -1.0, -2.0], [-0.5, 0, 0], [-1.0, -1.0, 0]])
    value = torch.tensor([[0.5, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0, 0], [0.0, 0.5, 0]])
    rewards = {"ccr": torch.tensor([1.0, 3.0, 1.0, 3.0]), "hqar": torch.zeros(4), "hqar_token": torch.zeros(4, 3)}
    ended = torch.tensor([1.0, 0.0, 1.0, 1.0])
    response = torch.full((4, 3), 5)
    return Rollout(torch.tensor([0, 0, 1, 1]), response, mask, log_prob, reference, value, ended, rewards=rewards)


# ccr has mean 2 and standard deviation 1, so the scores at the last tokens are -1, 1 - 1 (no end), -1, 1;
# beta is 0.2, so the KL takes off 0.2 (log pi - log pi_ref) at each token.
REWARDS = [[-0.1, 0.0, -1.0], [0.0, 0.0, -0.2], [-1.0, 0, 0], [0.2, 1.0, 0]]
BY_HAND = {"kl_coef": 0.2, "kl_target": 0.0, "lambda_hqar": 0.0, "samples_per_prompt": 2}


def test_ppo_advantages_by_hand():
    """gamma 1, lambda 0.5: delta = r + V' - V, A = delta + 0.5 A'."""
    ppo = module(gpt2(), **BY_HAND, gae_lambda=0.5)
    advantage_BT, return_BT, figures = ppo.advantages(rollout_by_hand())
    # row 0: deltas -0.1+0-0.5, 0+1-0, -1-1 = -0.6, 1, -2; A = -0.6+0.5*0, 1-1, -2
    raw = [[-0.6, 0.0, -2.0], [-0.05, -0.1, -0.2], [-2.0, 0, 0], [0.95, 0.5, 0]]
    value = [[0.5, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0, 0], [0.0, 0.5, 0]]
    expected = [[a + v for a, v in zip(row, at, strict=True)] for row, at in zip(raw, value, strict=True)]
    torch.testing.assert_close(return_BT, torch.tensor(expected))
    flat = [-0.6, 0.0, -2.0, -0.05, -0.1, -0.2, -2.0, 0.95, 0.5]
    mean, std = np.mean(flat), np.std(flat)
    mask = rollout_by_hand().mask_BT > 0
    assert advantage_BT[mask].tolist() == pytest.approx([(a - mean) / std for a in flat], abs=1e-5)
    assert figures["kl"] == pytest.approx((0.5 + 1.0 + 0.0 - 1.0) / 4)
    assert figures["reward/total"] == pytest.approx((-1 + 0 - 1 + 1) / 4)
    returns = [a for row, length in zip(expected, (3, 3, 1, 2), strict=True) for a in row[:length]]
    assert figures["explained_variance"] == pytest.approx(1 - np.var(flat) / np.var(returns), rel=1e-5)


# The hqar rewards of the four texts are 2, 6, 2, 6, whether as sums of their tokens or as means: mean 4 and standard
# deviation 2. Each token's share of the mean is 4 / length, so that a text's tokens sum up to -1, 1, -1, 1.
TOKENS = {
    "sum": [[2.0, 0.0, 0.0], [2.0, 4.0, 0.0], [2.0, 9.0, 9.0], [2.0, 4.0, 9.0]],
    "mean": [[6.0, 0.0, 0.0], [6.0, 12.0, 0.0], [2.0, 9.0, 9.0], [4.0, 8.0, 9.0]],
}
CREDIT = [[1 / 3, -2 / 3, -2 / 3], [1 / 3, 4 / 3, -2 / 3], [-1.0, 0, 0], [0.0, 1.0, 0]]


@pytest.mark.parametrize("reduce", TOKENS)
@pytest.mark.parametrize("credit", ["token", "sequence"])
def test_the_scores_of_tokens_by_hand(reduce, credit):
    """lambda_hqar 0.5 times the hqar shares; at the last token 3 times ccr's -1, 1, -1, 1, less 0.7 for no end."""
    ppo = module(gpt2(), **BY_HAND | {"lambda_hqar": 0.5}, lambda_ccr=3.0, missing_end_penalty=0.7, hqar_credit=credit)
    ppo.scorer.reduce = reduce
    rollout, seen = rollout_by_hand(), {}
    rollout.rewards["ccr"] = torch.tensor([0.0, 4.0, 0.0, 4.0])
    rollout.rewards["hqar"] = torch.tensor([2.0, 6.0, 2.0, 6.0])
    rollout.rewards["hqar_token"] = torch.tensor(TOKENS[reduce])
    ppo._estimate = lambda rollout, score_BT: seen.update(score=score_BT) or (score_BT, score_BT)
    _, _, figures = ppo.advantages(rollout)
    in_end = [[0, 0, -3.0], [0, 0, 2.3], [-3.0, 0, 0], [0, 3.0, 0]]
    hqar = CREDIT if credit == "token" else [[0, 0, -1.0], [0, 0, 1.0], [-1.0, 0, 0], [0, 1.0, 0]]
    expected = torch.tensor(in_end) + 0.5 * torch.tensor(hqar)
    torch.testing.assert_close(seen["score"], expected)
    assert figures["reward/total"] == pytest.approx((-3.5 + 2.8 - 3.5 + 3.5) / 4)


def test_rloo_advantages_by_hand():
    """Sums of the rewards above are -1.1, -0.2 and -1, 1.2: each less the other of its prompt, at every token."""
    ppo = module(gpt2(), **BY_HAND, algorithm="rloo")
    advantage_BT, _, _ = ppo.advantages(rollout_by_hand())
    expected = torch.tensor([[-0.9], [0.9], [-2.2], [2.2]]) * rollout_by_hand().mask_BT
    torch.testing.assert_close(advantage_BT, expected)
    assert ppo.value is None


def test_grpo_advantages_by_hand():
    """Scores without KL are -1, 0 and -1, 1; a pair's standardised values are -+ 1/sqrt(2)."""
    ppo = module(gpt2(), **BY_HAND, algorithm="grpo")
    advantage_BT, _, _ = ppo.advantages(rollout_by_hand())
    expected = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]) * rollout_by_hand().mask_BT / 2**0.5
    torch.testing.assert_close(advantage_BT, expected, atol=2e-4, rtol=0)


def test_dropout_stays_off_in_training_mode():
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2))
    ppo = module(lm)
    assert not any(part.training for part in ppo.policy.modules())
    assert not any(part.training for part in ppo.reference.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_named_by_its_record(value):
    ppo = module(gpt2(), Rewards(value))
    with pytest.raises(InputError, match="the ccr reward of records 3 is not finite; nothing was updated"):
        ppo.score(ppo.rollout(0))


def test_records_without_candidates_are_named():
    ppo = module(gpt2(), prompts=Prompts(names=()))
    with pytest.raises(InputError, match="records 0, 1, 2, 3, 4, 5, 6, 7 have no candidate concepts"):
        ppo.score(ppo.rollout(0))


def test_a_text_that_is_its_end_token_alone_is_scored_and_learned_from():
    ppo = module(gpt2())
    rollout = ppo.rollout(0)
    rollout.response_BT[2], rollout.mask_BT[2] = torch.tensor([END] + [0] * 8), torch.tensor([1] + [0] * 8)
    advantage_BT, return_BT, figures = ppo.advantages(ppo.score(rollout))
    assert torch.isfinite(advantage_BT).all()
    assert torch.isfinite(return_BT).all()
    assert all(np.isfinite(value) for value in figures.values())


def test_prompts_longer_than_the_context_are_refused():
    check_context(gpt2(), 30, 10)
    with pytest.raises(InputError, match="prompt.max_prompt_tokens=30.*more than the 40 positions"):
        check_context(gpt2(), 30, 11)


def with_adversary():
    made = module(CASES["gpt2"]())
    object.__setattr__(made, "adversary", Adversary(torch.nn.Linear(2, 1), [[3]], 0, 0.1, 1e-3, 0))
    made._trainer.ckpt_path = "runs/mine/ppo/checkpoints/step-000120"
    return made


def keys_of(tree, name):
    for key, value in tree.items():
        yield f"{name}.{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{name}.{key}")


def test_what_a_checkpoint_holds_comes_back():
    first, second = with_adversary(), with_adversary()
    first.kl.coefficient = 0.7
    first.moments["ccr"].update(torch.tensor([1.0, 3.0]))
    torch.nn.init.constant_(first.adversary.discriminator.weight, 5.0)
    checkpoint = {}
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(checkpoint)
    assert (second.kl.coefficient, second.moments["ccr"].mean, second.moments["ccr"].std) == (0.7, 2.0, 1.0)
    assert (second.adversary.discriminator.weight == 5.0).all()


def test_a_checkpoint_that_lacks_any_part_is_refused_by_file_and_key():
    made, checkpoint = with_adversary(), {}
    made.on_save_checkpoint(checkpoint)
    names = ["ppo", *keys_of(checkpoint["ppo"], "ppo")]
    assert {"ppo.kl_coef", "ppo.moments.hqar.squares", "ppo.adversary.weights.bias"} <= set(names)
    for name in names:
        *path, last = name.split(".")
        part = broken = copy.deepcopy(checkpoint)
        for key in path:
            part = part[key]
        del part[last]
        refusal = f"runs/mine/ppo/checkpoints/step-000120: lacks the state of {name}; resume from another checkpoint"
        with pytest.raises(InputError, match=f"^{re.escape(refusal)}$"):
            with_adversary().on_load_checkpoint(broken)
