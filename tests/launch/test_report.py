"""launch/report.py: what stands in the report of a finished, a partial and a broken run."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launch import report
from launch.report import write_report
from launch.report_charts import MAX_POINTS, ticks
from launch.report_folder import read_curves
from launch.report_results import verdict
from launch.report_samples import choose, highlight
from metrics.errors import InputError
from metrics.phrases import PhraseMatcher

ATTACK = "<script>alert('x')</script> & \"quoted\" </p>"
CONCEPTS = [
    {"concept": "pool", "polarity": 1, "score": 0.5, "kind": "via_item", "path": ["ann", "hut", "pool", "inn"]},
    {"concept": "room service", "polarity": -1, "score": 0.1, "kind": "of_item", "path": ["room service", "inn"]},
]


def record(number, explanation, **more):
    row = {"record": number, "user": "ann", "item": "inn", "rating": 4.0, "predicted_rating": 1 + number / 10}
    return row | {"explanation": explanation, "reference": f"text {number}", "concepts": CONCEPTS} | more


def write_lines(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path):
    """A folder with every part of a run."""
    folder = tmp_path / "mine"
    logs = {
        "rating": "epoch,rating/train/mse,rating/valid/rmse,step\n0,2.5,,0\n0,1.5,,1\n0,,0.875,1\n",
        "explanation": "step,explanation/train/loss_step,explanation/valid/loss\n3,2,3\n",
        "ccr": "step,ccr/train/loss,ccr/valid/retrieval_accuracy\n1,2.5,\n2,,0.5\n",
        "hqar": "step,hqar/train/loss,hqar/valid/token_accuracy,hqar/valid/text_accuracy\n5,0.5,0.75,0.95\n",
        "ppo": "step,ppo/reward/ccr,ppo/valid/ccr,ppo/kl,ppo/entropy\n0,0.25,0.3,0,2\n9,0.5,0.6,nan,1\n",
    }
    for stage, text in logs.items():
        (folder / stage / "export").mkdir(parents=True)
        (folder / stage / "metrics.csv").write_text(text)
        (folder / stage / "export" / "stage.json").write_text("{}")
    (folder / "config.yaml").write_text("seed: 7\ndata:\n  path: corpora/x\nrating:\n  lr: 0.001\n")
    (folder / "versions.json").write_text('{"torch": "9.8.7"}')
    (folder / "command.txt").write_text("launch/train.py a=<b>\n")
    systems = {
        "LLM2ER": {"bleu_4": 1.0, "bleu_4_ci": [0.9, 1.1], "cor": 0.5, "cor_ci": [0.45, 0.55], "rmse": 0.8},
        "LLM2ER-EQR": {
            "bleu_4": 2.0,
            "bleu_4_ci": [1.9, 2.1],
            "cor": 0.52,
            "cor_ci": [0.47, 0.57],
            "skipped": ["fmr: no"],
        },
    }
    drivers = {"LLM2ER-EQR": {"driver_precision": 0.625}}
    (folder / "metrics.json").write_text(
        json.dumps({"n": 40, "suite": "paper", "systems": systems, "drivers": drivers})
    )
    write_lines(folder / "predictions.jsonl", [record(n, f"eqr {n} pool {ATTACK}") for n in range(40)])
    write_lines(folder / "explanation" / "predictions.jsonl", [record(n, f"backbone {n}") for n in range(40)])
    return folder


class Page(HTMLParser):
    """Parses a page, and notes what is not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.tags, self.ids, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        self.faults += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def charts_of(page):
    return [attrs["aria-label"].split(":")[0] for tag, attrs in page.tags if tag == "svg"]


def parse(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_a_finished_run_has_every_section_and_nothing_missing(run):
    page = parse(run)
    assert page.ids == [
        "results",
        "plots",
        "curves",
        "samples",
        "search",
        "search-count",
        "searched",
        "definitions",
        "setting",
    ]
    for words in (
        "mine",
        "Corpus: corpora/x",
        "40 test records",
        "torch 9.8.7",
        "rating.lr 0.001",
        "launch/train.py a=<b>",
    ):
        assert words in page.text


def test_the_markup_is_balanced_and_its_links_lead_to_sections(run):
    page = parse(run)
    assert page.faults == []
    targets = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert targets
    assert {target.removeprefix("#") for target in targets} <= set(page.ids)


def test_nothing_is_fetched_and_the_file_is_small(run):
    path = write_report(run)
    page = Page(path.read_text(encoding="utf-8"))
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}]  # the search box's, which the policy names
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [attrs for _, attrs in page.tags if "src" in attrs or any(name.startswith("on") for name in attrs)]
    assert not re.search(r"url\(|@import|https?://", path.read_text(encoding="utf-8"))
    assert any(attrs.get("content", "").startswith("default-src 'none'") for tag, attrs in page.tags if tag == "meta")
    assert path.stat().st_size < 1_000_000


def test_texts_of_reviews_are_shown_as_written_and_never_as_markup(run):
    page = parse(run)
    assert " ".join(ATTACK.split()) in page.text
    assert "<script>alert" not in (run / "report.html").read_text(encoding="utf-8")


def test_every_table_has_headers_with_a_scope_and_every_chart_a_text(run):
    page = parse(run)
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in page.tags if tag == "th")
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert "Squared error of the rating: train from 2.5 at step 0 to 1.5 at step 1" in labels
    assert "RMSE of the rating: valid from 0.875 at step 1 to 0.875 at step 1" in labels


def test_a_chart_tells_its_values_on_hover_and_what_it_could_not_draw(run):
    text = parse(run).text
    assert "step 9: train 0.5, valid 0.6" in text
    assert "train: values that are not finite, hence not drawn: 1." in text
    assert "Nothing logged yet of: High-quality alignment reward (HQAR)" in text


def test_the_best_value_is_marked_where_there_is_a_choice(run):
    write_report(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<strong>([\d.]+)", html) == ["2.00", "0.5000"]  # not RMSE, which one system alone has
    assert "for LLM2ER-EQR: fmr: no." in html
    assert "0.6250" in html


@pytest.mark.parametrize(
    ("stage", "chart"),
    [
        ("rating", "RMSE of the rating"),
        ("explanation", "Loss"),
        ("ccr", "Contrastive loss"),
        ("hqar", "Accuracy by token"),
        ("ppo", "KL to the fine-tuned policy"),
    ],
)
def test_a_stage_that_has_not_run_is_named_and_has_no_curves(run, stage, chart):
    assert chart in charts_of(parse(run))
    (run / stage / "metrics.csv").unlink()
    (run / stage / "export" / "stage.json").unlink()
    page = parse(run)
    assert f"the {stage} stage has not run here ({stage}/metrics.csv)" in page.text
    assert chart not in charts_of(page)


def test_a_finished_stage_without_a_log_is_not_called_unrun(run):
    (run / "hqar" / "metrics.csv").unlink()
    text = parse(run).text
    assert "the hqar stage kept no log (hqar/metrics.csv)" in text
    assert "not run" not in text


def test_a_stage_taken_from_another_run_is_not_called_missing(run):
    (run / "ccr" / "metrics.csv").unlink()
    (run / "config.yaml").write_text("ccr:\n  init_from: runs/other/ccr\n")
    page = parse(run)
    assert "from runs/other/ccr" in page.text
    assert "missing" not in page.ids


def test_a_run_without_results_says_so_instead_of_judging(run):
    for file in ("metrics.json", "predictions.jsonl", "explanation/predictions.jsonl", "versions.json", "command.txt"):
        (run / file).unlink()
    page = parse(run)
    assert page.faults == []
    assert page.ids == ["missing", "curves", "setting"]
    assert "No verdict yet: the result stage has not run." in page.text
    for file in ("metrics.json", "predictions.jsonl", "explanation/predictions.jsonl", "versions.json", "command.txt"):
        assert file in page.text


def test_explanations_of_both_systems_stand_together_from_low_to_high_predicted_rating(run):
    text = parse(run).text.split("Nearest to the reference")[0]
    shown = [int(number) for number in re.findall(r"LLM2ER-EQR eqr (\d+)", text)]
    assert len(shown) == 20
    assert shown == [int(number) for number in re.findall(r"LLM2ER backbone (\d+)", text)]
    assert [number // 2 for number in shown] == list(range(20))  # one of each twentieth of the ratings


def test_the_choice_of_samples_depends_on_the_seed_alone():
    records = [record(n, "") for n in range(200)]
    assert choose(records) == choose(records[::-1])
    assert choose(records, seed=0) != choose(records, seed=1)
    assert choose(records[:3]) == records[:3]


def test_a_concept_shows_its_polarity_and_path(run):
    text = parse(run).text
    assert (
        "+ positive pool ann → hut → pool → inn an item that the user rated shares it with this item; score 0.5" in text
    )
    assert "− negative room service room service → inn" in text


def test_only_one_system_s_predictions_are_shown_alone(run):
    (run / "predictions.jsonl").unlink()
    text = parse(run).text
    assert "LLM2ER backbone" in text
    assert "No explanations of LLM2ER-EQR: the result stage has not run (predictions.jsonl)." in text


@pytest.mark.parametrize(
    "text",
    [
        "the POOL was fine",
        "whirlpool poolside",
        "room  service ( pool ) room",
        "pool, pool",
        "service room service pool bar",
    ],
)
def test_marked_concepts_are_those_that_the_metrics_find(text):
    concepts = [{"concept": name} for name in ("pool", "room service", "room", "pool bar", "( pool")]
    names = [concept["concept"] for concept in concepts]
    marked = re.findall(r"<mark>(.*?)</mark>", highlight(text, concepts))
    assert {" ".join(words.lower().split()) for words in marked} == {names[i] for i in PhraseMatcher(names).find(text)}


def test_a_very_long_text_is_cut_and_says_so():
    assert "… (2000 more characters)" in highlight("a" * 5000, CONCEPTS)


def systems(full, backbone):
    return {"systems": {"LLM2ER": backbone, "LLM2ER-EQR": full}}


@pytest.mark.parametrize(
    ("full", "backbone", "expected"),
    [
        ({"cmr_ci": [0.7, 0.8]}, {"cmr_ci": [0.5, 0.6]}, "is clearly better than its backbone LLM2ER on each .*: CMR"),
        ({"cor_ci": [0.7, 0.8]}, {"cor_ci": [0.5, 0.6]}, "is clearly worse than its backbone LLM2ER on each .*: COR"),
        ({"cmr_ci": [0.7, 0.8]}, {"cmr_ci": [0.6, 0.7]}, "does not differ clearly from"),
        ({"cmr": 0.9}, {"cmr": 0.1}, "No verdict on LLM2ER-EQR: its metrics have no intervals"),
        (
            {"cmr_ci": [0.7, 0.8], "bleu_4_ci": [1, 2], "rouge_l_f_ci": [5, 6]},
            {"cmr_ci": [0.5, 0.6], "bleu_4_ci": [3, 4], "rouge_l_f_ci": [5, 6]},
            "clearly better on CMR; clearly worse on BLEU-4; not clearly different on ROUGE-L",
        ),
        (
            {"cor_ci": [0.1, 0.2], "concept_rate": 0.5},
            {"cor_ci": [0.5, 0.6], "concept_rate": 0.9},
            "names? concepts less often, which alone lowers COR",
        ),
    ],
)
def test_the_verdict_goes_by_whether_intervals_are_apart(full, backbone, expected):
    assert re.search(expected, verdict(systems(full, backbone)))


def test_there_is_no_verdict_on_one_system():
    assert verdict({"systems": {"LLM2ER": {}}}) == "No verdict on LLM2ER-EQR yet: there are no metrics of LLM2ER-EQR."


def test_curves_prefer_the_exact_name_then_the_step_then_the_epoch(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,a,a_step,a_epoch,b_step,b_epoch,c_epoch\n1,1,2,3,4,5,6\n")
    curves = read_curves(file)
    assert {name: curves[name].points for name in "abc"} == {"a": [(1, 1.0)], "b": [(1, 4.0)], "c": [(1, 6.0)]}


def test_a_step_that_a_resumed_run_logged_again_counts_once(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,a\n2,7\n1,5\n2,8\n")
    assert read_curves(file)["a"].points == [(1, 5.0), (2, 8.0)]


def test_a_long_curve_is_drawn_as_means_and_says_so(run):
    rows = "".join(f"{step},{step}\n" for step in range(10 * MAX_POINTS))
    (run / "rating" / "metrics.csv").write_text("step,rating/train/mse\n" + rows)
    page = parse(run)
    assert "train: each point is the mean of up to 10 steps." in page.text
    line = next(attrs["points"] for tag, attrs in page.tags if attrs.get("class") == "line train")
    assert len(line.split()) == MAX_POINTS
    assert "step 4: train 4.5" in page.text  # the mean of 0 to 9


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.8618, 1.13), (-3e-7, 2e-7), (5.0, 5.0), (0.0, 0.0), (1e8, 3e8)]
)
def test_axis_ticks_are_few_even_and_hold_the_values(low, high):
    places = ticks(low, high)
    steps = [b - a for a, b in zip(places, places[1:], strict=False)]
    assert 3 <= len(places) <= 7
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert places[0] <= low + 1e-9 * steps[0]
    assert places[-1] >= high - 1e-6 * steps[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.json", "{", r"metrics\.json cannot be read \(.*\); mend or delete it"),
        ("metrics.json", '{"systems": [1]}', r"metrics\.json: `systems` must map"),
        ("config.yaml", "a: [", r"config\.yaml cannot be read"),
        ("config.yaml", "- a", r"config\.yaml holds no names with values"),
        ("ppo/metrics.csv", "step,ppo/kl\n1,oops\n", r"ppo/metrics\.csv:2: could not convert"),
        ("ppo/metrics.csv", "ppo/kl\n1\n", r"ppo/metrics\.csv:1: no column `step`"),
        ("predictions.jsonl", "{}\n", r"predictions\.jsonl:1: `explanation` must be given"),
    ],
)
def test_a_broken_part_is_named_with_its_remedy(run, file, text, message):
    (run / file).write_text(text)
    with pytest.raises(InputError, match=message):
        write_report(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no part of a run"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        write_report(tmp_path / "absent")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(("typed", "shown"), [("", "40 of 40"), ("EQR 39", "1 of 40"), ("nowhere", "0 of 40")])
def test_the_page_works_in_a_browser_without_a_word_on_its_console(run, tmp_path, typed, shown):
    html = write_report(run).read_text(encoding="utf-8")
    page = tmp_path / "typed.html"  # what the box holds at the start stands for what a user types
    page.write_text(html.replace('type="search"', f'type="search" value="{typed}"'), encoding="utf-8")
    quiet = [f"--disable-{part}" for part in ("gpu", "background-networking", "component-update", "sync", "quic")]
    options = ["--headless", "--no-sandbox", "--no-first-run", *quiet, f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *options, "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in done.stderr
    assert f'<span id="search-count">{shown}</span>' in done.stdout
    assert Page(done.stdout).faults == []


def test_the_command_writes_the_report_from_another_folder(run, tmp_path):
    script = Path(report.__file__).resolve()
    done = subprocess.run(
        [sys.executable, str(script), f"run={run}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {run / 'report.html'}\n"
    assert (run / "report.html").is_file()
