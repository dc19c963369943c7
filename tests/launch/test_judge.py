"""The judge against a small server that speaks the protocol, and misbehaves as real ones do."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from launch import judge
from launch.answers import EndpointConfig
from launch.judge import JudgeConfig
from launch.verdicts import fill, likert, pairwise, parse_pair, parse_score, sign_test
from metrics.errors import InputError
from models.language_model import NewModelConfig, create_language_model

N = 6


@pytest.fixture
def server():
    """`faults`: what to do with the next requests; `answer`: a function of the prompt; `seen`: the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            http.seen.append((self.path, self.headers.get("Authorization"), body))
            fault = http.faults.pop(0) if http.faults else None
            if fault == "timeout":
                time.sleep(0.6)
            elif isinstance(fault, int):
                self.send_response(fault)
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(b"no such model" if fault == 404 else b"later")
                return
            content = http.answer(body["messages"][0]["content"])
            tree = {
                "choices": [{"message": {"content": content}}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 2},
            }
            payload = {
                "garbage": b"<html>",
                "empty": b"{}",
                "null": b'{"choices": [{"message": {"content": null}}]}',
                "list": b"[1]",
            }
            data = payload.get(fault, json.dumps(tree).encode())
            try:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data) + 9 * (fault == "cut")))
                self.end_headers()
                self.wfile.write(data)
            except BrokenPipeError:
                assert fault == "timeout"

        def log_message(self, *args):
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.faults, http.seen, http.answer = [], [], lambda prompt: "1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def files(tmp_path):
    for name in ("good", "bad"):
        lines = [{"record": n, "reference": f"reference {n}", "explanation": f"{name} text {n}"} for n in range(N)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def endpoint(server, **more):
    given = {"parallel": 2, "timeout_s": 0.3, "pause_s": 0.01, "retries": 3} | more
    return EndpointConfig(f"http://127.0.0.1:{server.server_port}/v1", "tiny-judge", **given)


def run(server, files, capsys, *, scores=False, **more):
    options = {"endpoint": endpoint(server), "json": True, "resamples": 50} | more
    against = "" if scores else str(files / "bad.jsonl")
    judge.main(JudgeConfig(predictions=str(files / "good.jsonl"), against=against, **options))
    return json.loads(capsys.readouterr().out)


def prefers_good(prompt):
    return "**Answer:** 1" if prompt.index("good text") < prompt.index("bad text") else "Explanation 2"


def test_a_judge_that_sees_quality_in_both_orders_gives_wins(server, files, capsys):
    server.answer = prefers_good
    scores = run(server, files, capsys, price_prompt=10.0, price_answer=100.0)
    assert (scores["win_rate"], scores["wins"], scores["disagree_rate"]) == (1, N, 0)
    assert scores["p"] == pytest.approx(2 / 2**N)
    assert scores["first_rate"] == 0.5
    assert (scores["requests"], scores["prompt_tokens"], scores["answer_tokens"]) == (2 * N, 200 * N, 4 * N)
    assert scores["cost"] == pytest.approx((200 * N * 10 + 4 * N * 100) / 1e6)
    assert scores["judge"] == "tiny-judge"


def test_a_judge_that_always_takes_the_first_gives_no_win(server, files, capsys):
    scores = run(server, files, capsys)
    assert (scores["win_rate"], scores["loss_rate"], scores["disagree_rate"]) == (0, 0, 1)
    assert scores["majority_class_rate"] == scores["first_rate"] == 1


def test_faults_are_tried_again_and_shown(server, files, capsys):
    server.answer = prefers_good
    server.faults = [429, "timeout", "garbage", 503, "empty", "null", "list", "cut"]
    scores = run(server, files, capsys, endpoint=endpoint(server, retries=8))
    assert scores["win_rate"] == 1
    assert scores["retries"] == 8
    assert scores["retry_reasons"] == "HTTP 429: 1, HTTP 503: 1, broken answer: 5, timeout: 1"


def test_answers_that_say_nothing_are_counted_and_not_guessed(server, files, capsys):
    server.answer = lambda prompt: "I cannot decide between explanation 1 and explanation 2."
    scores = run(server, files, capsys)
    assert (scores["unparsed_rate"], scores["win_rate"], scores["p"]) == (1, 0, 1)


def test_what_was_answered_is_not_asked_again(server, files, capsys):
    server.answer = prefers_good
    first = run(server, files, capsys)
    again = run(server, files, capsys)
    assert (first["requests"], again["requests"], again["cached"], again["cost"]) == (2 * N, 0, 2 * N, 0)
    assert again["win_rate"] == first["win_rate"]
    cache = files / "good.jsonl.judge.jsonl"
    cache.write_text(cache.read_text()[:-20])  # cut by an interruption
    assert run(server, files, capsys)["requests"] == 1


def test_a_judge_that_stops_answering_is_one_sentence_and_keeps_what_it_said(server, files, capsys):
    server.faults = [None] * 3 + [500] * 100
    with pytest.raises(InputError, match="gave no answer in 4 tries .last: HTTP 500.; what was answered is kept"):
        run(server, files, capsys, endpoint=endpoint(server, parallel=1))
    server.faults = []
    assert run(server, files, capsys)["cached"] == 3


def test_a_refusal_is_not_tried_again(server, files, capsys):
    server.faults = [404] * 100
    with pytest.raises(InputError, match="refused: HTTP 404 .no such model.; check endpoint.model and the key"):
        run(server, files, capsys, endpoint=endpoint(server, parallel=1))
    assert len(server.seen) == 1


def test_the_key_is_sent_and_written_nowhere(server, files, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-123")
    run(server, files, capsys)
    assert {key for _, key, _ in server.seen} == {"Bearer secret-123"}
    assert {path for path, _, _ in server.seen} == {"/v1/chat/completions"}
    assert not [file for file in files.iterdir() if "secret-123" in file.read_text()]


def test_scores_are_averaged_and_their_spread_is_told(server, files, capsys):
    server.answer = lambda prompt: "Score: 4/5" if "text 0" in prompt else "2"
    scores = run(server, files, capsys, scores=True)
    assert scores["score"] == pytest.approx((4 + 2 * (N - 1)) / N)
    assert (scores["score_4"], scores["score_2"]) == (1, N - 1)
    assert scores["majority_class_rate"] == pytest.approx((N - 1) / N)
    assert scores["score_ci"][0] <= scores["score"] <= scores["score_ci"][1]


def test_a_part_of_the_records_is_drawn_by_seed(server, files, capsys):
    assert run(server, files, capsys, limit=2)["n"] == 2
    assert len(server.seen) == 4


def test_a_local_model_judges_too(files, capsys, tmp_path):
    texts = [(judge.PROMPTS / "likert.txt").read_text()]
    create_language_model(texts, NewModelConfig(width=16, layers=1, heads=2, vocabulary=400), 1024, tmp_path / "lm", 0)
    judge.main(JudgeConfig(predictions=str(files / "good.jsonl"), model=str(tmp_path / "lm"), json=True, max_tokens=3))
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (scores["n"], scores["requests"]) == (N, N)
    assert scores["judge"].startswith("lm|sha256:")
    assert 0 <= scores["unparsed_rate"] <= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "1"), (" 2.\n", "2"), ("Tie", "tie"), ("**2**", "2"), ("Explanation 1", "1"), ("`tie`", "tie"),
        ("The better explanation is 2, since 1 repeats itself.", "2"),
        ("Explanation 1 is vague. Explanation 2 names the pool.\n\n2", "2"),
        ('{"winner": "1"}', "1"), ("I prefer the second.", "2"), ("Answer: tie", "tie"),
        ("Both 1 and 2 are fine", None), ("", None), ("3", None), ("no idea", None), ("12", None),
    ],
)  # fmt: skip
def test_verdicts_are_read_from_what_judges_write(text, expected):
    assert parse_pair(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", 4), ("4/5", 4), ("Score: 3", 3), ("I would rate this a 2 out of 5.", 2), ("**5**", 5), ("3.", 3),
        ("It is clear.\n\n4", 4), ("6", None), ("0", None), ("3.5", None), ("between 2 and 3", None), ("", None),
    ],
)  # fmt: skip
def test_scores_are_read_from_what_judges_write(text, expected):
    assert parse_score(text, 1, 5) == expected


def test_braces_in_texts_stay_as_they_are():
    assert fill("{a} {b} {c}", {"a": "{b}", "b": "x"}) == "{b} x {c}"


def test_a_win_counts_only_where_both_orders_agree():
    scores = pairwise(["1", "1", "2", "tie", None], ["2", "1", "1", "tie", "1"], 0, 0)
    assert [scores[f"{kind}_rate"] for kind in ("win", "disagree", "loss", "tie", "unparsed")] == [0.2] * 5
    assert (scores["majority_class_rate"], scores["first_rate"]) == (5 / 9, 5 / 7)


def test_the_sign_test_is_that_of_a_fair_coin():
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(3, 3) == sign_test(0, 0) == 1
    assert sign_test(8, 2) == pytest.approx(2 * (45 + 10 + 1) / 1024)


def test_scores_that_none_could_be_read_of_have_no_mean():
    scores = likert([None, None], 10, 0)
    assert (scores["unparsed_rate"], scores["score_sd"]) == (1, None)
    assert "score" not in scores


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one judge"),
        ({"model": "x", "endpoint": EndpointConfig("http://h/v1", "m")}, "give one judge"),
        ({"model": "x", "lowest": 5}, "lowest=5 must be below highest=5"),
        ({"model": "x", "max_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_configs_that_cannot_work_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        JudgeConfig(predictions="a", **options)


def test_an_address_of_another_scheme_is_refused():
    with pytest.raises(InputError, match="starts with http"):
        EndpointConfig("file:///etc/passwd", "m")
    with pytest.raises(InputError, match="belong together"):
        EndpointConfig("http://h/v1", "")


def test_a_prompt_without_the_text_is_refused(server, files, capsys, tmp_path):
    (tmp_path / "p.txt").write_text("Judge {first}.")
    with pytest.raises(InputError, match=r"has no \{second\}"):
        run(server, files, capsys, prompt=str(tmp_path / "p.txt"))
