"""Generation: against a loop without cache, against transformers' own, and against the distribution it samples."""

import functools
import math
from weakref import WeakKeyDictionary

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from models import decoding_graph, generation
from models.generation import generate
from models.sampling import Sampling, choose, uniforms

VOCABULARY, END, FILL, LENGTH = 12, 2, 0, 12


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=40, n_embd=16, n_layer=2, n_head=2))


def llama():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))


@pytest.fixture(params=[gpt2, llama], ids=["gpt2", "llama"], scope="module")
def lm(request):
    """Random, with weights large enough that texts differ and some of them end."""
    torch.manual_seed(3)
    model = request.param().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.generation_config.pad_token_id = FILL
    return model


@pytest.fixture(params=["loop", "graph"], autouse=True)
def decoding(request, monkeypatch):
    """Both ways of decoding. On a CPU the graph's steps are run where a GPU replays what it has recorded."""

    def record(graph, lm):
        graph.replays += [functools.partial(step, lm) for step in (graph.read_prompts, graph.read_token)]

    if request.param == "graph":
        monkeypatch.setattr(generation, "fits_a_graph", lambda lm: True)
        monkeypatch.setattr(decoding_graph.DecodingGraph, "record", record)
        monkeypatch.setattr(decoding_graph, "_GRAPHS", WeakKeyDictionary())
    return request.param


def prompts(count=8, width=6, model_width=16):
    """Soft prompts of lengths 2 to `width`, padded on the left with numbers that must not matter."""
    draw = torch.Generator().manual_seed(0)
    lengths = [2 + row % (width - 1) for row in range(count)]
    mask_BP = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    return torch.randn(count, width, model_width, generator=draw), mask_BP


@torch.no_grad()
def without_cache(lm, prompt_PW, uniform_T=None):
    """Tokens of one unpadded prompt, the whole sequence run anew for each."""
    table, tokens, whole_SW = lm.get_input_embeddings().weight, [], prompt_PW
    for step in range(LENGTH):
        logits_V = lm(inputs_embeds=whole_SW[None]).logits[0, -1]
        if uniform_T is None:
            token = int(logits_V.argmax())
        else:
            token, mass = 0, 0.0
            for token, share in enumerate(logits_V.double().softmax(-1).tolist()):  # noqa: B007
                mass += share
                if mass > uniform_T[step]:
                    break
        tokens.append(token)
        if token == END:
            break
        whole_SW = torch.cat([whole_SW, table[token][None]])
    return tokens


def spoken(*args):
    made = generate(*args)
    return made.response_BT, made.mask_BT


def tokens_of(response_T, mask_T):
    return response_T[mask_T.bool()].tolist()


def test_greedy_is_a_loop_without_cache(lm):
    prompt_BPW, mask_BP = prompts()
    response_BT, mask_BT = spoken(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, None)
    for row in range(len(prompt_BPW)):
        expected = without_cache(lm, prompt_BPW[row][mask_BP[row].bool()])
        assert tokens_of(response_BT[row], mask_BT[row]) == expected


def test_greedy_is_transformers_own_token_for_token(lm):
    prompt_BPW, mask_BP = prompts()
    response_BT, _ = spoken(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, None)
    theirs_BT = lm.generate(
        inputs_embeds=prompt_BPW,
        attention_mask=mask_BP,
        max_new_tokens=LENGTH,
        do_sample=False,
        eos_token_id=END,
        pad_token_id=FILL,
    )
    assert response_BT[:, : theirs_BT.shape[1]].tolist() == theirs_BT.tolist()
    assert (response_BT[:, theirs_BT.shape[1] :] == FILL).all()


def test_the_prompts_used_here_end_at_different_lengths(lm):
    prompt_BPW, mask_BP = prompts(24)
    uniform_BT = uniforms(1, 0, list(range(24)), LENGTH)
    _, mask_BT = spoken(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, uniform_BT)
    lengths = mask_BT.sum(1).tolist()
    assert len(set(lengths)) > 2
    assert min(lengths) < LENGTH


def test_sampling_is_a_loop_without_cache_on_the_same_uniforms(lm):
    prompt_BPW, mask_BP = prompts()
    uniform_BT = uniforms(7, 0, list(range(8)), LENGTH)
    response_BT, mask_BT = spoken(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, uniform_BT)
    for row in range(len(prompt_BPW)):
        expected = without_cache(lm, prompt_BPW[row][mask_BP[row].bool()], uniform_BT[row].tolist())
        assert tokens_of(response_BT[row], mask_BT[row]) == expected


def test_a_record_gets_the_same_text_alone_and_in_any_batch(lm):
    prompt_BPW, mask_BP = prompts()
    records = [40, 3, 17, 8, 99, 5, 61, 2]
    together, _ = spoken(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, uniforms(7, 4, records, LENGTH))
    for row, record in enumerate(records):
        alone, _ = spoken(
            lm,
            prompt_BPW[row : row + 1, mask_BP[row].bool()],
            mask_BP[row : row + 1, mask_BP[row].bool()],
            END,
            FILL,
            LENGTH,
            uniforms(7, 4, [record], LENGTH),
        )
        assert alone[0].tolist() == together[row].tolist()


def test_behind_the_end_token_stand_fill_and_mask_zero(lm):
    prompt_BPW, mask_BP = prompts(24)
    uniform_BT = uniforms(1, 0, list(range(24)), LENGTH)
    response_BT, mask_BT = spoken(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, uniform_BT)
    assert response_BT.shape == mask_BT.shape == (24, LENGTH)
    ended = 0
    for response, mask in zip(response_BT.tolist(), mask_BT.tolist(), strict=True):
        length = response.index(END) + 1 if END in response else LENGTH
        ended += length < LENGTH
        assert mask == [1] * length + [0] * (LENGTH - length)
        assert response[length:] == [FILL] * (LENGTH - length)
    assert ended


def test_where_all_rows_have_ended_the_rest_is_fill(lm):
    prompt_BPW, mask_BP = prompts(1)
    first = without_cache(lm, prompt_BPW[0][mask_BP[0].bool()])[0]
    response_BT, mask_BT = spoken(lm, prompt_BPW, mask_BP, first, 11, LENGTH, None)
    assert response_BT.tolist() == [[first] + [11] * (LENGTH - 1)]
    assert mask_BT.tolist() == [[1] + [0] * (LENGTH - 1)]


def test_the_fill_may_be_the_end_token(lm):
    """As where a tokenizer has no padding token and pads with its end token."""
    prompt_BPW, mask_BP = prompts(24)
    uniform_BT = uniforms(1, 0, list(range(24)), LENGTH)
    one, one_mask = spoken(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, uniform_BT)
    two, two_mask = spoken(lm, prompt_BPW, mask_BP, END, END, LENGTH, uniform_BT)
    assert torch.equal(one_mask, two_mask)
    assert torch.equal(one * one_mask, two * two_mask)


def test_uniforms_are_a_function_of_seed_iteration_and_record_alone():
    one = uniforms(1, 2, [5, 9], 4)
    assert torch.equal(uniforms(1, 2, [9, 5, 7], 4)[:2], one.flip(0))
    assert torch.equal(uniforms(1, 2, [5], 3), one[:1, :3])
    assert torch.equal(uniforms(1, 2, [5, 5], 4, [0, 3])[:1], one[:1])
    others = [uniforms(2, 2, [5], 4), uniforms(1, 3, [5], 4), uniforms(1, 2, [6], 4), uniforms(1, 2, [5], 4, [1])]
    assert all(not torch.isclose(other, one[:1]).any() for other in others)


def test_uniforms_of_neighbouring_records_do_not_overlap():
    drawn = uniforms(1, 1, list(range(50)), 40)
    assert len(set(drawn.flatten().tolist())) == 50 * 40


def test_uniforms_are_uniform():
    drawn = uniforms(3, 0, list(range(500)), 20).flatten()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, bins=10, min=0, max=1)
    chi_square = ((counts - 1000).square() / 1000).sum().item()
    assert chi_square < 27.88  # 99.9 % quantile at 9 degrees of freedom


def test_choices_follow_the_softmax():
    logits_V = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.2, -0.5])
    draws = 20_000
    uniform_B = uniforms(11, 0, [0], draws)[0]
    counts = torch.bincount(choose(logits_V.expand(draws, -1), uniform_B)[0], minlength=6).double()
    weights = [math.exp(z) for z in logits_V.tolist()]
    expected = torch.tensor([draws * weight / sum(weights) for weight in weights])
    chi_square = ((counts - expected).square() / expected).sum().item()
    assert chi_square < 20.52  # 99.9 % quantile at 5 degrees of freedom


def test_choices_invert_the_distribution_function():
    logits_V = torch.tensor([0.25, 0.5, 0.125, 0.125]).log()
    uniform_B = torch.tensor([0.0, 0.2, 0.3, 0.7, 0.76, 0.87, 0.88, 1 - 1e-12], dtype=torch.float64)
    assert choose(logits_V.expand(8, -1), uniform_B)[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_token_of_probability_zero_is_never_chosen():
    logits_V = torch.tensor([-math.inf, 1.0, -math.inf, 1.0, -math.inf])
    uniform_B = torch.linspace(0, 1 - 1e-9, 501, dtype=torch.float64)
    assert set(choose(logits_V.expand(501, -1), uniform_B)[0].tolist()) == {1, 3}


def test_greedy_takes_the_likeliest():
    assert choose(torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]]), None)[0].tolist() == [1, 0]


def test_samples_of_a_prompt_that_is_read_once_are_those_of_the_prompt_repeated(lm):
    prompt_BPW, mask_BP = prompts(3)
    rows = torch.tensor([0, 0, 1, 2, 2, 2])
    uniform_BT = uniforms(5, 0, rows.tolist(), LENGTH, [0, 1, 0, 0, 1, 2])
    once = generate(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, uniform_BT, rows)
    repeated = generate(lm, prompt_BPW[rows], mask_BP[rows], END, FILL, LENGTH, uniform_BT)
    assert torch.equal(once.response_BT, repeated.response_BT)
    torch.testing.assert_close(once.log_prob_BT, repeated.log_prob_BT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("greedy", [True, False])
def test_log_probabilities_and_hidden_states_are_those_of_the_whole_sequence_read_at_once(lm, greedy):
    prompt_BPW, mask_BP = prompts(12)
    uniform_BT = None if greedy else uniforms(3, 0, list(range(12)), LENGTH)
    made = generate(lm, prompt_BPW, mask_BP, END, FILL, LENGTH, uniform_BT)
    table = lm.get_input_embeddings().weight
    for row in range(12):
        tokens = made.response_BT[row][made.mask_BT[row].bool()]
        prompt_PW = prompt_BPW[row][mask_BP[row].bool()]
        with torch.no_grad():
            output = lm(inputs_embeds=torch.cat([prompt_PW, table[tokens]])[None], output_hidden_states=True)
        before = slice(len(prompt_PW) - 1, -1)
        expected = output.logits[0, before].log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(made.log_prob_BT[row, : len(tokens)], expected, atol=1e-4, rtol=1e-5)
        hidden = output.hidden_states[-1][0, before]
        torch.testing.assert_close(made.hidden_BTW[row, : len(tokens)], hidden, atol=1e-4, rtol=1e-3)
        assert (made.log_prob_BT[row, len(tokens) :] == 0).all()


def test_top_k_and_top_p_keep_the_likeliest_in_their_proportions():
    """Chances 0.4, 0.3, 0.2, 0.1; what is left is drawn as if there were nothing else."""
    logits_V, draws = torch.tensor([0.1, 0.4, 0.2, 0.3]).log(), 20_000
    uniform_B = uniforms(2, 0, [0], draws)[0]
    cases = [
        (Sampling(top_k=2), {1: 4 / 7, 3: 3 / 7}),
        (Sampling(top_p=0.65), {1: 4 / 7, 3: 3 / 7}),
        (Sampling(top_p=0.75), {1: 4 / 9, 3: 3 / 9, 2: 2 / 9}),
        (Sampling(top_k=3, top_p=0.5), {1: 4 / 7, 3: 3 / 7}),
        (Sampling(top_k=1), {1: 1.0}),
    ]
    for sampling, expected in cases:
        token_B, log_prob_B = choose(logits_V.expand(draws, -1), uniform_B, sampling)
        counts = torch.bincount(token_B, minlength=4)
        assert {v for v in range(4) if counts[v]} == set(expected)
        for token, share in expected.items():
            assert counts[token].item() / draws == pytest.approx(share, abs=0.015)
        torch.testing.assert_close(log_prob_B, logits_V[token_B], atol=1e-5, rtol=0)


def test_a_choice_over_a_large_vocabulary_inverts_its_distribution_function():
    """Larger than the blocks in which it is summed up, and no multiple of them."""
    logits_BV = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0)) * 3
    uniform_B = uniforms(1, 0, [7], 200)[0]
    token_B, log_prob_B = choose(logits_BV, uniform_B)
    share_BV = logits_BV.double().softmax(-1)
    until_BV = share_BV.cumsum(-1)
    rows = torch.arange(200)
    assert (until_BV[rows, token_B] >= uniform_B - 1e-6).all()
    assert (until_BV[rows, token_B] - share_BV[rows, token_B] <= uniform_B + 1e-6).all()
    expected = logits_BV.log_softmax(-1)[rows, token_B]
    torch.testing.assert_close(log_prob_B, expected, atol=1e-5, rtol=1e-5)
