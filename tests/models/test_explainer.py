"""The explainer: soft vectors in their slots, logits in their columns, and a folder that is read back."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from models.explainer import (
    ITEM,
    SENTIMENT,
    USER,
    Connector,
    Explainer,
    load_explainer,
    new_explainer,
    positions,
    response_log_probs,
    save_explainer,
)
from models.language_model import LoraConfig, train_tokenizer

VOCABULARY = 300


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2))


def llama():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))


@pytest.fixture(params=[gpt2, llama], ids=["gpt2", "llama"])
def explainer(request):
    torch.manual_seed(0)
    return Explainer(request.param(), node_width=6).eval()


def example():
    """Two prompts, the first padded by two, with responses of three and one tokens."""
    draw = torch.Generator().manual_seed(1)
    return {
        "prompt_BP": torch.tensor([[0, 0, 7, 0, 0, 0, 9], [5, 6, 0, 0, 0, 8, 9]]),
        "slot_BP": torch.tensor([[0, 0, 0, USER, ITEM, SENTIMENT, 0], [0, 0, USER, ITEM, SENTIMENT, 0, 0]]),
        "user_BD": torch.randn(2, 6, generator=draw),
        "item_BD": torch.randn(2, 6, generator=draw),
        "sentiment_B": torch.tensor([2, 0]),
    }


MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
RESPONSE = torch.tensor([[11, 12, 2], [13, 0, 0]])
RESPONSE_MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


@torch.no_grad()
def test_soft_vectors_stand_in_their_slots_and_tokens_everywhere_else(explainer):
    batch = example()
    got_BPW = explainer.embed_prompt(**batch)
    table = explainer.lm.get_input_embeddings().weight
    for row in range(2):
        soft = {
            USER: explainer.user(batch["user_BD"])[row],
            ITEM: explainer.item(batch["item_BD"])[row],
            SENTIMENT: explainer.sentiment.weight[batch["sentiment_B"][row]],
        }
        for place, slot in enumerate(batch["slot_BP"][row].tolist()):
            expected_W = soft[slot] if slot else table[batch["prompt_BP"][row, place]]
            torch.testing.assert_close(got_BPW[row, place], expected_W)


@torch.no_grad()
def test_the_logits_are_those_of_each_row_run_alone_without_padding(explainer):
    prompt_BPW = explainer.embed_prompt(**example())
    output = explainer(prompt_BPW, MASK, RESPONSE, RESPONSE_MASK)
    assert output.logits.shape == (2, RESPONSE.shape[1] + 1, VOCABULARY)
    table = explainer.lm.get_input_embeddings().weight
    for row in range(2):
        prompt_PW = prompt_BPW[row][MASK[row].bool()]
        response_TW = table[RESPONSE[row][RESPONSE_MASK[row].bool()]]
        whole_SV = explainer.lm(inputs_embeds=torch.cat([prompt_PW, response_TW])[None]).logits[0]
        # The last prompt position predicts the first response token.
        expected_TV = whole_SV[len(prompt_PW) - 1 :]
        torch.testing.assert_close(output.logits[row, : len(expected_TV)], expected_TV, atol=2e-6, rtol=1e-4)


@torch.no_grad()
def test_hidden_states_hold_the_whole_sequence(explainer):
    output = explainer(explainer.embed_prompt(**example()), MASK, RESPONSE, RESPONSE_MASK)
    last_BSW = output.hidden_states[-1]
    assert last_BSW.shape[:2] == (2, 10)
    torch.testing.assert_close(explainer.lm.get_output_embeddings()(last_BSW[:, -4:]), output.logits)


def test_gradients_reach_connectors_sentiment_and_language_model(explainer):
    logits_BTV = explainer(explainer.embed_prompt(**example()), MASK, RESPONSE, RESPONSE_MASK).logits
    loss = -(response_log_probs(logits_BTV[:, :-1], RESPONSE) * RESPONSE_MASK).sum()
    loss.backward()
    for name, parameter in explainer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_positions_start_at_zero_behind_the_padding():
    mask_BS = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])
    assert positions(mask_BS)[0, 2:5].tolist() == [0, 1, 2]
    assert positions(mask_BS)[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert positions(mask_BS)[2, 5] == 0
    assert positions(mask_BS).min() == 0


def test_log_probabilities_are_a_slow_loop_over_softmax():
    draw = torch.Generator().manual_seed(0)
    logits_BTV = torch.randn(2, 3, 5, generator=draw) * 4
    response_BT = torch.tensor([[0, 4, 2], [1, 1, 3]])
    got_BT = response_log_probs(logits_BTV, response_BT)
    for b in range(2):
        for t in range(3):
            weights = [math.exp(z) for z in logits_BTV[b, t].tolist()]
            expected = math.log(weights[response_BT[b, t]] / sum(weights))
            assert got_BT[b, t].item() == pytest.approx(expected, abs=1e-5)


def test_log_probabilities_are_float32_whatever_the_logits_are():
    assert response_log_probs(torch.zeros(1, 1, 4, dtype=torch.bfloat16), torch.tensor([[1]])).dtype == torch.float32


def test_soft_vectors_start_about_as_long_as_token_embeddings():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=128, n_layer=1, n_head=2))
    table = model.get_input_embeddings().weight.detach()
    usual = table.norm(dim=1).mean()
    explainer = Explainer(model, node_width=32)
    states_BD = torch.randn(200, 32) * 5
    for vectors in (explainer.user(states_BD), explainer.item(states_BD), explainer.sentiment.weight):
        assert 0.5 < vectors.norm(dim=1).mean() / usual < 2


def test_a_connector_tells_states_apart_whatever_their_scale():
    torch.manual_seed(0)
    connector = Connector(6, 16, scale=0.02)
    state_BD = torch.randn(2, 6)
    torch.testing.assert_close(connector(state_BD), connector(state_BD * 100), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(connector(state_BD)[0], connector(state_BD)[1], atol=1e-4)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the sound is warm ."] * 3, VOCABULARY)


def logits_of(explainer):
    with torch.no_grad():
        return explainer.eval()(explainer.embed_prompt(**example()), MASK, RESPONSE, RESPONSE_MASK).logits


def test_an_explainer_is_read_back_as_it_was_saved(explainer, tokenizer, tmp_path):
    save_explainer(tmp_path, explainer.state_dict(), explainer, tokenizer)
    torch.manual_seed(99)
    back = load_explainer(tmp_path)
    assert torch.equal(logits_of(back), logits_of(explainer))
    assert back.node_width == 6
    assert {p.name for p in tmp_path.iterdir()} == {"lm", "connectors.safetensors", "explainer.json"}


def test_what_is_saved_is_the_given_state_not_that_of_the_module(explainer, tokenizer, tmp_path):
    """Under ZeRO-3 the module on a rank holds shards; the gathered state is what counts."""
    expected = logits_of(explainer)
    state = {name: value.clone() for name, value in explainer.state_dict().items()}
    with torch.no_grad():
        for parameter in explainer.parameters():
            parameter.zero_()
    save_explainer(tmp_path, state, explainer, tokenizer)
    assert torch.equal(logits_of(load_explainer(tmp_path)), expected)


def test_nothing_that_is_saved_is_a_pickle(explainer, tokenizer, tmp_path):
    save_explainer(tmp_path, explainer.state_dict(), explainer, tokenizer)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt", ".jinja"}


def test_adapters_are_saved_alone_and_read_back_on_their_base(tokenizer, tmp_path):
    torch.manual_seed(0)
    gpt2().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    explainer = new_explainer(str(tmp_path / "base"), 6, LoraConfig(rank=2, dropout=0.0))
    with torch.no_grad():
        for name, parameter in explainer.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    state = {
        name: value for name, value in explainer.state_dict().items() if "lora_" in name or not name.startswith("lm.")
    }
    (tmp_path / "tuned").mkdir()
    save_explainer(tmp_path / "tuned", state, explainer, tokenizer)
    saved = tmp_path / "tuned" / "lm"
    assert json.loads((saved / "adapter_config.json").read_text())["r"] == 2
    assert not (saved / "model.safetensors").exists()
    back = load_explainer(tmp_path / "tuned")
    torch.testing.assert_close(logits_of(back), logits_of(explainer))
    learning = {name for name, p in back.lm.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)


def test_weights_of_another_model_are_refused(explainer, tokenizer, tmp_path):
    save_explainer(tmp_path, explainer.state_dict(), explainer, tokenizer)
    file = tmp_path / "connectors.safetensors"
    save_file(load_file(file) | {"something.else": torch.zeros(1)}, file)
    with pytest.raises(RuntimeError, match="weights of another model.*something"):
        load_explainer(tmp_path)


def test_missing_connector_weights_are_refused(explainer, tokenizer, tmp_path):
    save_explainer(tmp_path, explainer.state_dict(), explainer, tokenizer)
    file = tmp_path / "connectors.safetensors"
    state = load_file(file)
    del state["user.layers.1.weight"]
    save_file(state, file)
    with pytest.raises(RuntimeError, match=r"user\.layers\.1\.weight"):
        load_explainer(tmp_path)
