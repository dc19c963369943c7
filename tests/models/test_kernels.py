"""Linear layers by oneDNN against sums in float64, forward and backward, and layers against transformers' own."""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from models import kernels
from models.kernels import linear, reordered, spare, with_faster_kernels
from models.language_model import LoraConfig, with_adapters


def sides(rows, width, outputs, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = (rows, width), (outputs, width), (outputs,), (rows, outputs)
    return [torch.randn(shape, generator=draw) for shape in shapes]


@pytest.fixture
def always(monkeypatch):
    """oneDNN however small the product."""
    monkeypatch.setattr(kernels, "WORTH_IT", 0)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("rows", "width", "outputs"), [(7, 5, 3), (9, 4, 64), (33, 64, 16), (1, 1, 1)])
def test_forward_and_backward_are_the_sums_in_float64(always, rows, width, outputs, turned):
    x, w, b, g = sides(rows, width, outputs)
    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_(), b.clone().requires_grad_()]
    weight = leaves[1].t().contiguous().t() if turned else leaves[1]
    y = linear(leaves[0], weight, leaves[2])
    y.backward(g)
    x, w, b, g = (t.double() for t in (x, w, b, g))
    # every sum written out, entry by entry
    expected = torch.stack([torch.stack([(x[n] * w[o]).sum() + b[o] for o in range(outputs)]) for n in range(rows)])
    dx = torch.stack([sum(g[n, o] * w[o] for o in range(outputs)) for n in range(rows)])
    dw = torch.stack([sum(g[n, o] * x[n] for n in range(rows)) for o in range(outputs)])
    for found, wanted in zip((y, *(leaf.grad for leaf in leaves)), (expected, dx, dw, g.sum(0)), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learning", [True, False])
def test_a_large_product_takes_onednn_and_a_small_one_does_not(learning):
    x, w, b, _ = sides(64, 256, 256)
    x.requires_grad_(learning)
    made, calls = [], []
    for rows in (64, 2):
        with torch.profiler.profile() as seen:
            made.append(linear(x[:rows], w, b))
            if learning:
                made[-1].sum().backward()
        calls.append(sum(event.name == "mkldnn::_linear_pointwise" for event in seen.events()))
    assert calls == [2 if learning else 1, 0]
    torch.testing.assert_close(made[0][:2], made[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "bert", "qwen2"])
def test_gradients_come_in_one_order_however_large_the_products_are(family, monkeypatch):
    """DeepSpeed adds up the gradients of ranks as they come, and one rank's products may be too small for oneDNN.

    Under ZeRO-3 it puts a layer with an order of its own in torch's place, which must not be met by small ones alone.
    """
    monkeypatch.setattr(nn.functional, "linear", None)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(family, vocab_size=50, num_key_value_heads=2, **sizes)
    model, order, orders = with_faster_kernels(AutoModel.from_config(config)), [], []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    for worth_it in (0, 2**60):
        monkeypatch.setattr(kernels, "WORTH_IT", worth_it)
        model(torch.ones(2, 3, dtype=torch.long)).last_hidden_state.square().sum().backward()
        orders.append(order.copy())
        order.clear()
    assert len(orders[0]) > 20
    assert orders[0] == orders[1]


def test_spare_rows_are_few_and_leave_few_shapes():
    cpu = torch.device("cpu")
    assert all(spare(rows, cpu) <= rows / 32 for rows in range(1, 10_000))
    for least in (64, 1024, 8192):
        assert len({rows + spare(rows, cpu) for rows in range(least, 2 * least)}) <= 33


def test_elsewhere_no_row_is_added():
    assert {spare(rows, torch.device("meta")) for rows in range(3000)} == {0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_left_to_torch(always, dtype):
    x, w, b, _ = (t.to(dtype) for t in sides(8, 4, 3))
    assert torch.equal(linear(x, w, b), nn.functional.linear(x, w, b))


needs_bfloat16 = pytest.mark.skipif(
    torch.bfloat16 not in kernels._multiplied(), reason="this processor does not multiply in bfloat16"
)


@needs_bfloat16
def test_products_in_bfloat16_are_rounded_once(always):
    """By at most half a unit in the last place, which is 2^-8 of a number."""
    x, w, b, g = (t.bfloat16() for t in sides(60, 64, 32))
    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    with torch.profiler.profile() as seen:
        y = linear(*leaves)
        y.backward(g)
    assert sum(event.name == "mkldnn::_linear_pointwise" for event in seen.events()) == 3
    x, w, b, g = (t.double() for t in (x, w, b, g))
    found = [t.double() for t in (y, *(leaf.grad for leaf in leaves))]
    for one, exact in zip(found, (x @ w.t() + b, g @ w, g.t() @ x, g.sum(0)), strict=True):
        torch.testing.assert_close(one, exact, rtol=2**-8, atol=1e-4)


@needs_bfloat16
@torch.no_grad()
def test_a_weight_of_bfloat16_is_packed_as_well():
    x, w, _, _ = (t.bfloat16() for t in sides(80, 128, 512))
    layer = with_faster_kernels(nn.Sequential(nn.Linear(128, 512, bias=False)).bfloat16())[0]
    layer.weight.copy_(w)
    with reordered(layer):
        layer.weight.zero_()
        torch.testing.assert_close(layer(x).double(), x.double() @ w.double().t(), rtol=2**-8, atol=1e-4)


def test_autocast_still_rounds_to_bfloat16(always):
    x, w, b, _ = sides(8, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, w, b).dtype == torch.bfloat16


def test_what_is_frozen_gets_no_gradient(always):
    x, w, b, g = sides(6, 5, 4)
    linear(x.requires_grad_(), w, b).backward(g)
    assert x.grad is not None
    assert (w.grad, b.grad) == (None, None)


@pytest.mark.parametrize(("frozen", "kept"), [("weight", [(4, 5)]), ("input", [(6, 5)]), ("none", [(6, 5), (4, 5)])])
def test_beside_what_is_frozen_nothing_is_kept(always, frozen, kept):
    x, w, b, _ = sides(6, 5, 4)
    x.requires_grad_(frozen != "input")
    w.requires_grad_(frozen != "weight")
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(tuple(t.shape)) or t, lambda t: t):
        linear(x, w, b)
    assert seen == kept


def test_layers_keep_weights_names_and_shapes_and_can_be_copied(always):
    plain = nn.ModuleDict({"a": nn.Linear(6, 4), "b": Conv1D(5, 4), "c": nn.Linear(5, 2, bias=False)})
    faster = with_faster_kernels(copy.deepcopy(plain))
    assert list(faster.state_dict()) == list(plain.state_dict())
    assert isinstance(faster["a"], nn.Linear)
    assert isinstance(faster["b"], Conv1D)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    expected = plain["c"](plain["b"](plain["a"](x)))
    for layers in (faster, copy.deepcopy(faster)):
        torch.testing.assert_close(layers["c"](layers["b"](layers["a"](x))), expected)


@torch.no_grad()
def test_a_packed_weight_serves_until_it_is_put_away():
    draw = torch.Generator().manual_seed(3)
    layer = with_faster_kernels(nn.Sequential(nn.Linear(128, 512)))[0]
    few, many = (torch.randn(n, 128, generator=draw) for n in (2, 80))
    expected = many.double() @ layer.weight.double().t() + layer.bias.double()
    weight = layer.weight.clone()
    with reordered(layer):
        torch.testing.assert_close(layer(few), nn.functional.linear(few, weight, layer.bias))
        layer.weight.zero_()  # against the rules: it shows which of the two is read
        torch.testing.assert_close(layer(many).double(), expected, atol=1e-5, rtol=1e-5)
        with torch.enable_grad():
            assert torch.equal(layer(many), layer.bias.expand(80, -1))
    assert torch.equal(layer(many), layer.bias.expand(80, -1))


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Linear(128, 512).double(), Conv1D(512, 128)])
def test_other_layers_are_packed_by_doing_nothing(layer):
    layer = with_faster_kernels(nn.Sequential(layer))[0]
    with reordered(layer):
        assert getattr(layer, "reordered_OI", None) is None


ACTIVATIONS = ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu"]


def gpt2(activation="gelu_new"):
    torch.manual_seed(5)
    sizes = {"vocab_size": 20, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**sizes, activation_function=activation)).eval()


def bert(activation="gelu"):
    torch.manual_seed(5)
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertModel(BertConfig(**sizes, intermediate_size=64, hidden_act=activation)).eval()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("family", [gpt2, bert])
def test_a_model_is_the_same_with_gradients_and_without(always, family, activation):
    plain = family(activation)
    faster, tokens = with_faster_kernels(copy.deepcopy(plain)), torch.arange(12)[None]
    for model in (plain, faster):
        for parameter in model.parameters():  # large enough that an approximate GELU is told from the exact one
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    expected = plain(tokens)[0]
    torch.testing.assert_close(faster(tokens)[0], expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(faster(tokens)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "kernel"), [(gpt2, "aten::sigmoid_"), (bert, "aten::gelu")])
def test_gelu_has_no_kernel_of_its_own_where_nothing_is_learnt(always, family, kernel):
    model, tokens = with_faster_kernels(family()), torch.arange(12)[None]

    def gelus():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            model(tokens)
        return sum(event.count for event in profile.key_averages() if event.key == kernel)

    assert gelus() == 2
    with torch.no_grad():
        assert gelus() == 0


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "name"), [(gpt2, "transformer.h.0.mlp.c_fc"), (bert, "encoder.layer.0.intermediate.dense")]
)
def test_a_sharded_weight_is_read_in_its_layer_alone(always, family, name):
    """ZeRO-3 gathers it before the layer's forward pass; what lies there earlier may be on its way still."""
    model, calls = with_faster_kernels(family()), []
    layer = model.get_submodule(name)
    layer.register_forward_hook(lambda *_: calls.append(1))
    model(torch.arange(6)[None])
    assert calls == []
    layer.weight.ds_id = 3
    model(torch.arange(6)[None])
    assert calls == [1]


@pytest.mark.parametrize("family", [gpt2, bert])
def test_in_bfloat16_what_is_read_is_what_is_learnt_from(always, family):
    """PPO's first ratio is 1: no rounding may fall away where no gradient is asked for."""
    model, tokens = with_faster_kernels(family()).bfloat16(), torch.arange(12)[None]
    learning = model(tokens)[0]
    with torch.no_grad():
        assert torch.equal(model(tokens)[0], learning)
    assert learning.dtype == torch.bfloat16


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 5e-6), (torch.bfloat16, 2**-7)])
def test_gelu_by_a_logistic_function_is_that_by_tanh_with_its_derivative(monkeypatch, dtype, rounding):
    monkeypatch.setattr(kernels._TanhGELU, "BLOCK", 1000)  # four whole blocks and a part of one
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, -1e-6, 1e-6, -80.0, 80.0])]).to(dtype)
    grad = torch.linspace(-1, 2, len(x)).to(dtype)
    leaf = x.clone().requires_grad_()
    y = kernels.TanhGELU()(leaf)
    y.backward(grad)
    x = x.double()
    tanh = torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    torch.testing.assert_close(y.double(), 0.5 * x * (1 + tanh), rtol=rounding, atol=1e-6)
    torch.testing.assert_close(leaf.grad.double(), grad.double() * slope, rtol=rounding, atol=5e-6)
    assert y.dtype == leaf.grad.dtype == dtype


def test_gelu_of_a_turned_array_of_none_and_of_what_is_not_learnt():
    x = torch.linspace(-3, 3, 50).view(5, 10).t().requires_grad_()
    assert torch.allclose(kernels.TanhGELU()(x), nn.functional.gelu(x, approximate="tanh"), atol=1e-6)
    assert kernels.TanhGELU()(torch.zeros(0, 4, requires_grad=True)).shape == (0, 4)
    frozen = kernels.TanhGELU()(x.detach())
    assert torch.allclose(frozen, nn.functional.gelu(x, approximate="tanh"), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_gelu_of_other_types_is_left_to_torch(dtype):
    x = torch.linspace(-3, 3, 50, dtype=dtype).requires_grad_()
    assert torch.equal(kernels.TanhGELU()(x), nn.functional.gelu(x, approximate="tanh"))


def test_attention_in_float64_stays_exact():
    parts = [torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(3)]
    query, key, value = parts
    exact = (query @ key.transpose(2, 3) / 8**0.5).softmax(-1) @ value
    torch.testing.assert_close(kernels.attention(*parts), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_bfloat16_is_that_of_float32_rounded(causal):
    draw = torch.Generator().manual_seed(7)
    parts = [torch.randn(2, 3, 5, 8, generator=draw).bfloat16().requires_grad_() for _ in range(3)]
    mask = None if causal else torch.zeros(5, 5).masked_fill(torch.eye(5).bool().roll(1), float("-inf")).bfloat16()
    made = kernels.attention(*parts, mask, is_causal=causal, scale=0.3)
    query, key, value = (part.detach().double().requires_grad_() for part in parts)
    score = query @ key.transpose(2, 3) * 0.3
    score = score.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf")) if causal else score + mask.double()
    exact = score.softmax(-1) @ value
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), exact, rtol=2**-8, atol=1e-5)
    grad = torch.randn(made.shape, generator=draw).bfloat16()
    made.backward(grad)
    exact.backward(grad.double())
    for part, wanted in zip(parts, (query, key, value), strict=True):
        torch.testing.assert_close(part.grad.double(), wanted.grad, rtol=2**-8, atol=1e-5)


def test_adapters_on_a_feed_forward_layer_are_not_passed_over(always):
    model = with_adapters(with_faster_kernels(gpt2()), LoraConfig(rank=2, dropout=0.0, targets="c_fc"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    tokens = torch.arange(6)[None]
    expected = model(tokens).logits
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected, atol=1e-5, rtol=1e-5)
        with model.disable_adapter():
            assert not torch.allclose(model(tokens).logits, expected, atol=1e-2)
