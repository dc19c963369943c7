"""Networks, sampling and scores on the GPU: the numbers of the same code on a CPU, and the same ones each time."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from datamodules.edges import TYPED
from lightning_modules.fitting import in_fixed_order
from lightning_modules.ppo.rewards import Scorer
from models.discriminator import new_discriminator
from models.explainer import ITEM, SENTIMENT, USER, Explainer
from models.generation import generate
from models.hgt import HGTConfig, RatingModel
from models.kernels import with_faster_kernels
from models.language_model import NewModelConfig, create_language_model, load_tokenizer
from models.sampling import Sampling, uniforms
from models.sparse_attention import RUN, Runs
from models.text_encoder import create_encoder, load_encoder
from models.text_scores import encoder_scores, load, log_likelihoods

pytestmark = pytest.mark.gpu

COUNTS = {"user": 40, "item": 30, "concept": 50}
VOCABULARY, LENGTH, ROWS, PROMPT = 97, 12, 12, 7
TEXTS = ["the room was clean", "a pool", "the breakfast was good and the staff was nice", "bar"]
CANDIDATES = [["room", "pool"], ["pool", "bar"], ["staff", "breakfast"], ["bar", "room"]]


def rating_model() -> tuple[RatingModel, dict]:
    """A model and a graph in which item 0 has more edges than one run of a sum, and user 39 has none."""
    torch.manual_seed(0)
    draw, edges = torch.Generator().manual_seed(1), {}
    for source, name, target in TYPED:
        kinds = (source, target)
        index = torch.stack([torch.randint(COUNTS[kind] - (kind == "user"), (300,), generator=draw) for kind in kinds])
        if target == "item":
            index[1, : 2 * RUN] = 0
        edges[source, name, target] = index
    config = HGTConfig(width=16, heads=2, layers=2, mlp_width=16, dropout=0.0, id_embeddings=True)
    return RatingModel(COUNTS, list(edges), config, mean_rating=3.5), edges


def rated(model: RatingModel, edges: dict, device: torch.device) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(ratings of some pairs, gradients of their squares), brought to the CPU."""
    model = copy.deepcopy(model).to(device)
    states = model.encode({name: index.to(device) for name, index in edges.items()})
    pairs = torch.arange(30, device=device)
    rating_B = model.rate(states, pairs, pairs)
    rating_B.square().mean().backward()
    return rating_B.detach().cpu(), {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def test_the_rating_model_has_the_ratings_and_gradients_of_a_cpu(device):
    model, edges = rating_model()
    (expected_B, expected), (rating_B, gradients) = (rated(model, edges, place) for place in ("cpu", device))
    torch.testing.assert_close(rating_B, expected_B, atol=1e-4, rtol=1e-4)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3, msg=lambda told, n=name: n + told)


def test_the_rating_model_has_the_same_gradients_each_time(device):
    model, edges = rating_model()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        (_, first), (_, second) = (rated(model, edges, device) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_attention_can_be_read_by_parts(device):
    model, edges = rating_model()
    model = model.to(device).eval()
    edges = {name: index.to(device) for name, index in edges.items()}
    states, attention = model.encode_by_parts(edges, 100)
    for kind, state_ND in model.encode(edges).items():
        torch.testing.assert_close(states[kind], state_ND, atol=1e-5, rtol=1e-4)
    for name, weight_E in model.attention(edges).items():
        torch.testing.assert_close(attention[name], weight_E, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sizes", [[0], [0, 0], [3, 0, 1], [5, 3 * RUN + 7, 0, 0, RUN, 2 * RUN, 1]])
def test_sums_by_runs_are_sums(device, sizes):
    value_EW = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(0))
    start_N1 = torch.tensor([0, *sizes]).cumsum(0)
    expected = [value_EW[low:high].double().sum(0).tolist() for low, high in zip(start_N1, start_N1[1:], strict=False)]
    got_NW = Runs.of(start_N1.to(device), len(value_EW)).sums(value_EW.to(device))
    torch.testing.assert_close(got_NW.cpu(), torch.tensor(expected).float(), atol=1e-4, rtol=1e-4)


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=40, n_embd=32, n_layer=2, n_head=4))


def llama() -> LlamaForCausalLM:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))


@pytest.fixture(params=[gpt2, llama], ids=["gpt2", "llama"])
def explainer(request):
    """With weights large enough that texts differ and some of them end."""
    torch.manual_seed(0)
    lm = with_faster_kernels(request.param())
    for parameter in lm.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return Explainer(lm, node_width=6).eval()


def prompts(device: torch.device) -> tuple[dict, torch.Tensor]:
    """(what `embed_prompt` takes, mask): lengths from 4 to 7, three soft vectors in each."""
    draw = torch.Generator().manual_seed(1)
    slot_BP = torch.zeros(ROWS, PROMPT, dtype=torch.long)
    slot_BP[:, 3:6] = torch.tensor([USER, ITEM, SENTIMENT])
    batch = {
        "prompt_BP": torch.randint(2, VOCABULARY, (ROWS, PROMPT), generator=draw),
        "slot_BP": slot_BP,
        "user_BD": torch.randn(ROWS, 6, generator=draw),
        "item_BD": torch.randn(ROWS, 6, generator=draw),
        "sentiment_B": torch.arange(ROWS) % 3,
    }
    mask_BP = (torch.arange(PROMPT) >= torch.arange(ROWS)[:, None] % 4).long()
    return {name: value.to(device) for name, value in batch.items()}, mask_BP.to(device)


def responses(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    ids_BT = torch.randint(2, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(2))
    mask_BT = (torch.arange(LENGTH) < 1 + torch.arange(ROWS)[:, None]).long()
    return ids_BT.to(device), mask_BT.to(device)


def learned(explainer: Explainer, device: torch.device) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """([log-probabilities, entropies], gradients of their sum), brought to the CPU."""
    explainer = copy.deepcopy(explainer).to(device)
    batch, mask_BP = prompts(device)
    reading = explainer(explainer.embed_prompt(**batch), mask_BP, *responses(device), parts=2, entropy_gradient=True)
    with in_fixed_order():
        (reading.log_prob_BT - 0.1 * reading.entropy_BT).mean().backward()
    gradients = {name: p.grad.cpu() for name, p in explainer.named_parameters() if p.grad is not None}
    return [reading.log_prob_BT.detach().cpu(), reading.entropy_BT.detach().cpu()], gradients


def test_log_probabilities_and_gradients_are_those_of_a_cpu(device, explainer):
    (expected, expected_gradients), (got, gradients) = (learned(explainer, place) for place in ("cpu", device))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        wanted = expected_gradients[name]
        torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-3, msg=lambda told, n=name: n + told)


def test_gradients_are_the_same_each_time(device, explainer):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        (_, first), (_, second) = (learned(explainer, device) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_attention_over_long_rows_has_the_same_gradients_each_time(device):
    """So long that its kernels share a row out among many threads."""
    draw = torch.Generator(device).manual_seed(0)
    query, key, value = (torch.randn(2, 2, 2048, 32, generator=draw, device=device) for _ in range(3))
    found = []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for _ in range(3):
            parts = [part.clone().requires_grad_() for part in (query, key, value)]
            with in_fixed_order():
                F.scaled_dot_product_attention(*parts, is_causal=True).square().sum().backward()
            found.append([part.grad for part in parts])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(again, found[0], strict=True))


@pytest.mark.parametrize("sampling", [None, Sampling(top_k=9, top_p=0.9)], ids=["all", "likeliest"])
@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
def test_texts_are_those_of_a_cpu(device, explainer, sampling, greedy):
    uniform_BT = None if greedy else uniforms(3, 0, list(range(2 * ROWS)), LENGTH)
    made = []
    for place in (torch.device("cpu"), device):
        model = copy.deepcopy(explainer).to(place)
        batch, mask_BP = prompts(place)
        prompt_B = torch.arange(2 * ROWS) // 2
        with torch.no_grad():
            embedded = model.embed_prompt(**batch)
        made.append(generate(model.lm, embedded, mask_BP, 1, 0, LENGTH, uniform_BT, prompt_B, sampling))
    expected, got = made
    assert got.response_BT.tolist() == expected.response_BT.tolist()
    assert got.mask_BT.tolist() == expected.mask_BT.tolist()
    torch.testing.assert_close(got.log_prob_BT.cpu(), expected.log_prob_BT, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.hidden_BTW.cpu(), expected.hidden_BTW, atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model and an encoder on the disk."""
    root = tmp_path_factory.mktemp("models")
    size = NewModelConfig(width=16, layers=2, heads=2, vocabulary=300)
    create_language_model(TEXTS, size, 64, root / "lm", 0)
    create_encoder(TEXTS, size, root / "encoder", 0)
    return root


def test_rewards_are_those_of_a_cpu(device, folder):
    tokenizer = load_tokenizer(str(folder / "lm"))
    discriminator = new_discriminator(str(folder / "lm"), 2, tokenizer.bos_token_id)
    torch.nn.init.normal_(discriminator.head.weight)
    scorer = Scorer(*load_encoder(str(folder / "encoder")), discriminator, tokenizer, 0.01, "mean")
    ids = [*(tokenizer(text)["input_ids"] for text in TEXTS), [tokenizer.eos_token_id]]  # the last says nothing
    candidates = [*CANDIDATES, CANDIDATES[0]]
    longest = max(map(len, ids))
    response_BT = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in ids])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    expected = scorer.score(response_BT, mask_BT, candidates)
    there = copy.deepcopy(scorer)
    there._concepts.clear()
    there.to(device)
    got = there.score(response_BT.to(device), mask_BT.to(device), candidates)
    assert torch.isfinite(expected.ccr_B).all()
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(got, name).cpu(), value, atol=1e-4, rtol=1e-4)


def test_scores_of_texts_are_those_of_a_cpu(folder):
    """The models are put on the GPU as they are read; moved to the CPU they are the oracle."""
    for kind, name, scores in (
        ("encoder", "encoder", lambda *parts: encoder_scores(*parts, TEXTS, TEXTS[::-1], -1)),
        ("lm", "lm", lambda *parts: log_likelihoods(*parts, TEXTS)),
    ):
        model, tokenizer = load(kind, str(folder / name))
        got = scores(model, tokenizer)
        torch.testing.assert_close(
            torch.tensor(got), torch.tensor(scores(model.cpu(), tokenizer)), atol=1e-4, rtol=1e-4
        )
