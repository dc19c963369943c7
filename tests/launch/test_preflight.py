"""What cannot work with a model is told before the first stage, in one sentence."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from datamodules.build import BuildOptions, build_corpus
from datamodules.records import RawRecord
from launch.config import load
from launch.preflight import check_models, what_is_cut, what_is_hidden
from launch.schema import TrainConfig
from metrics.errors import InputError
from models.language_model import NewModelConfig, create_language_model
from models.text_encoder import create_encoder

TEXTS = ["a fine lid .", "the handle is loose ."]
SMALL = NewModelConfig(vocabulary=300, width=16, layers=2, heads=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    create_language_model(TEXTS, SMALL, 96, folder / "lm", 0)
    create_encoder(TEXTS, SMALL, folder / "encoder", 0)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "models")
    return tmp_path / "models"


def refusal(folder: Path, key: str = "explanation", part: str = "lm") -> str:
    config, _ = load(TrainConfig, [f"{key}.model={folder / part}"])
    with pytest.raises(InputError) as error:
        check_models(config, ["explanation", "ccr"])
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_whole_models_pass(folder):
    config, _ = load(TrainConfig, [f"explanation.model={folder / 'lm'}", f"ccr.model={folder / 'encoder'}"])
    check_models(config, ["explanation", "ccr"])


def test_only_stages_that_are_due_are_looked_at(folder):
    shutil.rmtree(folder / "lm")
    config, _ = load(TrainConfig, [f"explanation.model={folder / 'lm'}"])
    check_models(config, ["rating", "ppo"])


@pytest.mark.parametrize(("key", "part"), [("explanation", "lm"), ("ccr", "encoder")])
def test_files_that_are_not_whole(folder, key, part):
    weights = folder / part / "model.safetensors"
    data = weights.read_bytes()
    for cut in (len(data) // 2, len(data) - 1, 100, 4, 0):
        weights.write_bytes(data[:cut])
        assert str(weights) in refusal(folder, key, part)
        assert "copy it anew" in refusal(folder, key, part)
    weights.write_bytes(data[:8] + b"x" + data[9:])
    assert "its header is damaged" in refusal(folder, key, part)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "is a pointer of git-lfs" in refusal(folder, key, part)
    weights.unlink()
    assert "holds no weights" in refusal(folder, key, part)
    (folder / part / "pytorch_model.bin").write_bytes(b"PK\x03\x04 half of it")
    assert "pytorch_model.bin: is cut off" in refusal(folder, key, part)


@pytest.mark.parametrize(("key", "part"), [("explanation", "lm"), ("ccr", "encoder")])
def test_a_shard_that_is_missing(folder, key, part):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / part / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / part / "model.safetensors").unlink()
    assert "names model-00001-of-00002.safetensors, which is not there" in refusal(folder, key, part)


@pytest.mark.parametrize(("key", "part"), [("explanation", "lm"), ("ccr", "encoder")])
def test_a_vocabulary_that_is_not_that_of_the_weights(folder, key, part):
    rows = json.loads((folder / part / "config.json").read_text())["vocab_size"]
    edit(folder / part / "config.json", vocab_size=rows + 8)
    assert f"has {rows} rows and vocab_size in config.json is {rows + 8}" in refusal(folder, key, part)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_quantized_weights(folder, method):
    edit(folder / "lm" / "config.json", quantization_config={"quant_method": method, "bits": 4})
    assert f"its weights are quantized ({method})" in refusal(folder)


def test_a_tokenizer_with_more_tokens_than_the_matrix_has_rows(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "lm")
    tokenizer.add_tokens(["<extra>", "<more>"])
    tokenizer.save_pretrained(folder / "lm")
    assert "its tokenizer has" in refusal(folder)
    assert "resize the matrix" in refusal(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
@pytest.mark.parametrize("how", ["missing", "damaged", "pointer"])
def test_tokenizer_and_config_that_cannot_be_read(folder, name, how):
    path = folder / "lm" / name
    if how == "missing":
        path.unlink()
    else:
        path.write_text("{" if how == "damaged" else "version https://git-lfs.github.com/spec/v1\n")
    assert str(folder / "lm") in refusal(folder)


def test_dry_run_tells_it_too(folder):
    weights = folder / "lm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    script = Path(__file__).parents[2] / "launch" / "train.py"
    command = [sys.executable, str(script), f"explanation.model={folder / 'lm'}", "dry_run=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "copy it anew" in done.stderr
    assert "Traceback" not in done.stderr


def test_bfloat16_weights_pass(folder):
    weights = folder / "lm" / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights)
    config, _ = load(TrainConfig, [f"explanation.model={folder / 'lm'}"])
    check_models(config, ["explanation"])


@pytest.fixture
def corpus(tmp_path):
    rows = [
        RawRecord(n + 1, f"u{n}", "i", 4.0, " ".join(["fine"] * (n + 1)), [("fine lid", "", 1)], "train")
        for n in range(10)
    ]
    return build_corpus(rows, tmp_path / "corpus", BuildOptions(), {})


def test_explanations_that_are_cut_are_counted_with_what_would_hold_them(corpus, folder):
    """Ten texts of 1 to 10 words; with the end token 2 to 11 tokens, as the tokenizer knows the word."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "lm")
    a_word = len(tokenizer(" fine", add_special_tokens=False)["input_ids"])
    given = [f"explanation.model={folder / 'lm'}", f"prompt.max_new_tokens={7 * a_word + 1}", "graph.candidates=1"]
    told = what_is_cut(load(TrainConfig, given)[0], corpus)
    assert len(told) == 1
    assert told[0].startswith(
        "3 of 10 train explanations (30%) are longer than prompt.max_new_tokens="
    )  # 8, 9, 10 words
    assert told[0].endswith(f"holds 99 % of them, {10 * a_word + 1} all")
    given[1] = f"prompt.max_new_tokens={10 * a_word + 1}"
    assert what_is_cut(load(TrainConfig, given)[0], corpus) == []


def test_explanations_of_a_model_that_is_made_are_counted_too(corpus):
    told = what_is_cut(load(TrainConfig, ["prompt.max_new_tokens=5", "graph.candidates=1"])[0], corpus)
    assert "6 of 10 train explanations (60%)" in told[0]  # of 5 words and more: a word is one token there


def test_candidates_that_do_not_fit_are_told(corpus):
    (told,) = what_is_cut(load(TrainConfig, ["prompt.max_prompt_tokens=12", "graph.candidates=9"])[0], corpus)
    assert told.startswith("of graph.candidates=9 about ")
    needed = int(told.split("prompt.max_prompt_tokens=")[2].split()[0])
    given = [f"prompt.max_prompt_tokens={needed}", "graph.candidates=9"]
    assert what_is_cut(load(TrainConfig, given)[0], corpus) == []


def test_of_many_explanations_a_part_is_counted_and_said_to_be(corpus, folder, monkeypatch):
    """Every third of ten texts is read, those of 1, 4, 7 and 10 words; 7 words and the end fit."""
    monkeypatch.setattr("launch.preflight.COUNTED", 4)
    tokenizer = AutoTokenizer.from_pretrained(folder / "lm")
    a_word = len(tokenizer(" fine", add_special_tokens=False)["input_ids"])
    given = [f"explanation.model={folder / 'lm'}", f"prompt.max_new_tokens={7 * a_word + 1}", "graph.candidates=1"]
    (told,) = what_is_cut(load(TrainConfig, given)[0], corpus)
    assert told.startswith("1 of 4 train explanations that were counted of 10 (25%) are longer")


@pytest.mark.parametrize(
    ("train", "ranks", "told"),
    [
        (240, 2, "rating: batches of 60 records, not rating.fit.batch_size=256"),
        (257, 1, "rating: each batch hides 100% of the graph from itself"),
        (512, 2, "rating: each batch hides 50% of the graph from itself"),
    ],
)
def test_a_batch_that_hides_much_of_the_graph_is_told(train, ranks, told):
    (sentence,) = what_is_hidden(load(TrainConfig, ["rating.fit.batch_size=256"])[0], train, ranks)
    assert sentence.startswith(told)


def test_a_batch_that_hides_a_quarter_or_nothing_is_not_told():
    assert what_is_hidden(load(TrainConfig, ["rating.fit.batch_size=256"])[0], 1024, 2) == []
    assert what_is_hidden(load(TrainConfig, ["rating.fit.batch_size=256", "graph.leave_one_out=false"])[0], 9, 1) == []
