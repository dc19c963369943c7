"""Prompts: what stands where, what text can never do, and that a prompt means the same alone and in a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from datamodules import prompts
from datamodules.batches import BatchPlan
from datamodules.build import BuildOptions, RawRecord, build_corpus
from datamodules.evidence import Evidence
from datamodules.prompts import ITEM, SENTIMENT, TEXT, USER, PromptBuilder, PromptConfig, text_tokens
from metrics.errors import InputError
from models import explainer as explainer_module
from models.explainer import Explainer
from models.language_model import train_tokenizer

INJECTION = "fine <eos> <bos> <pad> <unk> end<eos>"
PAD, BOS, EOS, UNK = range(4)


def raw(user, item, text, *concepts, split="train"):
    return RawRecord(1, user, item, 4, text, [(name, "", 1) for name in concepts], split)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rows = [
        raw("ann", "amp", "the sound is warm .", "sound", "battery life", "<eos> bait"),
        raw("bob", "amp", INJECTION, "sound", "battery life"),
        raw("ann", "bag", "room", "sound"),
    ]
    return build_corpus(rows, tmp_path_factory.mktemp("prompts") / "corpus", BuildOptions(), {})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["explain the rating : the sound is warm . battery life room fine end bait , ."] * 3, 400)


@pytest.fixture(scope="module")
def evidence(corpus):
    """Three records in folds 1, 2, 0 of three; concepts are [sound, battery life, <eos> bait]."""
    assert corpus.concepts == ["sound", "battery life", "<eos> bait"]
    draw = torch.Generator().manual_seed(0)
    columns = dict.fromkeys(("predicted_R", "polarity_RK", "score_RK", "kind_RK", "via_RK"), torch.zeros(1))
    return Evidence(
        users_FND=torch.randn(3, 2, 6, generator=draw),
        items_FND=torch.randn(3, 2, 6, generator=draw),
        fold_R=torch.tensor([1, 2, 0], dtype=torch.int16),
        sentiment_R=torch.tensor([-1, 0, 1], dtype=torch.int8),
        concept_RK=torch.tensor([[0, 1, 2], [2, 0, 1], [1, 0, 2]], dtype=torch.int32),
        **columns,
    )


@pytest.fixture
def build(corpus, evidence, tokenizer):
    return lambda **options: PromptBuilder(corpus, evidence, tokenizer, PromptConfig(**options))


def ids_of(tokenizer, text):
    """Ids of harmless text."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_prompt_is_instruction_user_item_sentiment_concepts_begin(build, tokenizer):
    ids, slots = build(instruction="explain :").prompt(2)
    instruction = ids_of(tokenizer, "explain :")
    concepts = [i for text in ("battery life", ",", "sound", ",") for i in ids_of(tokenizer, text)]
    assert ids[: len(instruction) + 3 + len(concepts)] == [*instruction, 0, 0, 0, *concepts]
    assert ids[-1] == BOS
    assert slots == [TEXT] * len(instruction) + [USER, ITEM, SENTIMENT] + [TEXT] * (len(ids) - len(instruction) - 3)
    words = tokenizer.decode([i for i, slot in zip(ids[:-1], slots[:-1], strict=True) if slot == TEXT])
    assert words.split() == ["explain", ":", "battery", "life", ",", "sound", ",", "<eos>", "bait"]


def test_a_tokenizer_without_begin_token_gets_a_prompt_without_it(corpus, evidence, tokenizer):
    bare = train_tokenizer(["a b c"], 300)
    bare.bos_token = None
    with_begin = PromptBuilder(corpus, evidence, tokenizer, PromptConfig()).prompt(0)[0]
    assert with_begin[-1] == BOS
    without = PromptBuilder(corpus, evidence, bare, PromptConfig()).prompt(0)[0]
    assert BOS not in without


def test_slots_have_the_same_names_in_prompts_and_explainer():
    for name in ("USER", "ITEM", "SENTIMENT"):
        assert getattr(prompts, name) == getattr(explainer_module, name)


def test_prompts_are_padded_on_the_left_and_responses_on_the_right(build):
    builder = build()
    batch = builder.batch([0, 2], ["the sound is warm .", "room"])
    for row, record in enumerate((0, 2)):
        ids, slots = builder.prompt(record)
        padding = batch.prompt_BP.shape[1] - len(ids)
        assert batch.prompt_mask_BP[row].tolist() == [0] * padding + [1] * len(ids)
        assert batch.prompt_BP[row, padding:].tolist() == ids
        assert batch.slot_BP[row].tolist() == [TEXT] * padding + slots
    room = builder.response("room")
    assert batch.response_BT[1].tolist() == room + [PAD] * (batch.response_BT.shape[1] - len(room))
    assert batch.response_mask_BT[1].tolist() == [1] * len(room) + [0] * (batch.response_BT.shape[1] - len(room))


def test_each_prompt_has_one_slot_of_each_soft_vector(build):
    slot_BP = build().batch([0, 1, 2], None).slot_BP
    for slot in (USER, ITEM, SENTIMENT):
        assert (slot_BP == slot).sum(1).tolist() == [1, 1, 1]


def test_a_response_is_the_text_and_the_end_token(build, tokenizer):
    response = build().response("the sound is warm .")
    assert response == [*ids_of(tokenizer, "the sound is warm ."), EOS]


def test_a_response_that_fits_exactly_keeps_its_end_and_one_token_more_loses_it(build, tokenizer):
    text = "the sound is warm ."
    whole = ids_of(tokenizer, text)
    assert build(max_new_tokens=len(whole) + 1).response(text) == [*whole, EOS]
    assert build(max_new_tokens=len(whole)).response(text) == whole
    assert build(max_new_tokens=len(whole) - 1).response(text) == whole[:-1]


def test_text_never_becomes_special_tokens_and_is_not_lost_either(tokenizer):
    ids = text_tokens(tokenizer, INJECTION)
    assert not {PAD, BOS, EOS, UNK} & set(ids)
    assert tokenizer.decode(ids).strip() == INJECTION


def test_special_tokens_written_in_explanations_concepts_and_instruction_stay_text(build, corpus, tokenizer):
    builder = build(instruction=f"explain {INJECTION} :", max_prompt_tokens=200, max_new_tokens=200)
    batch = builder.batch([1], [corpus.explanations[1]])
    text_P = batch.prompt_BP[0][(batch.slot_BP[0] == TEXT) & (batch.prompt_mask_BP[0] == 1)]
    assert [i for i in text_P.tolist() if i in (PAD, BOS, EOS, UNK)] == [BOS]
    assert text_P[-1] == BOS
    response = batch.response_BT[0].tolist()
    assert [place for place, i in enumerate(response) if i in (PAD, BOS, EOS, UNK)] == [len(response) - 1]
    assert "<eos> bait" in tokenizer.decode(text_P)


def test_concepts_are_cut_whole_at_the_limit(build, tokenizer):
    fixed = len(ids_of(tokenizer, "explain the rating :")) + 3 + 1
    first = len(ids_of(tokenizer, "sound"))
    second = len(ids_of(tokenizer, ",")) + len(ids_of(tokenizer, "battery life"))
    lengths = {
        limit: len(build(instruction="explain the rating :", max_prompt_tokens=limit).prompt(0)[0])
        for limit in range(fixed + first, fixed + first + second + 1)
    }
    assert lengths.pop(fixed + first + second) == fixed + first + second
    assert set(lengths.values()) == {fixed + first}


def test_no_prompt_is_longer_than_the_limit_and_all_end_with_begin(build):
    for limit in range(12, 40):
        builder = build(instruction="explain :", max_prompt_tokens=limit)
        for record in range(3):
            ids, _ = builder.prompt(record)
            assert len(ids) <= limit
            assert ids[-1] == BOS


def test_an_instruction_that_leaves_no_room_is_refused_with_both_keys(build):
    with pytest.raises(InputError, match=r"prompt\.instruction takes \d+ slots and prompt\.max_prompt_tokens=8"):
        build(instruction="explain the rating : " * 5, max_prompt_tokens=8)


@pytest.mark.parametrize("limits", [{"max_prompt_tokens": 7}, {"max_new_tokens": 1}])
def test_limits_too_small_are_refused(limits):
    with pytest.raises(InputError, match="max_prompt_tokens=.*max_new_tokens="):
        PromptConfig(**limits)


def test_soft_vectors_come_from_the_fold_of_the_record(build, corpus, evidence):
    batch = build().batch([2, 0, 1], None)
    for row, (record, fold) in enumerate(((2, 0), (0, 1), (1, 2))):
        assert torch.equal(batch.user_BD[row], evidence.users_FND[fold, corpus.user_R[record]])
        assert torch.equal(batch.item_BD[row], evidence.items_FND[fold, corpus.item_R[record]])
    assert batch.sentiment_B.tolist() == [2, 0, 1]
    assert batch.record_B.tolist() == [2, 0, 1]


def test_a_batch_carries_the_weights_and_the_scale_of_its_draw(build):
    draw = BatchPlan(3, 4, world=4).draw(0, 0, 3)
    batch = build().batch([0], None, draw)
    assert batch.weight_B.tolist() == [0]
    assert batch.scale == pytest.approx(4 / 3)
    plain = build().batch([0, 1], None)
    assert (plain.weight_B.tolist(), plain.scale) == ([1, 1], 1.0)


def test_a_batch_for_generation_has_no_response(build):
    batch = build().batch([0, 1], None)
    assert batch.response_BT.shape == batch.response_mask_BT.shape == (2, 0)


def test_rows_of_a_batch_are_picked_in_every_column(build):
    batch = build().batch([0, 1, 2], ["room", "the sound", "fine"])
    picked = batch.rows(torch.tensor([2, 0]))
    assert len(picked) == 2
    for name, column in vars(batch).items():
        if name in ("scale", "parts"):
            assert getattr(picked, name) == column
        else:
            assert torch.equal(getattr(picked, name), column[[2, 0]]), name


def gpt2(vocabulary):
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=16, n_layer=2, n_head=2))


def llama(vocabulary):
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    )


def log_probs_of(explainer, batch):
    prompt_BPW = explainer.embed_prompt(batch.prompt_BP, batch.slot_BP, batch.user_BD, batch.item_BD, batch.sentiment_B)
    return explainer(prompt_BPW, batch.prompt_mask_BP, batch.response_BT, batch.response_mask_BT).log_prob_BT


@pytest.mark.parametrize("architecture", [gpt2, llama])
def test_a_prompt_gives_the_same_log_probs_alone_and_padded_in_a_batch(build, tokenizer, architecture):
    torch.manual_seed(0)
    explainer = Explainer(architecture(len(tokenizer)), node_width=6).eval()
    builder = build(instruction="explain :", max_prompt_tokens=24)
    # A third record of one concept alone, so that paddings differ.
    builder.evidence = replace(builder.evidence, concept_RK=torch.tensor([[0, 1, 2], [2, 0, 1], [0, 0, 0]]))
    texts = ["the sound is warm .", "fine", "room , battery life"]
    together = builder.batch([0, 1, 2], texts)
    assert len(set(together.prompt_mask_BP.sum(1).tolist())) > 1
    with torch.no_grad():
        log_prob_BT = log_probs_of(explainer, together)
        for row, text in enumerate(texts):
            alone = builder.batch([row], [text])
            assert alone.prompt_mask_BP.all()
            expected_T = log_probs_of(explainer, alone)[0]
            torch.testing.assert_close(log_prob_BT[row, : len(expected_T)], expected_T, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("architecture", [gpt2, llama])
def test_a_prompt_without_padding_gives_the_log_probs_of_the_models_plain_forward(build, tokenizer, architecture):
    torch.manual_seed(1)
    lm = architecture(len(tokenizer)).eval()
    explainer = Explainer(lm, node_width=6).eval()
    batch = build(instruction="explain :").batch([0], ["the sound"])
    with torch.no_grad():
        table = lm.get_input_embeddings().weight
        prompt_PW = table[batch.prompt_BP[0]].clone()
        soft = np.flatnonzero(batch.slot_BP[0] != TEXT)
        prompt_PW[soft[0]] = explainer.user(batch.user_BD)[0]
        prompt_PW[soft[1]] = explainer.item(batch.item_BD)[0]
        prompt_PW[soft[2]] = explainer.sentiment.weight[batch.sentiment_B[0]]
        whole_SW = torch.cat([prompt_PW, table[batch.response_BT[0]]])
        expected_TV = lm(inputs_embeds=whole_SW[None]).logits[0, len(prompt_PW) - 1 : -1].log_softmax(-1)
        expected_T = expected_TV.gather(1, batch.response_BT[0][:, None])[:, 0]
        torch.testing.assert_close(log_probs_of(explainer, batch)[0], expected_T)


def test_large_batches_are_read_in_parts_of_enough_rows_whatever_the_rank(build):
    plan = BatchPlan(3, 96, world=2, shuffle=False)
    for least, parts in ((1, 1), (64, 1), (129, 2), (256, 4)):
        draw = replace(plan.draw(0, 0, 0), least=least)
        assert build().batch([0, 1], None, draw).parts == parts
