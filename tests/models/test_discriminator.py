"""The discriminator of high-quality text: its loss and reward by hand, and that it reads from left to right."""

import math

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lightning_modules.collectives import trainable_and_total
from models.discriminator import (
    Discriminator,
    discriminator_loss,
    load_discriminator,
    new_discriminator,
    save_discriminator,
    sequence_reward,
    token_reward,
)
from models.language_model import LoraConfig, load_language_model

BEGIN = 1


def llama_config(**options):
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32}
    return LlamaConfig(**sizes, **heads, **options)


QWEN = {"intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32}


def causal_model(folder, kind):
    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=32, n_embd=16, n_layer=3, n_head=2))
    elif kind == "qwen":
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=20, hidden_size=16, num_hidden_layers=3, **QWEN))
    else:
        model = LlamaForCausalLM(llama_config())
    model.save_pretrained(folder)
    return model


@pytest.fixture(params=["gpt2", "llama", "qwen"])
def discriminator(request, tmp_path):
    causal_model(tmp_path, request.param)
    return new_discriminator(str(tmp_path), layers=2, begin=BEGIN).eval()


@torch.no_grad()
def test_the_logit_of_a_token_does_not_depend_on_later_tokens(discriminator):
    mask_BT = torch.ones(1, 6, dtype=torch.long)
    one = discriminator(torch.tensor([[5, 6, 7, 8, 9, 10]]), mask_BT)
    other = discriminator(torch.tensor([[5, 6, 7, 11, 12, 13]]), mask_BT)
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.isclose(one[0, 3], other[0, 3])


@torch.no_grad()
def test_the_logit_of_a_token_depends_on_that_token_and_on_earlier_ones(discriminator):
    mask_BT = torch.ones(1, 3, dtype=torch.long)
    base = discriminator(torch.tensor([[5, 6, 7]]), mask_BT)
    assert not torch.isclose(discriminator(torch.tensor([[8, 6, 7]]), mask_BT)[0, 0], base[0, 0])
    assert not torch.isclose(discriminator(torch.tensor([[8, 6, 7]]), mask_BT)[0, 2], base[0, 2])


def test_logits_and_gradients_are_those_of_padded_texts(discriminator, monkeypatch):
    text_BT, mask_BT = (
        torch.tensor([[5, 6, 0, 0], [7, 8, 9, 10], [0] * 4]),
        torch.tensor([[1, 1, 0, 0], [1] * 4, [0] * 4]),
    )
    weight_BT, found = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), []
    for packs in (True, False):
        monkeypatch.setattr("models.discriminator.packs_by_runs", lambda *given, packs=packs: packs)
        discriminator.zero_grad()
        logits_BT = discriminator(text_BT, mask_BT)
        (logits_BT * weight_BT).sum().backward()
        found.append([logits_BT, *(p.grad.clone() for p in discriminator.parameters() if p.grad is not None)])
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_text_gets_the_same_logits_alone_and_padded_in_a_batch(discriminator):
    text_BT, mask_BT = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 10]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    together = discriminator(text_BT, mask_BT)
    alone = discriminator(text_BT[:1, :2], mask_BT[:1, :2])
    torch.testing.assert_close(together[0, :2], alone[0])


@torch.no_grad()
def test_the_head_reads_the_trunk_behind_the_begin_token(discriminator):
    got = discriminator(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.long))
    hidden_SD = discriminator.trunk(input_ids=torch.tensor([[BEGIN, 5, 6]])).last_hidden_state[0]
    expected = hidden_SD[1:] @ discriminator.head.weight[0] + discriminator.head.bias[0]
    torch.testing.assert_close(got[0], expected)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_trunk_is_the_first_blocks_of_the_language_model(tmp_path, kind):
    model = causal_model(tmp_path, kind)
    state = new_discriminator(str(tmp_path), layers=1, begin=BEGIN).trunk.state_dict()
    whole = model.base_model.state_dict()
    block = "h.{}." if kind == "gpt2" else "layers.{}."
    assert any(name.startswith(block.format(0)) for name in state)
    assert not any(name.startswith(block.format(1)) for name in state)
    for name, value in state.items():
        if not name.startswith(("ln_f", "norm")):
            assert torch.equal(value, whole[name]), name


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_trunk_of_a_model_with_adapters_is_its_first_blocks_as_they_were_tuned(tmp_path, monkeypatch, kind):
    causal_model(tmp_path / "base", kind)
    monkeypatch.chdir(tmp_path)
    tuned = load_language_model("base", LoraConfig(rank=2, dropout=0.0)).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:  # they begin at zero, where adapters do nothing
            torch.nn.init.normal_(parameter, std=0.3)
    tuned.save_pretrained(tmp_path / "lm")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    trunk = new_discriminator(str(tmp_path / "lm"), layers=1, begin=BEGIN).trunk.eval()
    ids_BT = torch.tensor([[BEGIN, 5, 6, 7]])
    plain = tuned.get_base_model().base_model
    first_BTW = plain(input_ids=ids_BT, output_hidden_states=True).hidden_states[1]
    expected_BTW = (plain.ln_f if kind == "gpt2" else plain.norm)(first_BTW)
    torch.testing.assert_close(trunk(input_ids=ids_BT).last_hidden_state, expected_BTW, atol=1e-5, rtol=1e-4)
    assert not [name for name, _ in trunk.named_parameters() if "lora_" in name]
    with tuned.disable_adapter():
        untuned_BTW = plain(input_ids=ids_BT, output_hidden_states=True).hidden_states[1]
    assert (untuned_BTW - first_BTW).abs().max() > 1e-3, "the test has no power if adapters do nothing"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_of_a_model_with_adapters_as_much_learns_as_of_one_without(tmp_path, kind):
    """PEFT freezes what it merges its adapters into; a head on a frozen trunk learns next to nothing."""
    causal_model(tmp_path / "base", kind)
    load_language_model(str(tmp_path / "base"), LoraConfig(rank=4)).save_pretrained(tmp_path / "lm")
    whole, tuned = (new_discriminator(str(tmp_path / name), layers=2, begin=BEGIN) for name in ("base", "lm"))
    learning, total = trainable_and_total(tuned)
    assert (learning, total) == trainable_and_total(whole)
    assert learning == total
    text_BT, mask_BT = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.ones(2, 3, dtype=torch.long)
    discriminator_loss(tuned(text_BT, mask_BT), mask_BT, torch.tensor([1.0, 0.0]), 0.1).sum().backward()
    # Of the tables of words and places some rows are not read; all else has a gradient.
    assert not [name for name, parameter in tuned.named_parameters() if not (parameter.grad != 0).any()]
    save_discriminator(tmp_path / "saved", tuned.state_dict(), tuned)
    again = load_discriminator(tmp_path / "saved", BEGIN).eval()
    assert trainable_and_total(again) == (total, total)  # it learns on during PPO
    torch.testing.assert_close(again(text_BT, mask_BT), tuned.eval()(text_BT, mask_BT))


def test_more_blocks_than_there_are_gives_them_all(tmp_path):
    causal_model(tmp_path, "gpt2")
    assert new_discriminator(str(tmp_path), layers=99, begin=BEGIN).trunk.config.num_hidden_layers == 3


@torch.no_grad()
def test_it_is_read_back_as_it_was_saved(discriminator, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    save_discriminator(folder, discriminator.state_dict(), discriminator)
    back = load_discriminator(folder, BEGIN).eval()
    text_BT, mask_BT = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long)
    assert torch.equal(back(text_BT, mask_BT), discriminator(text_BT, mask_BT))
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))


def bce(logit, target):
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def test_the_loss_by_hand():
    logits_BT = torch.tensor([[1.5, -0.5, 7.0], [0.3, 9.0, 9.0]])
    mask_BT = torch.tensor([[1, 1, 0], [1, 0, 0]])
    got_B = discriminator_loss(logits_BT, mask_BT, torch.tensor([1.0, 0.0]), smoothing=0.1)
    expected = [(bce(1.5, 0.9) + bce(-0.5, 0.9)) / 2, bce(0.3, 0.0)]
    assert got_B.tolist() == pytest.approx(expected, rel=1e-5)


def test_only_high_quality_texts_are_smoothed():
    logits_BT, mask_BT = torch.tensor([[2.0], [2.0]]), torch.ones(2, 1)
    real_B = torch.tensor([1.0, 0.0])
    plain, smoothed = (discriminator_loss(logits_BT, mask_BT, real_B, s) for s in (0.0, 0.1))
    assert plain[0] != smoothed[0]
    assert plain[1] == smoothed[1]


def test_a_text_without_tokens_costs_nothing():
    loss_B = discriminator_loss(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1), 0.1)
    assert loss_B.tolist() == [0]


def test_the_reward_is_minus_log_of_one_minus_the_probability():
    logits_BT = torch.tensor([[-4.0, -1.0, 0.0, 0.5, 4.0]])
    expected = [-math.log(1 - 1 / (1 + math.exp(-z))) for z in logits_BT[0].tolist()]
    got = token_reward(logits_BT, torch.ones(1, 5), clip=0.0)[0]
    assert got.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_reward_is_finite_where_the_probability_is_one_in_float32():
    got = token_reward(torch.tensor([[80.0, -200.0]]), torch.ones(1, 2), clip=0.0)
    assert got[0].tolist() == pytest.approx([80.0, 0.0])


def test_clipping_bounds_the_reward_at_the_clipped_probabilities():
    got = token_reward(torch.tensor([[100.0, -100.0, 0.0]]), torch.ones(1, 3), clip=0.01)[0].tolist()
    assert got == pytest.approx([-math.log(0.01), -math.log(0.99), math.log(2)], rel=1e-4)


def test_masked_tokens_earn_nothing():
    got = token_reward(torch.tensor([[1.0, 2.0]]), torch.tensor([[1, 0]]), clip=0.0)
    assert got[0, 1] == 0
    assert got[0, 0] > 0


def test_the_sum_pays_for_length_and_the_mean_does_not():
    logits_BT, mask_BT = torch.zeros(2, 4), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    total = sequence_reward(logits_BT, mask_BT, 0.01, "sum").tolist()
    mean = sequence_reward(logits_BT, mask_BT, 0.01, "mean").tolist()
    assert total == pytest.approx([4 * math.log(2), math.log(2)])
    assert mean == pytest.approx([math.log(2), math.log(2)])
    assert sequence_reward(logits_BT, torch.zeros(2, 4), 0.01, "mean").tolist() == [0, 0]


def test_a_better_logit_never_earns_less():
    draw = torch.Generator().manual_seed(0)
    logits_BT = torch.randn(3, 6, generator=draw) * 5
    mask_BT = torch.ones(3, 6)
    for reduce in ("sum", "mean"):
        lower = sequence_reward(logits_BT, mask_BT, 0.01, reduce)
        assert (sequence_reward(logits_BT + 0.5, mask_BT, 0.01, reduce) >= lower).all()


def test_the_trunk_may_be_given_directly():
    torch.manual_seed(0)
    discriminator = Discriminator(LlamaModel(llama_config()), BEGIN)
    logits_BT = discriminator(torch.tensor([[3, 4]]), torch.ones(1, 2, dtype=torch.long))
    assert logits_BT.shape == (1, 2)
    logits_BT.sum().backward()
    assert discriminator.head.weight.grad.abs().sum() > 0
