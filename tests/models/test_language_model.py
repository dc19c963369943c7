"""The language model: tokenizer, creation, loading, adapters, and a real pre-trained checkpoint."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from metrics.errors import InputError
from models.generation import generate
from models.language_model import (
    LoraConfig,
    NewModelConfig,
    aligned_head,
    commit_of,
    create_language_model,
    load_language_model,
    load_tokenizer,
    train_tokenizer,
    with_adapters,
)
from models.log_probs import log_probs_and_entropy
from models.next_state import positions
from models.sampling import choose

DATA = Path(os.environ.get("LLM2ER_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
TEXTS = ["the sound is warm .", "the room was clean and quiet ."]
SMALL = NewModelConfig(width=16, layers=2, heads=2, vocabulary=320, dropout=0.1)


def test_a_new_tokenizer_begins_with_its_special_tokens():
    tokenizer = train_tokenizer(TEXTS, 320)
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert len(tokenizer) <= 320


@pytest.mark.parametrize("text", ["the room", "Ünïcödé — 部屋 😀", "tab\tand  two blanks", "unseen zebra!"])
def test_a_new_tokenizer_gives_every_text_back(text):
    tokenizer = train_tokenizer(TEXTS, 320)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).removeprefix(" ") == text


def test_a_new_tokenizer_learns_frequent_words():
    tokenizer = train_tokenizer(["sound sound sound"] * 5, 320)
    assert len(tokenizer("sound", add_special_tokens=False)["input_ids"]) == 1


@pytest.fixture(scope="module")
def created(tmp_path_factory):
    folder = tmp_path_factory.mktemp("created")
    create_language_model(TEXTS, SMALL, 48, folder, seed=1)
    return folder


def test_a_created_model_has_the_size_that_was_asked_for(created):
    model, tokenizer = load_language_model(str(created)), load_tokenizer(str(created))
    config = model.config
    assert (config.n_embd, config.n_layer, config.n_head, config.n_positions) == (16, 2, 2, 48)
    assert config.vocab_size == len(tokenizer)
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert {config.resid_pdrop, config.embd_pdrop, config.attn_pdrop} == {0.1}
    assert tokenizer.padding_side == "left"


def test_a_created_model_is_drawn_by_the_seed_and_leaves_the_global_random_state_alone(created, tmp_path):
    before = torch.get_rng_state()
    for name, seed in (("same", 1), ("other", 2)):
        create_language_model(TEXTS, SMALL, 48, tmp_path / name, seed)
    assert torch.equal(torch.get_rng_state(), before)
    first, same, other = (
        load_language_model(str(f)).state_dict() for f in (created, tmp_path / "same", tmp_path / "other")
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_checkpoint_of_lower_precision_is_loaded_in_float32(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)).bfloat16().save_pretrained(tmp_path)
    assert {p.dtype for p in load_language_model(str(tmp_path)).parameters()} == {torch.float32}


def test_adapters_alone_learn_and_start_as_the_base(created):
    base = load_language_model(str(created)).eval()
    tuned = load_language_model(str(created), LoraConfig(rank=2)).eval()
    assert isinstance(tuned, PeftModel)
    learning = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)
    ids_BS = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(tuned(ids_BS).logits, base(ids_BS).logits)


def test_adapters_go_where_they_are_told_to(created):
    tuned = load_language_model(str(created), LoraConfig(rank=2, targets="c_attn"))
    places = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in tuned.named_parameters() if "lora_" in name}
    assert places == {"c_attn"}


def test_each_target_that_is_named_gets_adapters_or_is_refused(created):
    tuned = load_language_model(str(created), LoraConfig(rank=2, targets="c_attn, mlp.c_fc"))
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in tuned.named_parameters() if "lora_A" in name}
    assert adapted == {"c_attn", "c_fc"}
    for targets in ("c_attn,q_proj", "c_attn,", "attn_c"):
        with pytest.raises(InputError, match=r"explanation\.lora\.targets: .* no module .*c_attn, c_fc, c_proj"):
            load_language_model(str(created), LoraConfig(rank=2, targets=targets))
    with pytest.raises(InputError, match="lora.rank=-1"):
        LoraConfig(rank=-1)


def test_rank_zero_trains_everything(created):
    model = load_language_model(str(created), LoraConfig(rank=0))
    assert not isinstance(model, PeftModel)
    assert all(p.requires_grad for p in model.parameters())


def test_a_tokenizer_without_padding_token_pads_with_its_end_token(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 320)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id == loaded.eos_token_id == 2


def test_a_tokenizer_without_end_token_is_refused_with_the_remedy(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 320)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"no end token; set eos_token in its tokenizer_config\.json"):
        load_tokenizer(str(tmp_path))


def test_layers_that_each_rank_drops_at_random_are_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 8, "word_embed_proj_dim": 8}
    model = OPTForCausalLM(OPTConfig(vocab_size=20, max_position_embeddings=16, **sizes))
    for share in (0.0, 0.1):
        model.config.layerdrop = share
        model.save_pretrained(tmp_path / str(share))
    load_language_model(str(tmp_path / "0.0"))
    with pytest.raises(InputError, match=r"0\.1: drops a share of 0\.1 of its layers .* set layerdrop to 0"):
        load_language_model(str(tmp_path / "0.1"))


@pytest.mark.parametrize("load", [load_language_model, load_tokenizer])
def test_a_folder_without_a_model_is_an_input_error_that_names_it(tmp_path, load):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty.*give a folder or a Hugging Face name"):
        load(str(tmp_path / "empty"))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    """A configuration that asks for its own code is refused, and the code has left no trace."""
    trace = tmp_path / "trace"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    (tmp_path / "model" / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}'
    )
    with pytest.raises(InputError):
        load_language_model(str(tmp_path / "model"))
    assert not trace.exists()


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(InputError, match="width=10 is not a multiple of heads=4"):
        NewModelConfig(width=10, heads=4)


# ---- a real checkpoint: stories260K, a Llama of 260 thousand weights in the format of llama2.c


def read_llama2c(file):
    """(sizes, weights by name) of a llama2.c version 0 file: seven int32, then float32 tables in a fixed order."""
    raw = file.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, length = struct.unpack("7i", raw[:28])
    flat, at, head = np.frombuffer(raw, np.float32, offset=28), 0, dim // heads
    shapes = {
        "embedding": (vocabulary, dim),
        "attention_norm": (layers, dim),
        "q": (layers, heads * head, dim),
        "k": (layers, kv_heads * head, dim),
        "v": (layers, kv_heads * head, dim),
        "o": (layers, dim, heads * head),
        "mlp_norm": (layers, dim),
        "gate": (layers, hidden, dim),
        "down": (layers, dim, hidden),
        "up": (layers, hidden, dim),
        "norm": (dim,),
        "rope": (2, length, head // 2),  # cosines and sines, which Hugging Face computes itself
    }
    weights = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        weights[name] = torch.tensor(flat[at : at + size].reshape(shape))
        at += size
    assert at == len(flat), "every number of the file has its place; the output table is the input table"
    return (dim, hidden, layers, heads, kv_heads, vocabulary, length), weights


def halves(weight_WD, heads):
    """Rows of a query or key matrix from llama2.c's order to Hugging Face's.

    The one rotates neighbouring elements (0, 1), (2, 3), ... of a head, the other element i with i + half.
    """
    width = weight_WD.shape[0] // heads
    return weight_WD.view(heads, width // 2, 2, -1).transpose(1, 2).reshape(weight_WD.shape)


def as_hugging_face(sizes, weights):
    dim, hidden, layers, heads, kv_heads, vocabulary, length = sizes
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=length,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    state = {
        "model.embed_tokens.weight": weights["embedding"],
        "model.norm.weight": weights["norm"],
        "lm_head.weight": weights["embedding"],
    }
    for i in range(layers):
        part = f"model.layers.{i}."
        state |= {
            part + "input_layernorm.weight": weights["attention_norm"][i],
            part + "post_attention_layernorm.weight": weights["mlp_norm"][i],
            part + "self_attn.q_proj.weight": halves(weights["q"][i], heads),
            part + "self_attn.k_proj.weight": halves(weights["k"][i], kv_heads),
            part + "self_attn.v_proj.weight": weights["v"][i],
            part + "self_attn.o_proj.weight": weights["o"][i],
            part + "mlp.gate_proj.weight": weights["gate"][i],
            part + "mlp.up_proj.weight": weights["up"][i],
            part + "mlp.down_proj.weight": weights["down"][i],
        }
    model.load_state_dict(state)
    return model


def read_vocabulary(file):
    """Pieces of a llama2.c tokenizer file: the longest length, then (score, length, bytes) of each piece."""
    raw, at, pieces = file.read_bytes(), 4, []
    while at < len(raw):
        (length,) = struct.unpack_from("i", raw, at + 4)
        pieces.append(raw[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return pieces


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """The checkpoint as a Hugging Face folder."""
    source = DATA / "tiny_lm"
    if not (source / "stories260K.bin").is_file():
        pytest.skip(f"the folder tiny_lm is not in LLM2ER_DATA ({DATA})")
    folder = tmp_path_factory.mktemp("stories260K")
    as_hugging_face(*read_llama2c(source / "stories260K.bin")).save_pretrained(folder)
    pieces = read_vocabulary(source / "tok512.bin")
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = dict(zip(("unk_token", "bos_token", "eos_token"), pieces, strict=False))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."  # as published


def test_a_real_checkpoint_tells_its_published_story(stories):
    lm, tokenizer = load_language_model(str(stories)).eval(), load_tokenizer(str(stories))
    with torch.no_grad():
        prompt_BPW = lm.get_input_embeddings()(torch.tensor([[tokenizer.bos_token_id]]))
    mask_BP = torch.ones(1, 1, dtype=torch.long)
    made = generate(lm, prompt_BPW, mask_BP, tokenizer.eos_token_id, tokenizer.pad_token_id, 60, None)
    text = tokenizer.decode(made.response_BT[0][made.mask_BT[0].bool()], skip_special_tokens=True).strip()
    assert text.startswith(STORY)


def test_a_real_checkpoint_tells_the_same_story_behind_padding(stories):
    lm, tokenizer = load_language_model(str(stories)).eval(), load_tokenizer(str(stories))
    begin, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    with torch.no_grad():
        prompt_BPW = lm.get_input_embeddings()(torch.tensor([[pad, pad, pad, begin]]))
    mask_BP = torch.tensor([[0, 0, 0, 1]])
    assert positions(mask_BP)[0, -1] == 0
    made = generate(lm, prompt_BPW, mask_BP, tokenizer.eos_token_id, pad, 40, None)
    assert tokenizer.decode(made.response_BT[0]).strip().startswith(STORY[:60])


@pytest.fixture
def hub(created, tmp_path, monkeypatch):
    """A cache of the Hugging Face hub, offline, that holds a model at two commits; main is the later one."""
    cache = tmp_path / "models--org--tiny"
    for commit, scale in (("a" * 40, 1.0), ("b" * 40, 2.0)):
        model = load_language_model(str(created))
        model.transformer.wte.weight.data *= scale
        model.save_pretrained(cache / "snapshots" / commit)
        load_tokenizer(str(created)).save_pretrained(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("b" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def embeddings(model):
    return model.get_input_embeddings().weight


def test_a_model_of_the_hub_is_taken_at_the_revision_that_is_asked_for_and_knows_it(hub, created):
    plain = load_language_model(str(created))
    pinned, newest = load_language_model(f"org/tiny@{'a' * 40}"), load_language_model("org/tiny")
    assert torch.equal(embeddings(pinned), embeddings(plain))
    assert torch.equal(embeddings(newest), 2 * embeddings(plain))
    assert [commit_of(name) for name in (f"org/tiny@{'a' * 40}", "org/tiny", str(created))] == [
        "a" * 40,
        "b" * 40,
        None,
    ]
    assert len(load_tokenizer(f"org/tiny@{'a' * 40}")) == len(load_tokenizer(str(created)))
    with pytest.raises(InputError, match="cannot read a model from 'org/tiny@no-such-tag'"):
        load_language_model("org/tiny@no-such-tag")


def test_adapters_are_read_back_on_the_revision_they_were_trained_on(hub, tmp_path):
    load_language_model(f"org/tiny@{'a' * 40}", LoraConfig(rank=2)).save_pretrained(tmp_path / "adapters")
    base = load_language_model(f"org/tiny@{'a' * 40}")
    assert torch.equal(embeddings(load_language_model(str(tmp_path / "adapters"))), embeddings(base))


ODD = GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=1, n_head=2)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_of_an_odd_number_of_words_gets_words_without_a_chance(bias):
    torch.manual_seed(0)
    lm, hidden_nW = GPT2LMHeadModel(ODD), torch.randn(5, 8, requires_grad=True)
    head = lm.lm_head = torch.nn.Linear(8, 13, bias=bias)
    logits_nV = torch.nn.functional.linear(hidden_nW, *aligned_head(lm))
    assert logits_nV.shape == (5, 64)
    torch.testing.assert_close(logits_nV[:, :13], head(hidden_nW))
    assert logits_nV.softmax(1)[:, 13:].eq(0).all()
    chosen_n, drawn = torch.tensor([0, 3, 12, 7, 7]), torch.tensor([0.0, 0.3, 0.6, 0.9, 1 - 1e-12]).double()
    assert choose(logits_nV.detach(), drawn)[0].max() < 13
    gradients = []
    for table in (logits_nV * 1.0, head(hidden_nW)):
        log_prob_n, entropy_n = log_probs_and_entropy(table, chosen_n, entropy_gradient=True)
        gradients.append(torch.autograd.grad(log_prob_n.sum() + 5 * entropy_n.sum(), [hidden_nW, *head.parameters()]))
        gradients[-1] += (log_prob_n, entropy_n)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_an_adapted_head_and_one_of_aligned_words_are_left_alone():
    """The former's product is more than its weight's."""
    assert aligned_head(with_adapters(GPT2LMHeadModel(ODD), LoraConfig(rank=2, targets="lm_head"))) is None
    assert aligned_head(with_adapters(GPT2LMHeadModel(ODD), LoraConfig(rank=2, targets="c_attn"))) is not None
    assert aligned_head(GPT2LMHeadModel(GPT2Config(**ODD.to_dict() | {"vocab_size": 128}))) is None
