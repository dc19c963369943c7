"""The explainer: soft vectors in their slots, logits in their columns, and a folder that is read back."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from models import kernels
from models import reading as reading_module
from models.explainer import (
    ITEM,
    SENTIMENT,
    USER,
    Connector,
    Explainer,
    load_explainer,
    new_explainer,
    save_explainer,
)
from models.kernels import with_faster_kernels
from models.language_model import LoraConfig, train_tokenizer, with_adapters
from models.next_state import positions

VOCABULARY = 300


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2))


def llama():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))


def gemma2():
    """Caps its logits."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "head_dim": 8,
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 8}
    return Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, final_logit_softcapping=0.2, pad_token_id=0))


def cohere():
    """Scales its logits."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return CohereForCausalLM(CohereConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, logit_scale=5.0))


def granite():
    """Divides its logits."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return GraniteForCausalLM(GraniteConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, logits_scaling=0.1))


FAMILIES = [gpt2, llama, gemma2, cohere, granite]


@pytest.fixture(params=FAMILIES, ids=[family.__name__ for family in FAMILIES])
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
    table = explainer.lm.get_input_embeddings()
    for row in range(2):
        soft = {
            USER: explainer.user(batch["user_BD"])[row],
            ITEM: explainer.item(batch["item_BD"])[row],
            SENTIMENT: explainer.sentiment.weight[batch["sentiment_B"][row]],
        }
        for place, slot in enumerate(batch["slot_BP"][row].tolist()):
            expected_W = soft[slot] if slot else table(batch["prompt_BP"][row, place])
            torch.testing.assert_close(got_BPW[row, place], expected_W)


def read(explainer, parts=1, **options):
    return explainer(explainer.embed_prompt(**example()), MASK, RESPONSE, RESPONSE_MASK, parts, **options)


@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("parts", [1, 2])
@torch.no_grad()
def test_a_reading_is_that_of_each_row_run_alone_by_the_whole_model_without_padding(
    explainer, parts, spare, monkeypatch
):
    monkeypatch.setattr(reading_module, "spare", lambda *_: spare)
    prompt_BPW = explainer.embed_prompt(**example())
    reading = read(explainer, parts)
    table = explainer.lm.get_input_embeddings()
    for row in range(2):
        prompt_PW, length = prompt_BPW[row][MASK[row].bool()], int(RESPONSE_MASK[row].sum())
        response_TW = table(RESPONSE[row, :length])
        output = explainer.lm(inputs_embeds=torch.cat([prompt_PW, response_TW])[None], output_hidden_states=True)
        # The last prompt position predicts the first response token.
        expected_TV = output.logits[0, len(prompt_PW) - 1 : -1].log_softmax(-1)
        for t in range(length):
            log_prob = reading.log_prob_BT[row, t].item()
            assert log_prob == pytest.approx(expected_TV[t, RESPONSE[row, t]].item(), abs=2e-5)
            entropy = -(expected_TV[t].exp() * expected_TV[t]).sum().item()
            assert reading.entropy_BT[row, t].item() == pytest.approx(entropy, abs=2e-5)
            [place] = ((reading.row_n == row) & (reading.column_n == t)).nonzero()[:, 0].tolist()
            expected_W = output.hidden_states[-1][0, len(prompt_PW) - 1 + t]
            torch.testing.assert_close(reading.hidden_nW[place], expected_W, atol=1e-5, rtol=1e-4)
    assert (reading.log_prob_BT[RESPONSE_MASK == 0] == 0).all()


def qwen2():
    """Has biases in its attention alone."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1))


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("family", [gpt2, qwen2], ids=["gpt2", "qwen2"])
def test_gradients_come_in_one_order_whatever_a_rank_has_to_read(family, rank, monkeypatch):
    """DeepSpeed adds up the gradients of ranks as they come: of many rows, of two, and of two without a response."""
    monkeypatch.setattr(kernels, "WORTH_IT", 2**15)  # above each product of two rows, below most of forty
    lora = LoraConfig(rank=rank, dropout=0.0)
    explainer, seen, orders = Explainer(with_adapters(with_faster_kernels(family()), lora), node_width=6), [], []
    for name, parameter in explainer.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    for times, answered in ((20, 1), (1, 1), (1, 0)):
        batch = {name: torch.cat([part] * times) for name, part in example().items()}
        mask, response, response_mask = (torch.cat([part] * times) for part in (MASK, RESPONSE, RESPONSE_MASK))
        reading = explainer(explainer.embed_prompt(**batch), mask, response, response_mask * answered)
        (reading.log_prob_BT.sum() + reading.hidden_nW.sum()).backward()
        orders.append(list(seen))
        seen.clear()
    assert set(orders[0]) == {name for name, parameter in explainer.named_parameters() if parameter.requires_grad}
    assert orders[0] == orders[1] == orders[2]


def test_values_of_tokens_are_spread_to_their_places(explainer):
    reading = read(explainer, 2)
    spread_BT = reading.spread(10 * reading.row_n + reading.column_n + 1)
    assert spread_BT.tolist() == [[1, 2, 3], [11, 0, 0]]


def test_a_row_without_response_tokens_has_no_part_in_anything(explainer):
    with torch.no_grad():
        both = explainer(explainer.embed_prompt(**example()), MASK, RESPONSE, RESPONSE_MASK * torch.tensor([[1], [0]]))
    torch.testing.assert_close(both.log_prob_BT[0], read(explainer).log_prob_BT[0])
    assert both.log_prob_BT[1].tolist() == [0, 0, 0]
    none = explainer(explainer.embed_prompt(**example()), MASK, RESPONSE, RESPONSE_MASK * 0)
    none.log_prob_BT.sum().backward()
    assert all(p.grad is not None for p in explainer.lm.parameters())  # ranks stay in step under ZeRO


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_those_of_the_plain_formula(explainer, parts):
    reading = read(explainer, parts, entropy_gradient=True)
    (reading.log_prob_BT.sum() - 0.3 * (reading.entropy_BT * RESPONSE_MASK).sum()).backward()
    got = {name: parameter.grad.clone() for name, parameter in explainer.named_parameters()}
    explainer.zero_grad()
    prompt_BPW, table = explainer.embed_prompt(**example()), explainer.lm.get_input_embeddings()
    loss = 0.0
    for row in range(2):
        prompt_PW, length = prompt_BPW[row][MASK[row].bool()], int(RESPONSE_MASK[row].sum())
        whole_SW = torch.cat([prompt_PW, table(RESPONSE[row, :length])])
        log_p_TV = explainer.lm(inputs_embeds=whole_SW[None]).logits[0, len(prompt_PW) - 1 : -1].log_softmax(-1)
        loss = loss + log_p_TV.gather(1, RESPONSE[row, :length, None]).sum() + 0.3 * (log_p_TV.exp() * log_p_TV).sum()
    loss.backward()
    for name, parameter in explainer.named_parameters():
        assert got[name].abs().sum() > 0, name
        torch.testing.assert_close(got[name], parameter.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_positions_start_at_zero_behind_the_padding():
    mask_BS = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])
    assert positions(mask_BS)[0, 2:5].tolist() == [0, 1, 2]
    assert positions(mask_BS)[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert positions(mask_BS)[2, 5] == 0
    assert positions(mask_BS).min() == 0


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


def readings_of(explainer):
    with torch.no_grad():
        return read(explainer.eval()).log_prob_BT


def test_an_explainer_is_read_back_as_it_was_saved(explainer, tokenizer, tmp_path):
    save_explainer(tmp_path, explainer.state_dict(), explainer, tokenizer)
    torch.manual_seed(99)
    back = load_explainer(tmp_path)
    assert torch.equal(readings_of(back), readings_of(explainer))
    assert back.node_width == 6
    assert {p.name for p in tmp_path.iterdir()} == {"lm", "connectors.safetensors", "explainer.json"}


def test_what_is_saved_is_the_given_state_not_that_of_the_module(explainer, tokenizer, tmp_path):
    """Under ZeRO-3 the module on a rank holds shards; the gathered state is what counts."""
    expected = readings_of(explainer)
    state = {name: value.clone() for name, value in explainer.state_dict().items()}
    with torch.no_grad():
        for parameter in explainer.parameters():
            parameter.zero_()
    save_explainer(tmp_path, state, explainer, tokenizer)
    assert torch.equal(readings_of(load_explainer(tmp_path)), expected)


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
    torch.testing.assert_close(readings_of(back), readings_of(explainer))
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
