"""Packed reading against each row alone. The kernel wants a GPU (tests/gpu): here a loop over rows stands for it.

Texts in runs of equal length are read by the code itself.
"""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from models import gpt2, packed, reading
from models.language_model import PLAIN_FAMILIES
from models.packed import PackedRows, packs_by_kernel, packs_by_runs, states_of_texts
from models.reading import Rows, read_rows

PROMPTS, ANSWERS = [2, 5, 3, 4], [3, 1, 0, 4]
SHORTEST_FIRST = [2, 0, 1, 3]  # 3, 4, 5 and 7 tokens are read
WIDTH = 16


def row_by_row(query_mHD, key_mHD, value_mHD, start_1, start_2, most_1, most_2, scale, window_size):
    assert window_size == (-1, 0)
    assert torch.equal(start_1, start_2)
    assert most_1 == most_2 == int(start_1.diff().max())
    assert start_1.dtype == torch.int32
    parts = []
    for begin, end in zip(start_1[:-1].tolist(), start_1[1:].tolist(), strict=True):
        query, key, value = (part[begin:end].transpose(0, 1)[None] for part in (query_mHD, key_mHD, value_mHD))
        made = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        parts.append(made[0].transpose(0, 1))
    return torch.cat(parts)


class OfAGpu(torch.Tensor):
    """Says that it lies there."""

    is_cuda = True


@pytest.fixture
def kernel(monkeypatch):
    """The arguments of the stand-in's calls."""
    within, calls = packed.attend_within, []
    monkeypatch.setattr(packed, "varlen_attn", lambda *given, **more: calls.append(given) or row_by_row(*given, **more))
    monkeypatch.setattr(reading, "packs_by_kernel", lambda trunk, inputs: True)
    for place in (packed, gpt2):
        monkeypatch.setattr(
            place,
            "attend_within",
            lambda rows, parts, *given, **options: within(
                rows, [part.as_subclass(OfAGpu) for part in parts], *given, **options
            ),
        )
    return calls


def trunk_of(family, **options):
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, vocab_size=20, num_key_value_heads=2, **sizes | options)
    torch.manual_seed(0)
    trunk = AutoModelForCausalLM.from_config(config).eval().base_model
    for parameter in trunk.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return trunk


def batch():
    """(embedded prompts, their masks, embedded responses, their masks), numbers on the padding that must not matter."""
    draw = torch.Generator().manual_seed(1)
    prompt_mask = torch.tensor([[0] * (max(PROMPTS) - n) + [1] * n for n in PROMPTS])
    answer_mask = torch.tensor([[1] * n + [0] * (max(ANSWERS) - n) for n in ANSWERS])
    prompt, answer = (torch.randn(*mask.shape, WIDTH, generator=draw) for mask in (prompt_mask, answer_mask))
    return prompt.requires_grad_(), prompt_mask, answer.requires_grad_(), answer_mask


def gradients(trunk, prompt, answer):
    """Of all that has one, which word embeddings have not: inputs come embedded."""
    learnt = {name: p.grad.clone() for name, p in trunk.named_parameters() if p.grad is not None}
    return learnt | {"prompt": prompt.grad, "answer": answer.grad}


@pytest.mark.parametrize("way", ["kernel", "runs", "runs and spare rows", "padded to neighbours"])
@pytest.mark.parametrize("family", sorted(PLAIN_FAMILIES))
def test_states_and_gradients_are_those_of_each_row_alone(family, way, request, monkeypatch):
    monkeypatch.setattr(reading, "FEW", 64 if way == "padded to neighbours" else 0)
    spare = 5 if way == "runs and spare rows" else 0
    monkeypatch.setattr(reading, "spare", lambda *_: spare)
    monkeypatch.setattr(reading, "TOGETHER", 3)
    calls = request.getfixturevalue("kernel") if way == "kernel" else []
    trunk, (prompt, prompt_mask, answer, answer_mask) = trunk_of(family), batch()
    (states,) = read_rows(trunk, Rows.of(prompt, prompt_mask, answer, answer_mask), 4 if way == "kernel" else 1)
    assert len(calls) == (3 if way == "kernel" else 0)
    assert list(zip(states.row_n.tolist(), states.column_n.tolist(), strict=True)) == [
        (row, column) for row in SHORTEST_FIRST for column in range(ANSWERS[row])
    ]
    hidden_nW = states.hidden_xW[: len(states.row_n)]
    assert len(states.hidden_xW) == len(hidden_nW) + spare
    weight_nW = torch.randn(hidden_nW.shape, generator=torch.Generator().manual_seed(2))
    (hidden_nW * weight_nW).sum().backward()
    found = gradients(trunk, prompt, answer)
    prompt.grad = answer.grad = None
    trunk.zero_grad()
    expected = []
    for row in SHORTEST_FIRST:
        length, count = PROMPTS[row], ANSWERS[row]
        whole = torch.cat([prompt[row, max(PROMPTS) - length :], answer[row, :count]])
        hidden = trunk(inputs_embeds=whole[None], use_cache=False).last_hidden_state[0]
        expected += hidden[length - 1 : length - 1 + count]
    torch.testing.assert_close(hidden_nW, torch.stack(expected), atol=2e-5, rtol=1e-4)
    (torch.stack(expected) * weight_nW).sum().backward()
    alone = gradients(trunk, prompt, answer)
    assert found.keys() == alone.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, alone[name], atol=5e-5, rtol=1e-4, msg=name)


def test_a_response_s_last_token_is_not_read(kernel, monkeypatch):
    monkeypatch.setattr(reading, "FEW", 0)
    trunk, seen = trunk_of("llama"), []
    trunk.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0].shape))
    list(read_rows(trunk, Rows.of(*batch()), 4))
    assert seen == [(1, sum(PROMPTS) + sum(max(count - 1, 0) for count in ANSWERS), WIDTH)]


def test_the_model_attends_as_usual_afterwards_and_after_an_error(kernel):
    trunk = trunk_of("llama")
    usual = trunk.config._attn_implementation
    list(read_rows(trunk, Rows.of(*batch()), 1))
    assert trunk.config._attn_implementation == usual
    trunk.layers[1].register_forward_pre_hook(lambda module, given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(read_rows(trunk, Rows.of(*batch()), 1))
    assert trunk.config._attn_implementation == usual


def test_what_the_kernel_does_not_know_is_read_padded(monkeypatch):
    class OnAGpu:
        is_cuda, dtype = True, torch.bfloat16

    assert packs_by_kernel(trunk_of("llama"), OnAGpu)
    assert packs_by_kernel(trunk_of("gpt2"), OnAGpu)  # its dropout is off in evaluation mode
    assert not packs_by_kernel(trunk_of("gpt2").train(), OnAGpu)
    assert packs_by_kernel(trunk_of("gpt2", attn_pdrop=0.0).train(), OnAGpu)
    assert not packs_by_kernel(trunk_of("llama", attention_dropout=0.1).train(), OnAGpu)
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert packs_by_kernel(trunk_of("qwen2"), OnAGpu)
    assert not packs_by_kernel(trunk_of("qwen2", **windows), OnAGpu)  # it would be read as if it saw the whole text
    assert not packs_by_kernel(trunk_of("llama"), torch.zeros(1, dtype=torch.bfloat16))
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4}
    bloom = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", vocab_size=20, **sizes))
    assert not packs_by_kernel(bloom.base_model, OnAGpu)
    monkeypatch.setattr(OnAGpu, "dtype", torch.float32)
    assert not packs_by_kernel(trunk_of("llama"), OnAGpu)


TEXTS = [[3, 4, 5], [6], [], [7, 8, 9], [10, 11], [12, 13]]


def texts():
    """(ids, mask), padded at the right with a word."""
    longest = max(map(len, TEXTS))
    ids = torch.tensor([row + [19] * (longest - len(row)) for row in TEXTS])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in TEXTS])


def reader_of(family):
    if family != "bert":
        return trunk_of(family)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    longest = {"max_position_embeddings": 4}  # fewer than the tokens of all texts
    return AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=20, **sizes, **longest)).eval()


def test_tokens_are_read_shortest_text_first_and_know_where_they_stood():
    read = states_of_texts(reader_of("bert"), *texts())
    assert read.row_m.tolist() == [1, 4, 4, 5, 5, 0, 0, 0, 3, 3, 3]
    assert read.column_m.tolist() == [0, 0, 1, 0, 1, 0, 1, 2, 0, 1, 2]


def test_neighbours_of_equal_length_are_a_run_and_empty_rows_are_in_none():
    assert PackedRows.of(torch.tensor([0, 1, 2, 2, 3, 3])).runs == [(1, 1), (2, 2), (2, 3)]


def test_rows_that_are_not_neighbours_are_in_runs_of_their_own():
    assert PackedRows.of(torch.tensor([2, 2, 3, 2])).runs == [(2, 2), (1, 3), (1, 2)]


@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("family", [*sorted(PLAIN_FAMILIES), "bert"])
def test_packed_texts_have_the_states_and_gradients_of_each_alone(family, spare, monkeypatch):
    monkeypatch.setattr(packed, "spare", lambda *_: spare)
    model, (ids, mask) = reader_of(family), texts()
    assert packs_by_runs(model, ids)
    row_m, column_m, hidden_mW = states_of_texts(model, ids, mask)
    weight = torch.randn(len(TEXTS), 3, WIDTH, generator=torch.Generator().manual_seed(2))
    (hidden_mW * weight[row_m, column_m]).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row, words in enumerate(TEXTS):
        if not words:
            continue
        alone = model(input_ids=torch.tensor([words])).last_hidden_state[0]
        torch.testing.assert_close(hidden_mW[row_m == row], alone, atol=2e-5, rtol=1e-4)
        (alone * weight[row, : len(words)]).sum().backward()
    assert set(found) >= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, atol=5e-5, rtol=1e-4, msg=name)


def test_other_models_and_other_devices_read_texts_padded():
    ids = torch.zeros(1, 1, dtype=torch.long)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
    for family in ("roberta", "electra"):
        assert not packs_by_runs(AutoModel.from_config(AutoConfig.for_model(family, vocab_size=20, **sizes)), ids)
    decoder = AutoConfig.for_model("bert", vocab_size=20, is_decoder=True, **sizes)
    assert not packs_by_runs(AutoModel.from_config(decoder), ids)
    assert not packs_by_runs(torch.nn.Linear(1, 1), ids)
    assert not packs_by_runs(reader_of("bert"), ids.to("meta"))
