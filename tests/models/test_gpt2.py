"""GPT-2's shorter ways against transformers' own, and what they leave undone."""

import pytest
import torch
from transformers import Cache, GPT2Config, GPT2LMHeadModel

from models import gpt2 as own
from models.gpt2 import states_at
from models.key_values import RoomyLayer
from models.next_state import next_state
from models.packed import PackedRows

LENGTHS = [3, 5, 5, 1]
ROWS = PackedRows.of(torch.tensor(LENGTHS))
POSITION = torch.cat([torch.arange(n) for n in LENGTHS])
PLACES = torch.tensor([2, 4, 7, 5, 13])  # wanted tokens: of the first three rows and the last, not in order


def gpt2(**options):
    torch.manual_seed(5)
    sizes = {"vocab_size": 20, "n_positions": 12, "n_embd": 16, "n_layer": 3, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(**sizes | options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(rows=3, length=6):
    return torch.randn(rows, length, 16, generator=torch.Generator().manual_seed(1))


def tokens():
    return inputs(1, sum(LENGTHS))[0]


@pytest.mark.parametrize("options", [{}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}])
def test_wanted_states_and_their_gradients_are_those_of_each_row_in_the_whole_model(options):
    trunk = gpt2(**options).transformer
    weight_nW = torch.randn(len(PLACES), 16, generator=torch.Generator().manual_seed(2))
    found = []
    for way in ("each row", "packed"):
        trunk.zero_grad()
        given = tokens().requires_grad_()
        if way == "packed":
            states_nW = states_at(trunk, given, ROWS, POSITION, PLACES)
        else:
            alone = [trunk(inputs_embeds=row[None]).last_hidden_state[0] for row in given.split(LENGTHS)]
            states_nW = torch.cat(alone)[PLACES]
        (states_nW * weight_nW).sum().backward()
        found.append([states_nW, given.grad, *(p.grad.clone() for n, p in trunk.named_parameters() if "wte" not in n)])
    for alone, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-4)


def test_the_last_block_multiplies_wanted_tokens_alone():
    trunk, seen = gpt2().transformer, []
    for block in trunk.h:
        block.mlp.register_forward_hook(lambda module, given, made: seen.append(given[0].numel() // 16))
    states_at(trunk, tokens(), ROWS, POSITION, PLACES)
    assert seen == [14, 14, 5]


@pytest.mark.parametrize("name", ["drop", "h.0.attn.attn_dropout", "h.0.attn.resid_dropout", "h.0.mlp.dropout"])
def test_each_dropout_falls_in_training_on_the_last_block_as_well(name):
    none = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    trunk = gpt2(n_layer=1, **none).transformer
    trunk.get_submodule(name).p = 0.5
    rest = states_at(trunk, tokens(), ROWS, POSITION, PLACES)
    trunk.train()
    once, again = (states_at(trunk, tokens(), ROWS, POSITION, PLACES) for _ in range(2))
    assert not torch.allclose(once, rest)
    assert not torch.allclose(once, again)
    trunk.requires_grad_(False)
    drawn = torch.stack([states_at(trunk, tokens(), ROWS, POSITION, PLACES) for _ in range(200)])
    assert (drawn.mean(0) - rest).abs().mean() < 0.5 * (drawn - rest).abs().mean()


@torch.no_grad()
def test_steps_behind_a_cache_are_those_of_the_rows_run_whole_without_padding():
    lm, whole_RSW = gpt2(), inputs(2, 7)
    padding = [3, 0]
    mask = torch.tensor([[0] * n + [1] * (7 - n) for n in padding])
    position = (mask.cumsum(1) - 1).clamp(min=0)
    cache = Cache(layers=[RoomyLayer(7) for _ in range(3)])
    got = [next_state(lm, cache, mask[:, :5], position[:, :5], whole_RSW[:, :5])]
    for end in (6, 7):
        got.append(next_state(lm, cache, mask[:, :end], position[:, end - 1 : end], whole_RSW[:, end - 1 : end]))
    for row, left in enumerate(padding):
        alone_SW = lm.transformer(inputs_embeds=whole_RSW[row : row + 1, left:]).last_hidden_state[0]
        for step, end in enumerate((5, 6, 7)):
            torch.testing.assert_close(got[step][row], alone_SW[end - 1 - left], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_in_bfloat16_both_ways_round_about_as_much_as_the_whole_model():
    rows, length = 40, 9
    lm, half, row_RSW = gpt2(), gpt2().bfloat16(), inputs(rows, length).bfloat16()
    exact_RSW = lm.transformer(inputs_embeds=row_RSW.float()).last_hidden_state
    whole_RSW = half.transformer(inputs_embeds=row_RSW).last_hidden_state
    cache, mask_RS = Cache(layers=[RoomyLayer(length) for _ in range(3)]), torch.ones(rows, length).long()
    place_RS = torch.arange(length).expand(rows, -1)
    steps = [
        next_state(half, cache, mask_RS[:, : n + 1], place_RS[:, n : n + 1], row_RSW[:, n : n + 1])
        for n in range(length)
    ]
    packed_rows, wanted = PackedRows.of(torch.full((rows,), length)), torch.arange(rows * length)
    packed_mW = states_at(half.transformer, row_RSW.flatten(0, 1), packed_rows, place_RS.flatten(), wanted)
    usual = (whole_RSW - exact_RSW).square().mean().sqrt()
    for made_RSW in (torch.stack(steps, dim=1), packed_mW.view(rows, length, -1)):
        assert made_RSW.dtype == torch.bfloat16
        assert 0 < (made_RSW - exact_RSW).square().mean().sqrt() < 1.1 * usual


@torch.no_grad()
def test_scores_of_one_token_in_bfloat16_are_not_rounded():
    """Those of 16 to 32 would be off by up to 0.06. A chance and a sum are rounded once each, by 2^-8 at most."""
    draw = torch.Generator().manual_seed(3)
    query, key, value = (
        (scale * torch.randn(20, 4, places, 8, generator=draw)).bfloat16() for scale, places in ((8, 1), (1, 6), (1, 6))
    )
    module = gpt2().transformer.h[0].attn
    made = own._attend_once(module, query, key, value, torch.zeros(20, 1, 6).bfloat16())
    score = query.double() * module.scaling @ key.double().transpose(2, 3)
    chance = score.softmax(-1)
    assert score.abs().max() > 30
    assert ((made - chance @ value.double()).abs() <= 2**-7 * (chance @ value.double().abs())).all()


@torch.no_grad()
def test_no_row_of_attention_sees_nothing(monkeypatch):
    """Kernels disagree on what comes of one: zeros, or not a number, which later layers would hand on."""
    lm, mask, looks = gpt2(), torch.tensor([[0, 0, 1, 1]]), []
    for place, name in ((torch.nn.functional, "scaled_dot_product_attention"), (own, "_attend_once")):
        attend = getattr(place, name)

        def watched(*given, attend=attend, **options):
            looks.append(options.get("attn_mask", given[-1]))
            return attend(*given, **options)

        monkeypatch.setattr(place, name, watched)
    cache = Cache(layers=[RoomyLayer(6) for _ in range(3)])
    next_state(lm, cache, mask, (mask.cumsum(1) - 1).clamp(min=0), inputs(1, 4))
    assert [tuple(look.shape[-2:]) for look in looks] == [(4, 4), (4, 4), (1, 4)]
    assert all(look.eq(0).any(-1).all() and look.isneginf().any() for look in looks[:2])
    assert looks[2].tolist() == [[[float("-inf")] * 2 + [0.0, 0.0]]]


@torch.no_grad()
def test_room_that_grows_and_loses_rows_holds_what_was_read(monkeypatch):
    """Places that are empty are not looked at, whatever the texts' lengths."""
    monkeypatch.setattr("models.key_values.AHEAD", 2)
    lm, whole_RSW = gpt2(), inputs(3, 9)
    cache, kept, sizes = Cache(layers=[RoomyLayer(9) for _ in range(3)]), torch.arange(3), []
    for begin, end in ((0, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9)):
        if end == 6:
            kept = torch.tensor([2, 0])
            cache.batch_select_indices(kept)
        mask = torch.ones(len(kept), end, dtype=torch.long)
        position = torch.arange(begin, end).expand(len(kept), -1)
        got_RW = next_state(lm, cache, mask, position, whole_RSW[kept, begin:end])
        alone_RSW = lm.transformer(inputs_embeds=whole_RSW[kept, :end]).last_hidden_state
        torch.testing.assert_close(got_RW, alone_RSW[:, -1], atol=2e-5, rtol=1e-4)
        sizes.append(cache.layers[0].rooms[0].shape[2])
    assert sizes == [5, 5, 5, 8, 8, 8, 9]
