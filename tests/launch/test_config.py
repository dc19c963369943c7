"""The config: sources in their order, every mistake named and all at once, nothing that could run code."""

import dataclasses
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launch import evaluate
from launch.config import REQUIRED, command, describe, flatten, keys, load, show
from launch.schema import TrainConfig
from metrics.errors import InputError


@dataclass(frozen=True)
class Optimiser:
    """A part."""

    lr: float = field(default=0.1, metadata={"help": "learning rate"})
    steps: int = field(default=5, metadata={"help": "number of steps"})

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"optimiser.steps={self.steps}: must be at least 1")


@dataclass(frozen=True)
class Schema:
    """A whole."""

    name: str = field(default="plain", metadata={"help": "a text"})
    verbose: bool = field(default=False, metadata={"help": "say more"})
    print_config: bool = field(default=False, metadata={"help": "print and stop"})
    optimiser: Optimiser = field(default_factory=Optimiser)
    later: Optimiser = field(default_factory=lambda: Optimiser(steps=9))

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise InputError("name=forbidden: choose another")


@dataclass(frozen=True)
class Needy:
    """A schema with a key that must be given."""

    raw: str = field(default=REQUIRED, metadata={"help": "the raw file"})
    count: int = field(default=1, metadata={"help": "how many"})


@pytest.fixture
def file(tmp_path):
    def write(text, name="a.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def mistakes(*arguments, schema=Schema):
    with pytest.raises(InputError) as error:
        load(schema, list(arguments))
    return str(error.value).splitlines()


def test_without_sources_the_defaults_of_each_part_hold():
    config, origins = load(Schema, [])
    assert config == Schema()
    assert config.later.steps == 9
    assert origins == {}


def test_later_files_override_earlier_ones_and_the_command_line_both(file):
    first = file("name: one\noptimiser: {lr: 1, steps: 1}\nlater: {lr: 1}")
    second = file("optimiser:\n  lr: 2\n  steps: 2\n", "b.yaml")
    config, origins = load(Schema, [first, second, "optimiser.lr=3"])
    assert flatten(config) == flatten(Schema()) | {
        "name": "one",
        "optimiser.lr": 3,
        "optimiser.steps": 2,
        "later.lr": 1,
    }
    assert origins == {
        "name": first,
        "later.lr": first,
        "optimiser.steps": second,
        "optimiser.lr": "command line",
    }


def test_the_command_line_wins_even_where_it_stands_before_the_file(file):
    assert load(Schema, ["optimiser.lr=3", file("optimiser: {lr: 2}")])[0].optimiser.lr == 3


def test_of_two_values_on_the_command_line_the_last_one_holds():
    assert load(Schema, ["name=a", "name=b"])[0].name == "b"


def test_the_result_is_the_schema_itself_frozen_at_every_level(file):
    config, _ = load(Schema, [file("optimiser: {lr: 2}")])
    assert type(config) is Schema
    assert type(config.optimiser) is Optimiser
    for part, name in ((config, "name"), (config.optimiser, "lr")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1)


@pytest.mark.parametrize(
    ("argument", "near"),
    [
        ("nme=x", "name"),
        ("optimiser.lrr=1", "optimiser.lr"),
        ("optimizer.lr=1", "optimiser.lr"),
        ("steps=3", "steps"),
        ("verbos=true", "verbose"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(argument, near):
    [line] = mistakes(argument)
    key = argument.split("=")[0]
    assert line.startswith(f"command line: unknown key `{key}`; did you mean `")
    assert near in line.split("did you mean")[1]


def test_an_unknown_key_in_a_file_names_the_file(file):
    path = file("optimiser:\n  rate: 1\n")
    assert mistakes(path)[0].startswith(f"{path}: unknown key `optimiser.rate`")


def test_a_part_cannot_be_replaced_by_a_value(file):
    assert "unknown key `optimiser`" in mistakes("optimiser=3")[0]
    assert "unknown key `name.first`" in mistakes(file("name: {first: x}"))[0]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("optimiser.steps=many", "takes a whole number, got 'many'"),
        ("optimiser.steps=1.5", "takes a whole number, got 1.5"),
        ("optimiser.lr=fast", "takes a number, got 'fast'"),
        ("optimiser.lr=[1, 2]", "takes a number, got [1, 2]"),
        ("verbose=perhaps", "takes true or false, got 'perhaps'"),
        ("optimiser.steps=null", "takes a whole number, got None"),
    ],
)
def test_a_value_of_another_type_says_what_the_key_takes(argument, expected):
    assert mistakes(argument) == [f"command line: `{argument.split('=')[0]}` {expected}"]


def test_whole_numbers_are_numbers_and_scientific_notation_is_read(file):
    assert load(Schema, ["optimiser.lr=2"])[0].optimiser.lr == 2.0
    assert load(Schema, ["optimiser.lr=1e-4"])[0].optimiser.lr == 1e-4
    assert load(Schema, [file("optimiser: {lr: 5e-5}")])[0].optimiser.lr == 5e-5


def test_a_missing_file_is_named(tmp_path):
    [line] = mistakes(str(tmp_path / "absent.yaml"))
    assert line.startswith(f"{tmp_path / 'absent.yaml'}: no such file")


def test_a_word_that_is_neither_file_nor_assignment_is_named():
    assert mistakes("verbose")[0].startswith("verbose: no such file")


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tname: x", "name: !!python/object/apply:os.getcwd []"])
def test_a_file_that_is_no_plain_yaml_is_refused_by_name(file, text):
    path = file(text)
    [line] = mistakes(path)
    assert line.startswith(f"{path}: cannot be read as YAML")


def test_a_file_that_holds_a_list_is_refused(file):
    assert "must hold `key: value` lines" in mistakes(file("- 1\n- 2\n"))[0]


def test_an_empty_file_changes_nothing(file):
    assert load(Schema, [file("# nothing here\n")])[0] == Schema()


def test_interpolation_is_refused_and_its_value_never_shown(file, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    path = file("name: ${oc.env:SECRET}\n")
    for argument, source in (
        (path, path),
        ("name=x${oc.env:SECRET}", "command line"),
        ("name=${verbose}", "command line"),
    ):
        [line] = mistakes(argument)
        assert line.startswith(f"{source}: `name` holds an interpolation")
        assert "hunter2" not in line


def test_a_required_key_that_is_absent_is_named_with_its_meaning():
    assert mistakes(schema=Needy) == ["`raw` must be given: the raw file"]
    assert load(Needy, ["raw=x"])[0] == Needy("x")


def test_all_mistakes_are_told_at_once(file, tmp_path):
    path, absent = file("optimiser: {rate: 1, steps: x}\nname: ${verbose}"), str(tmp_path / "absent.yaml")
    found = mistakes(path, absent, "verbose=perhaps", "later.steps=0", "nme=y")
    told = [
        f"{path}: unknown key `optimiser.rate`",
        f"{path}: `optimiser.steps` takes",
        f"{path}: `name` holds",
        f"{absent}: no such file",
        "command line: `verbose` takes",
        "command line: unknown key `nme`",
        "optimiser.steps=0: must be at least 1",
    ]
    assert len(found) == len(told)
    for line, beginning in zip(found, told, strict=True):
        assert line.startswith(beginning)


def test_rules_of_every_part_are_checked_at_once():
    assert mistakes("optimiser.steps=0", "later.steps=-1") == [
        "optimiser.steps=0: must be at least 1",
        "optimiser.steps=-1: must be at least 1",
    ]


def test_a_required_key_and_other_mistakes_are_told_together():
    found = mistakes("count=many", "cont=1", schema=Needy)
    assert len(found) == 3
    assert "`raw` must be given: the raw file" in found


def test_a_rule_of_the_whole_is_told():
    assert mistakes("name=forbidden") == ["name=forbidden: choose another"]


@pytest.mark.parametrize("value", ["a=b", "runs/lr=1e-3/x", "https://host/path?x=1&y=2", "two words"])
def test_values_may_contain_equals_signs_and_blanks(value):
    assert load(Schema, [f"name={value}"])[0].name == value


def test_the_path_of_a_file_may_contain_an_equals_sign_but_a_key_stays_a_key(file, tmp_path, monkeypatch):
    assert load(Schema, [file("name: found", "lr=1.yaml")])[0].name == "found"
    monkeypatch.chdir(tmp_path)
    file("verbose: true", "name=x")
    assert load(Schema, ["name=x"])[0] == Schema(name="x")


@pytest.mark.parametrize("value", ["007", "1e5", "2024_01", "yes", "explain why :", ""])
def test_a_text_stays_as_it_was_typed_whatever_yaml_would_read_in_it(value):
    assert load(Schema, [f"name={value}"])[0].name == value


def test_help_lists_every_key_with_type_default_and_meaning():
    lines = describe(Schema).splitlines()
    assert len(lines) == 7
    assert any("optimiser.lr: float = 0.1" in line and "learning rate" in line for line in lines)
    assert any("later.steps: int = 9" in line for line in lines)
    assert "raw: str = required" in describe(Needy)


def test_every_key_of_a_training_run_has_a_meaning_in_its_help():
    text = describe(TrainConfig)
    for key in keys(TrainConfig):
        assert key.help.strip(), f"{key.name} has no help"
        assert f"  {key.name}: " in text
        assert key.help in text


def test_keys_are_all_leaves_of_the_config():
    assert [key.name for key in keys(TrainConfig)] == list(flatten(TrainConfig()))


def test_defaults_told_by_help_are_those_of_the_config():
    assert {key.name: key.default for key in keys(TrainConfig)} == flatten(TrainConfig())


def test_the_shown_config_names_the_source_of_what_was_given(file):
    path = file("optimiser: {lr: 2}")
    lines = show(*load(Schema, [path, "name=x"])).splitlines()
    assert "optimiser.lr: 2.0  # " + path in lines
    assert "name: x  # command line" in lines
    assert "verbose: false" in lines


@pytest.mark.parametrize("name", ["plain", "", "explain the rating :", "yes", "# no comment", "12", "a 'b' \"c\""])
def test_the_shown_config_is_yaml_that_gives_the_same_config(file, name):
    config = Schema(name=name, optimiser=Optimiser(lr=1e-5))
    assert load(Schema, [file(show(config, {}))])[0] == config


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("stage=explain", "stage=explain: use all, rating"),
        ("loss_spike=0.5", "loss_spike=0.5: give 0 (never stop) or a number above 1"),
        ("logger=mlflow", "logger=mlflow: use csv, wandb or none"),
        ("zero.stage=4", "zero.stage=4"),
        ("zero.offload_param=true", "zero.offload_param=true needs zero.stage=3"),
        ("hardware.accelerator=tpu", "hardware.accelerator=tpu"),
        ("hardware.precision=fp16", "hardware.precision=fp16"),
        ("ppo.mini_batch_size=48", "ppo.mini_batch_size=48 does not divide ppo.rollout_batch_size=128"),
        ("ppo.mini_batch_size=256", "ppo.mini_batch_size=256 does not divide"),
        ("ppo.hqar_credit=both", "ppo.hqar_credit=both"),
        ("ppo.iterations=0", "ppo.iterations=0"),
        ("ppo.algorithm=dpo", "ppo.algorithm=dpo: use ppo, grpo or rloo"),
        ("ppo.algorithm=grpo", "set ppo.samples_per_prompt to 2 or more"),
        ("ppo.samples_per_prompt=3", "does not divide ppo.rollout_batch_size=128"),
        ("hqar.reduce=max", "hqar.reduce=max"),
        ("hqar.clip=0.5", "hqar.clip=0.5"),
        ("graph.relations=none", "graph.relations=none"),
        ("rating.model.heads=3", "heads=3"),
        ("rating.fit.epochs=0", "epochs=0"),
        ("explanation.fit.epochs=1", "explanation.connector_epochs=1 leaves no epoch of explanation.fit.epochs=1"),
        ("explanation.connector_epochs=-1", "explanation.connector_epochs=-1"),
    ],
)
def test_rules_of_a_training_run_name_the_key_and_its_value(argument, expected):
    [line] = mistakes(argument, schema=TrainConfig)
    assert expected in line


def test_no_reward_at_all_is_refused_naming_both_keys():
    [line] = mistakes("ppo.lambda_ccr=0", "ppo.lambda_hqar=0", schema=TrainConfig)
    assert "ppo.lambda_ccr=0 and ppo.lambda_hqar=0" in line


def run(monkeypatch, *arguments, main=lambda config: None, schema=Schema):
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    command(main, schema, "What it does.")


def test_a_command_calls_main_with_the_config(monkeypatch):
    seen = []
    run(monkeypatch, "name=x", main=seen.append)
    assert seen == [Schema(name="x")]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_prints_what_it_does_and_every_key_and_runs_nothing(monkeypatch, capsys, flag):
    run(monkeypatch, "nonsense=1", flag, main=pytest.fail)
    printed = capsys.readouterr().out
    assert printed.startswith("What it does.")
    assert describe(Schema) in printed


def test_print_config_prints_and_runs_nothing(monkeypatch, capsys):
    run(monkeypatch, "print_config=true", "name=x", main=pytest.fail)
    assert "name: x  # command line" in capsys.readouterr().out


def test_mistakes_are_printed_a_line_each_without_traceback_and_exit_with_two(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "nme=1", "verbose=perhaps", main=pytest.fail)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: command line: ") for line in lines)


def test_a_users_mistake_found_later_is_told_the_same_way(monkeypatch, capsys):
    def main(config):
        raise InputError("the corpus is empty; choose another")

    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, main=main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the corpus is empty; choose another\n"


def test_our_own_faults_keep_their_traceback(monkeypatch):
    def main(config):
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        run(monkeypatch, main=main)


def test_a_reader_that_stops_reading_ends_it_quietly():
    """The other end of the pipe is closed before anything is written, as after `| head` has seen enough."""
    script = Path(evaluate.__file__)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, str(script), "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_pipe_that_breaks_elsewhere_is_no_quiet_end(monkeypatch):
    def main(config):
        raise BrokenPipeError("a socket")

    with pytest.raises(BrokenPipeError, match="a socket"):
        run(monkeypatch, main=main)
