"""launch/inspect_corpus.py: what it prints and writes, and that a leak ends it with status 1."""

from dataclasses import replace

import numpy as np
import pytest

from datamodules.build import BuildOptions, build_corpus
from datamodules.corpus import Corpus
from datamodules.importers.embedded import write_embedded
from datamodules.records import RawRecord
from launch import inspect_corpus
from launch.config import load
from launch.inspect_corpus import InspectConfig
from launch.inspect_figures import figures


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_embedded(40, 20, 5, tmp_path_factory.mktemp("inspect") / "corpus")


def inspected(corpus, tmp_path, capsys, *arguments):
    config, _ = load(InspectConfig, [f"data.path={corpus.path}", f"html={tmp_path / 'i.html'}", *arguments])
    inspect_corpus.main(config)
    return " ".join(capsys.readouterr().out.split()), (tmp_path / "i.html").read_text()


def test_counts_histograms_leaks_and_prompts_are_printed_and_written(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    printed, page = inspected(corpus, tmp_path, capsys)
    train = corpus.rows("train")
    for words in (
        f"train {len(train):,}", "user likes concept", "ratings", "train records a user", corpus.concepts[0],
        "edges of held-out records none", "prompt batch 5 of 5", "explain the rating :", "<p_u> <q_v> <s_uv>", "<eos>",
    ):  # fmt: skip
        assert words in printed, words
    assert "LEAK" not in printed
    assert page.count("<svg") == 6
    assert page.count('class="end"') >= 15
    assert "<script" not in page


def test_histograms_count_what_is_there(corpus):
    drawn = {figure.title: dict(figure.bars()) for figure in figures(corpus)}
    train = corpus.rows("train")
    assert drawn["records by split"] == {name: len(corpus.rows(name)) for name in ("train", "valid", "test")}
    ratings, counts = np.unique(corpus.rating_R, return_counts=True)
    assert drawn["ratings"] == {f"{r:g}": n for r, n in zip(ratings, counts, strict=True)}
    assert sum(drawn["words an explanation"].values()) == len(corpus.explanations)
    degrees = np.bincount(corpus.user_R[train], minlength=len(corpus.users))
    assert drawn["train records a user"]["8-15"] == int(((degrees >= 8) & (degrees <= 15)).sum())


def test_markup_in_names_and_reviews_stays_text(tmp_path, capsys):
    text = "[bold]<script>x</script>[/bold] the amp ."
    records = [RawRecord(n, f"u{n}", "i", 5.0, text, [("[red]<b>amp", "", 1)], "train") for n in range(12)]
    corpus = build_corpus(records, tmp_path / "c", BuildOptions(), {})
    printed, page = inspected(corpus, tmp_path, capsys)
    assert "[red]<b>amp 12" in printed  # in the table of concepts, with its count
    assert "[bold]<script>" in printed.replace(" ", "")
    assert "<script>" not in page
    assert "<b>amp" not in page


def test_a_leak_is_shown_and_ends_with_status_1(corpus, tmp_path, capsys, monkeypatch):
    user_R, item_R = corpus.user_R.copy(), corpus.item_R.copy()
    train, test = corpus.rows("train")[0], corpus.rows("test")[0]
    user_R[test], item_R[test] = user_R[train], item_R[train]
    leaky = replace(corpus, user_R=user_R, item_R=item_R)
    monkeypatch.setattr(Corpus, "load", lambda path: leaky)
    with pytest.raises(SystemExit, match="leak found: held-out pairs in train; mend the splits"):
        inspected(corpus, tmp_path, capsys)
    assert "LEAK" in capsys.readouterr().out


def test_repeated_texts_are_a_remark_with_its_remedy_and_no_error(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    same = replace(corpus, explanations=["we would stay in this hotel again at once ."] * len(corpus.explanations))
    monkeypatch.setattr(Corpus, "load", lambda path: same)
    printed, page = inspected(corpus, tmp_path, capsys)
    assert "held-out texts in train repeated" in printed
    assert "remark:" in printed
    assert "take repeated texts out of the raw file" in printed
    assert "LEAK" not in printed
    assert ">repeated<" in page
