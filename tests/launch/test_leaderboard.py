"""Several systems and seeds: what the tables say, and what is refused."""

import json
import random

import pytest

from launch import evaluate
from launch.evaluate import EvaluateConfig
from metrics.errors import InputError

WORDS = ["the", "room", "was", "nice", "pool", "bar", "staff", "very", "clean"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Runs `weak`, and two seeds of `strong`, whose config differs in the seed alone; `other.jsonl` of nobody's run."""
    rng = random.Random(0)
    references = [" ".join(rng.choices(WORDS, k=8)) for _ in range(60)]
    for name, kept, seed in (("weak", 0.3, 1), ("strong_s1", 0.8, 1), ("strong_s2", 0.8, 2)):
        rng = random.Random(f"{name}{seed}")
        lines = [
            {"record": n, "reference": text, "user": f"u{n % 9}", "item": f"i{n % 5}", "rating": 1 + n % 5,
             "predicted_rating": 3.0, "explanation": " ".join(w if rng.random() < kept else "x" for w in text.split())}
            for n, text in enumerate(references)
        ]  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"kind: {name[:6]}\nseed: {seed}\nrun_dir: {name}\n")
        (tmp_path / name / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(line | {"explanation": "y"}) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, **options):
    evaluate.main(EvaluateConfig(resamples=200, trials=400, **options))
    return capsys.readouterr().out


def test_seeds_of_one_config_are_one_system(folder, capsys):
    tree = json.loads(run(capsys, runs=["weak", "strong_s1", "strong_s2", "other.jsonl"], json=True))
    assert list(tree["systems"]) == ["weak", "strong", "other"]
    each = [json.loads(run(capsys, predictions=f"strong_s{seed}/predictions.jsonl", json=True)) for seed in (1, 2)]
    strong = tree["systems"]["strong"]
    assert strong["seeds"] == 2
    for key in ("bleu_4", "rouge_l_f", "usr", "distinct_2"):
        values = [scores[key] for scores in each]
        assert strong[key] == pytest.approx(sum(values) / 2)
        assert strong[f"{key}_sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    low, high = strong["bleu_4_ci"]
    assert low < strong["bleu_4"] < high
    test = tree["comparisons"]["strong"]["bleu_4"]
    assert test["difference"] == pytest.approx(strong["bleu_4"] - tree["systems"]["weak"]["bleu_4"])
    assert test["p_holm"] >= test["p"]


def test_ratings_of_other_programs_are_clipped_to_the_range_given(folder, capsys):
    scores = json.loads(run(capsys, predictions="other.jsonl", json=True))
    assert scores["rmse"] == pytest.approx(2**0.5)
    clipped = json.loads(run(capsys, predictions="other.jsonl", json=True, rating_range=[0.0, 9.0]))
    assert clipped["rmse"] == scores["rmse"]
    assert "rmse" not in json.loads(run(capsys, predictions="other.jsonl", json=True, rating_range=[2.0, 3.0]))


def test_every_figure_has_an_interval_or_a_reason(folder, capsys):
    (folder / "concepts.txt").write_text("pool\nbar\n\nroom\n")
    options = {"json": True, "vocabulary": "concepts.txt", "suite": "all"}
    for name in ("weak", "strong_s1", "other.jsonl"):  # the texts of the last are all the same
        scores = json.loads(run(capsys, predictions=name, **options))
        lines = [line for line in scores["skipped"] if line.startswith("interval of ")]
        told = [key for line in lines for key in line.removeprefix("interval of ").split(":")[0].split(", ")]
        bare = [key for key, value in scores.items() if isinstance(value, int | float) and f"{key}_ci" not in scores]
        assert [key for key in bare if key != "n" and key not in told] == []
    assert "usr" in bare


def test_a_list_of_concepts_stands_in_for_a_corpus(folder, capsys):
    (folder / "concepts.txt").write_text("pool\nbar\n\nroom\n")
    scores = json.loads(run(capsys, predictions="strong_s1", json=True, vocabulary="concepts.txt"))
    assert scores["fcr"] == 1
    assert {"div", "cor", "concept_rate", "fcr_token", "iusr", "uusr"} <= scores.keys()
    assert "cmr" not in scores


def test_the_table_marks_the_best_and_what_differs(folder, capsys):
    text = run(capsys, runs=["weak", "strong_s1", "strong_s2"])
    rows = [line for line in text.splitlines() if line.startswith("| strong")]
    assert "**" in rows[0]
    assert " ^" in rows[0]
    assert "\N{PLUS-MINUS SIGN}" in rows[0]
    assert "corrected (Holm)" in text


@pytest.mark.parametrize("kind", ["md", "tex", "json", "html"])
def test_a_leaderboard_is_written_in_every_form(folder, capsys, kind):
    assert run(capsys, runs=["weak", "strong_s1"], out=f"tables/t.{kind}") == f"wrote tables/t.{kind}\n"
    text = (folder / "tables" / f"t.{kind}").read_text()
    assert "strong" in text
    assert "weak" in text
    if kind == "json":
        assert json.loads(text)["baseline"] == "weak"
    if kind == "tex":
        assert r"strong\_s1" in text
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") > 0


def test_texts_without_ids_stand_side_by_side(folder, capsys):
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text("".join(f"reference {n}\n{name} said {n}\n\n" for n in range(12)))
    run(capsys, runs=["one.txt", "two.txt"], out="t.html")
    card = (folder / "t.html").read_text().split("<article")[1]
    assert "one said" in card
    assert "two said" in card


def test_two_files_are_compared_on_the_same_records(folder, capsys):
    text = run(capsys, predictions="strong_s1/predictions.jsonl", against="weak/predictions.jsonl")
    line = next(line for line in text.splitlines() if line.startswith("bleu_1") and "better" in line)
    assert line.endswith("strong_s1/predictions better")
    flat = json.loads(run(capsys, predictions="strong_s1", against="weak", json=True, metrics=["bleu_1", "usr"]))
    assert flat["bleu_1_difference"] == pytest.approx(flat["bleu_1_ours"] - flat["bleu_1_theirs"])
    assert flat["bleu_1_difference"] > 0
    assert {"usr_p", "usr_p_holm", "bleu_1_difference_ci"} <= flat.keys()
    assert not [key for key in flat if key.startswith("rouge")]


def test_one_record_is_compared_without_a_test(folder, capsys):
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"reference": "a pool", "explanation": f"a {name}"}) + "\n")
    assert "no tests: they need two records" in run(capsys, predictions="a.jsonl", against="b.jsonl")


def test_half_a_surrogate_pair_stands_escaped_in_the_page(folder, capsys):
    (folder / "a.jsonl").write_text(json.dumps({"reference": "a", "explanation": "\ud800 a"}) + "\n")
    run(capsys, runs=["a.jsonl"], out="table.html")
    assert "\\ud800 a" in (folder / "table.html").read_text(encoding="utf-8")


def test_two_seeds_can_be_compared_with_each_other(folder, capsys):
    flat = json.loads(run(capsys, predictions="strong_s1", against="strong_s2", json=True))
    assert flat["ours"] != flat["theirs"]


def test_a_run_without_predictions_is_named(folder, capsys):
    (folder / "weak" / "predictions.jsonl").unlink()
    with pytest.raises(InputError, match=r"weak holds no predictions.jsonl: its result stage has not run"):
        run(capsys, runs=["weak", "strong_s1"])


def test_other_test_records_are_refused(folder, capsys):
    lines = (folder / "weak" / "predictions.jsonl").read_text().splitlines()
    (folder / "weak" / "predictions.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(InputError, match=r"weak lacks 1 of the records of strong_s1, such as '59'"):
        run(capsys, runs=["strong_s1", "weak"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`predictions` must be given"),
        ({"predictions": "a", "runs": ["b"]}, "`runs` is given with `predictions`"),
        ({"runs": ["a"], "out": "x.pdf"}, r"out=x.pdf: give `runs` too, and a name that ends with one of .html"),
        ({"predictions": "a", "suite": "best"}, "suite=best: use one of paper, standard, all"),
        ({"predictions": "a", "metrics": ["bleu"]}, "metrics: bleu is no metric"),
        ({"predictions": "a", "rating_range": [5.0, 1.0]}, "give the lowest and the highest rating"),
        ({"predictions": "a", "trials": -1}, "trials=-1 must not be negative"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(options, message):
    with pytest.raises(InputError, match=message):
        EvaluateConfig(**options)


def test_a_run_given_twice_is_refused(folder, capsys):
    with pytest.raises(InputError, match="weak is given twice"):
        run(capsys, runs=["weak", "weak"])
