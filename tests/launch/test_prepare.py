"""launch/prepare.py: from a raw file to a corpus folder, and what it says on the way."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.corpus import Corpus
from launch import prepare
from launch.config import load
from launch.prepare import PrepareConfig, next_commands
from metrics.errors import InputError

SCRIPT = Path(prepare.__file__).resolve()


def line(user, item, **more):
    row = {"user": user, "item": item, "rating": 4, "feature": "neck", "opinion": "slim", "sentence": "slim neck .",
           "sentiment": 1, "split": "train"}  # fmt: skip
    return json.dumps(row | more)


def run(*arguments):
    config, _ = load(PrepareConfig, list(arguments))
    prepare.main(config)
    return Corpus.load(config.out)


@pytest.fixture
def raw(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text("\n".join([line("a", "i"), line("b", "i"), line("a", "j", split="test"), "{"]))
    return file


def test_a_bad_line_and_a_cold_item_are_skipped_counted_and_printed(raw, tmp_path, capsys):
    corpus = run(f"raw={raw}", "format=nlg4rs_jsonl", f"out={tmp_path / 'c'}", "on_bad_record=skip")
    printed = " ".join(capsys.readouterr().out.split())
    assert len(corpus.explanations) == 3
    for words in (
        "train records 2",
        "test records 1",
        "users 2",
        "concepts 1 (given)",
        "words an explanation 3.0",
        "left out: unreadable line 1 (lines 4)",
        "cold items (in no train record) 1",
        f"written to {tmp_path / 'c'}",
        "next: python launch/inspect_corpus.py",
    ):
        assert words in printed
    assert "launch/train.py" not in printed  # without a valid record it would be refused


def test_a_bad_line_stops_with_its_file_and_number(raw, tmp_path):
    with pytest.raises(InputError, match=rf"^{raw}:4: .*on_bad_record=skip"):
        run(f"raw={raw}", "format=nlg4rs_jsonl", f"out={tmp_path / 'c'}")
    assert not (tmp_path / "c").exists()


def test_manifest_names_the_raw_file_its_checksum_and_the_options(raw, tmp_path):
    corpus = run(f"raw={raw}", "format=nlg4rs_jsonl", f"out={tmp_path / 'c'}", "on_bad_record=skip", "max_words=2")
    checksum = subprocess.run(["sha256sum", raw], capture_output=True, text=True, check=True).stdout.split()[0]  # noqa: S607
    assert corpus.manifest["source"] == {"format": "nlg4rs_jsonl", "file": "r.jsonl", "sha256": checksum}
    assert corpus.manifest["options"]["max_words"] == 2
    assert "out" not in corpus.manifest["options"]


def test_index_files_are_used(raw, tmp_path):
    for name, numbers in {"train": "0 2", "validation": "1", "test": ""}.items():
        (tmp_path / f"{name}.index").write_text(numbers)
    corpus = run(
        f"raw={raw}", "format=nlg4rs_jsonl", f"splits={tmp_path}", f"out={tmp_path / 'c'}", "on_bad_record=skip"
    )
    assert corpus.rows("valid").tolist() == [1]


def test_a_table_with_columns_of_other_names(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("who,what,rating,body\n" + "".join(f"u{n % 5},i{n // 5},4,The fine cable!\n" for n in range(50)))
    corpus = run(
        f"raw={file}", "format=table", "columns.user=who", "columns.item=what", "columns.text=body",
        f"out={tmp_path / 'c'}", "concept_max_share=1.0",
    )  # fmt: skip
    assert corpus.explanations[0] == "the fine cable !"
    assert [len(corpus.rows(split)) for split in ("train", "valid", "test")] == [40, 5, 5]
    assert corpus.concepts == ["cable"]


def test_the_embedded_corpus(tmp_path):
    corpus = run("format=embedded", "users=20", "items=15", "seed=1", f"out={tmp_path / 'c'}")
    assert len(corpus.users) == 20
    assert corpus.manifest["source"] == {"format": "embedded", "users": 20, "items": 15, "seed": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=pickle", "out=c"], "format=pickle is unknown: use amazon_5core, .*, table, embedded"),
        (["format=table", "out=c"], "raw must be given"),
        (["format=embedded", "out="], "out= names no folder"),
        (
            ["format=embedded", "raw=x", "out=c"],
            "raw means nothing to format=embedded: it belongs to amazon_5core, yelp, ",
        ),
        (["format=table", "raw=x", "users=7", "out=c"], "users means nothing to format=table: it belongs to embedded"),
        (
            ["format=embedded", "columns.user=u", "out=c"],
            "columns means nothing to format=embedded: it belongs to table",
        ),
        (["format=table", "raw=nothing.csv", "out=c"], "raw=nothing.csv is no file"),
    ],
)
def test_a_wrong_command_is_refused_by_key(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(*arguments)


def test_the_command_works_from_another_folder_and_prints_no_progress_bar_to_a_pipe(raw, tmp_path):
    arguments = [f"raw={raw.name}", "format=nlg4rs_jsonl", "out=c", "on_bad_record=skip"]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(Corpus.load(tmp_path / "c").explanations) == 3


def test_a_corpus_that_cannot_be_trained_on_says_what_it_lacks(raw, tmp_path, capsys):
    run(f"raw={raw}", "format=nlg4rs_jsonl", f"out={tmp_path / 'c'}", "on_bad_record=skip")
    assert "not enough to train on: no valid record;" in capsys.readouterr().out
    table = tmp_path / "few.csv"
    table.write_text("user,item,rating,text\na,i,5,a great neck\n")
    run(f"raw={table}", "format=table", f"out={tmp_path / 'd'}")
    assert "not enough to train on: no valid record, no test record; give more records" in (
        out := capsys.readouterr().out
    )
    assert "no concept; of the terms found 1 in fewer than concept_min_count=5 of them: lower concept_min_count" in out
    run("format=embedded", "users=30", "items=20", f"out={tmp_path / 'e'}")
    assert "not enough" not in capsys.readouterr().out


def reviews(tmp_path, texts, *arguments):
    table = tmp_path / "t.csv"
    rows = [f'u{n % 10},i{n % 13},{1 + n % 5},"{text}"' for n, text in enumerate(texts)]
    table.write_text("\n".join(["user,item,rating,text", *rows]) + "\n", encoding="utf-8")
    run(f"raw={table}", "format=table", f"out={tmp_path / 'c'}", *arguments)


def test_the_bound_that_leaves_no_concept_is_named(tmp_path, capsys):
    texts = [f"The sound is great for number {n}." for n in range(100)]
    reviews(tmp_path, texts)
    out = capsys.readouterr().out
    assert "no concept; of the terms found 2 in more than concept_max_share=0.1 of the 80 train texts" in out
    assert "raise concept_max_share" in out
    assert "give more records" not in out
    reviews(tmp_path, texts, "concept_max_share=1")
    assert "no concept" not in capsys.readouterr().out
    with pytest.raises(InputError, match=r"2 in more than concept_max_share=0\.1 of the 80 train sentences"):
        reviews(tmp_path, texts, "explanation=sentence", "sentence_min_words=3")


@pytest.mark.parametrize(
    "text",
    [
        "यह उत्पाद बहुत अच्छा है।",
        "المنتج جيد جدا، أنصح به!",
        "이 제품은 정말 좋아요.",
        "یہ بہت اچھا ہے۔",
        "这 个 耳机 很 好 。",
    ],
)
def test_texts_in_another_language_are_told_that_the_extractor_knows_english(text, tmp_path, capsys):
    reviews(tmp_path, [text] * 60)
    out = capsys.readouterr().out
    assert "no concept; the extractor of concepts knows English" in out
    assert "columns.concepts of a table, or by concept_source=list" in out
    with pytest.raises(InputError, match="the extractor of concepts knows English.*concept_source=list"):
        reviews(tmp_path, [text] * 60, "explanation=sentence", "sentence_min_words=2")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("这个耳机的音质非常好，物流也很快！", "Chinese"),
        ("このヘッドホンは音がとても良いです。", "Japanese"),
        ("หูฟังนี้เสียงดีมากและแบตเตอรี่ใช้ได้นาน", "Thai"),
        ("ផលិតផលនេះល្អណាស់ខ្ញុំចូលចិត្តវា។", "Khmer"),
        ("ຜະລິດຕະພັນນີ້ດີຫຼາຍ", "Lao"),
        ("ဒီပစ္စည်းကအရမ်းကောင်းတယ်။", "Burmese"),
    ],
)
def test_texts_without_blanks_are_refused_with_what_parts_their_words(text, language, tmp_path):
    with pytest.raises(InputError, match=rf"60 of 60 texts \(the first on line 2\) have no blanks.*for {language}"):
        reviews(tmp_path, [text] * 60)


def test_what_to_type_next_can_be_pasted(tmp_path):
    """Every file and folder is there, a blank stays in its word, and the run has a folder of its own."""
    look, train = next_commands(f"{tmp_path}/my corpus", trains=True).splitlines()
    assert shlex.split(look) == ["python", "launch/inspect_corpus.py", f"data.path={tmp_path}/my corpus"]
    words = shlex.split(train)
    assert words[0] == "torchrun"
    assert words[-2:] == [f"data.path={tmp_path}/my corpus", "run_dir=runs/my corpus"]
    files = [word for word in words if word.endswith((".py", ".yaml"))]
    assert len(files) == 3
    assert all((Path(__file__).parents[2] / file).is_file() for file in files)
    assert next_commands("c", trains=False) == "python launch/inspect_corpus.py data.path=c"
