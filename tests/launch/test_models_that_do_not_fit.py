"""Weights, configs, tokenizers and kinds of models that do not belong together are refused before the first stage."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from launch.config import load
from launch.preflight import check_models
from launch.schema import TrainConfig
from metrics.errors import InputError
from models.language_model import LoraConfig, NewModelConfig, create_language_model, load_language_model
from models.text_encoder import create_encoder, load_encoder

WORDS = NewModelConfig(vocabulary=300, width=16, layers=2, heads=2)
BOTH = pytest.mark.parametrize(("key", "part"), [("explanation", "lm"), ("ccr", "encoder")])
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


class Poison:
    """Pickled, it makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    create_language_model(["a fine lid .", "a loose handle ."], WORDS, 96, folder / "lm", 0)
    create_encoder(["a fine lid .", "a loose handle ."], WORDS, folder / "encoder", 0)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "models")
    return tmp_path / "models"


def check(folder: Path, key: str, part: str, *more: str) -> None:
    check_models(load(TrainConfig, [f"{key}.model={folder / part}", *more])[0], ["explanation", "ccr"])


def refusal(folder: Path, key: str, part: str, *more: str) -> str:
    with pytest.raises(InputError) as error:
        check(folder, key, part, *more)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def words_of(folder: Path) -> int:
    return len(AutoTokenizer.from_pretrained(folder))


def put(folder: Path, part: str, model) -> None:
    """Another model with the tokenizer that is there."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / part / name).unlink(missing_ok=True)
    model.save_pretrained(folder / part)


@pytest.mark.parametrize(
    ("key", "part", "tensor"),
    [
        ("explanation", "lm", "transformer.h.1.mlp.c_fc.weight"),
        ("explanation", "lm", "transformer.ln_f.bias"),
        ("ccr", "encoder", "encoder.layer.0.intermediate.dense.weight"),
        ("ccr", "encoder", "embeddings.LayerNorm.weight"),
    ],
)
def test_a_tensor_that_is_missing_is_named_and_not_drawn_at_random(folder, key, part, tensor):
    path = folder / part / "model.safetensors"
    tensors = load_file(path)
    del tensors[tensor]
    save_file(tensors, path, {"format": "pt"})
    assert f"its weights lack {tensor}, which config.json asks for" in refusal(folder, key, part)
    with pytest.raises(InputError, match="its weights lack"):  # names of the hub are told when they are read
        load_language_model(str(folder / part)) if part == "lm" else load_encoder(str(folder / part))


@BOTH
def test_a_config_with_more_layers_than_the_weights(folder, key, part):
    edit(folder / part / "config.json", **{"n_layer" if part == "lm" else "num_hidden_layers": 3})
    # A block of GPT-2 has 12 tensors, one of BERT 16; three are named.
    assert f"and {9 if part == 'lm' else 13} more, which config.json asks for" in refusal(folder, key, part)


@BOTH
def test_shapes_of_another_config_are_told_with_both_sizes(folder, key, part):
    positions, first = ("n_positions", 96) if part == "lm" else ("max_position_embeddings", 128)
    edit(folder / part / "config.json", **{positions: 256})
    assert f"is {first} x 16 in the weights and 256 x 16 by config.json" in refusal(folder, key, part)


@BOTH
def test_weights_of_another_program(folder, key, part):
    path = folder / part / "model.safetensors"
    save_file({f"net.{name}": tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    assert "which would be drawn at random" in refusal(folder, key, part)


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_model_is_a_language_model_where_head_and_embeddings_are_one(folder, tied):
    words = words_of(folder / "lm")
    if tied:
        put(folder, "lm", GPT2Model(GPT2Config(vocab_size=words, n_embd=16, n_layer=2, n_head=2)))
        check(folder, "explanation", "lm")
    else:
        put(folder, "lm", LlamaModel(LlamaConfig(vocab_size=words, **SIZES)))
        assert "its weights lack lm_head.weight, which" in refusal(folder, "explanation", "lm")


def test_an_encoder_needs_no_pooler_and_may_have_a_head(folder):
    words = words_of(folder / "encoder")
    config = BertConfig(vocab_size=words, **SIZES)
    for model in (BertForMaskedLM(config), BertModel(config), BertModel(config, add_pooling_layer=False)):
        put(folder, "encoder", model)
        check(folder, "ccr", "encoder")
    put(folder, "encoder", RobertaModel(RobertaConfig(vocab_size=words, max_position_embeddings=130, **SIZES)))
    check(folder, "ccr", "encoder")


@BOTH
@pytest.mark.parametrize("today", [True, False])
def test_files_of_torch(folder, key, part, today, tmp_path):
    weights, path = folder / part / "model.safetensors", folder / part / "pytorch_model.bin"
    torch.save(load_file(weights), path, _use_new_zipfile_serialization=today)
    weights.unlink()
    check(folder, key, part)
    data = path.read_bytes()
    for size in (len(data) - 1, len(data) // 2, 100, 1, 0):
        path.write_bytes(data[:size])
        assert "pytorch_model.bin: is " in refusal(folder, key, part)
    path.write_text("<!DOCTYPE html><html>Sign in</html>")
    assert "copy it anew" in refusal(folder, key, part)
    torch.save({"a": torch.ones(2), "b": Poison(tmp_path / "pwned")}, path, _use_new_zipfile_serialization=today)
    assert "which is not read, as it could run code" in refusal(folder, key, part)
    assert not (tmp_path / "pwned").exists()
    torch.save([1, 2], path, _use_new_zipfile_serialization=today)
    assert "holds no weights by their names" in refusal(folder, key, part)


@BOTH
def test_parts_and_their_index(folder, key, part):
    whole, one = folder / part / "model.safetensors", folder / part / "model-00001-of-00001.safetensors"
    whole.rename(one)
    assert "holds model-00001-of-00001.safetensors and no index" in refusal(folder, key, part)
    index = folder / part / "model.safetensors.index.json"
    for damaged in ('{"weight_map": []}', '{"weight_map": {"a": 1}}', "{}", "[]"):
        index.write_text(damaged)
        assert "names no files of weights (weight_map)" in refusal(folder, key, part)
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load_file(one), one.name)}))
    check(folder, key, part)
    one.rename(whole)  # an index that is left over beside a whole file is read by nobody
    check(folder, key, part)


@BOTH
@pytest.mark.parametrize("name", ["model.gguf", "model.onnx", "tf_model.h5", "model.pth"])
def test_forms_that_are_not_read(folder, key, part, name):
    (folder / part / "model.safetensors").rename(folder / part / name)
    assert f"holds {name}, a form that is not read here" in refusal(folder, key, part)


@BOTH
def test_weights_of_other_types_than_floats_are_quantized_whatever_the_config_says(folder, key, part):
    path = folder / part / "model.safetensors"
    tensors = load_file(path)
    name = sorted(name for name in tensors if tensors[name].dim() == 2)[0]
    save_file(tensors | {name: tensors[name].to(torch.int8)}, path)
    assert f"{name} holds int8, so its weights are quantized" in refusal(folder, key, part)
    save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, path)
    assert "so its weights are quantized" in refusal(folder, key, part)


@BOTH
@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": 5, "data_offsets": [0, 0]},
        {"dtype": "F32", "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 0]},
        {"dtype": 7, "shape": [], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [], "data_offsets": "ab"},
        7,
    ],
)
def test_headers_that_no_writer_makes(folder, key, part, entry):
    header = json.dumps({"a": entry}).encode()
    (folder / part / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "its header is damaged; copy it anew" in refusal(folder, key, part)


@BOTH
def test_configs(folder, key, part):
    path = folder / part / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"vocab_size": "many"}))
    assert "vocab_size" in refusal(folder, key, part)
    path.write_text(json.dumps(values | {"model_type": "mine"}))
    assert "the family mine is unknown to the installed transformers" in refusal(folder, key, part)
    path.write_text(json.dumps(values | {"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}))
    assert "the family mine needs code of its own, which is not run here" in refusal(folder, key, part)
    for other in ("[]", "{}"):
        path.write_text(other)
        assert "names no family of models (model_type)" in refusal(folder, key, part)
    path.write_bytes(json.dumps(values).encode("utf-16"))
    assert f"{path}: cannot be read" in refusal(folder, key, part)
    path.unlink()
    assert "holds no config.json" in refusal(folder, key, part)


@BOTH
def test_tokenizers_with_ids_that_have_no_row(folder, key, part):
    rows = words_of(folder / part)
    tokenizer = AutoTokenizer.from_pretrained(folder / part)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder / part)
    told = refusal(folder, key, part)
    assert f"its tokenizer has {rows + 1} tokens, up to id {rows}, and its matrix {rows} rows" in told


@BOTH
def test_an_id_beyond_the_matrix_though_the_number_of_tokens_fits(folder, key, part):
    path, rows = folder / part / "tokenizer.json", words_of(folder / part)
    tree = json.loads(path.read_text())
    word = max(tree["model"]["vocab"], key=tree["model"]["vocab"].get)
    tree["model"]["vocab"][word] = 900
    tree["model"]["merges"] = []
    path.write_text(json.dumps(tree))
    assert f"its tokenizer has {rows} tokens, up to id 900, and its matrix {rows} rows" in refusal(folder, key, part)


@BOTH
def test_a_folder_without_a_tokenizer(folder, key, part):
    (folder / part / "tokenizer.json").unlink()
    (folder / part / "tokenizer_config.json").unlink()
    assert "its tokenizer has no words; copy the files of the tokenizer" in refusal(folder, key, part)


def test_an_encoder_without_a_padding_token(folder):
    path = folder / "encoder" / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"}))
    assert "the tokenizer has no padding token; set pad_token" in refusal(folder, "ccr", "encoder")


@pytest.mark.parametrize(
    "make",
    [
        lambda words: T5ForConditionalGeneration(
            T5Config(vocab_size=words, d_model=16, d_ff=32, num_layers=2, num_heads=2, d_kv=8)
        ),
        lambda words: BartForConditionalGeneration(
            BartConfig(vocab_size=words, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                       decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32)
        ),
        lambda words: ViTModel(ViTConfig(**SIZES)),
    ],
    ids=["t5", "bart", "vit"],
)  # fmt: skip
def test_models_that_are_neither(folder, make):
    put(folder, "lm", make(words_of(folder / "lm")))
    assert "writes no text from left to right; supported are" in refusal(folder, "explanation", "lm")
    assert "is no encoder of texts; give one of BERT's kind" in refusal(folder, "ccr", "lm")


def test_an_encoder_is_no_language_model_and_a_decoder_no_encoder(folder):
    assert "family bert with this config.json writes no text" in refusal(folder, "explanation", "encoder")
    assert "a model of the family gpt2 is no encoder of texts" in refusal(folder, "ccr", "lm")
    words = words_of(folder / "lm")
    put(folder, "lm", LlamaForCausalLM(LlamaConfig(vocab_size=words, **SIZES)))
    assert "a model of the family llama is no encoder of texts" in refusal(folder, "ccr", "lm")


def test_adapters(folder):
    base, adapters = folder / "lm", folder / "adapters"
    load_language_model(str(base), LoraConfig(rank=2)).save_pretrained(adapters)
    AutoTokenizer.from_pretrained(base).save_pretrained(adapters)
    check(folder, "explanation", "adapters")
    assert "holds adapters and no model; give their model with the adapters merged" in refusal(
        folder, "ccr", "adapters"
    )
    weights = adapters / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    assert f"{weights}: has {len(data) - 1:,} bytes" in refusal(folder, "explanation", "adapters")
    weights.unlink()
    assert "holds adapter_config.json and no adapter_model" in refusal(folder, "explanation", "adapters")
    weights.write_bytes(data)
    of_base = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(of_base[: len(of_base) // 2])
    assert f"{base}/model.safetensors: has" in refusal(folder, "explanation", "adapters")
    (adapters / "adapter_config.json").write_text("{")
    assert "adapter_config.json: cannot be read" in refusal(folder, "explanation", "adapters")


def test_limits_of_the_prompt_beyond_the_positions_of_the_model(folder):
    check(folder, "explanation", "lm", "prompt.max_prompt_tokens=64", "prompt.max_new_tokens=32")  # it has 96
    told = refusal(folder, "explanation", "lm", "prompt.max_prompt_tokens=64", "prompt.max_new_tokens=33")
    assert "make more than the 96 positions of the language model" in told


def test_weights_in_float16_pass(folder):
    config = GPT2Config(vocab_size=words_of(folder / "lm"), n_embd=16, n_layer=2, n_head=2)
    put(folder, "lm", GPT2LMHeadModel(config).half())
    check(folder, "explanation", "lm")
