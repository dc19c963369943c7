"""Dataclasses + YAML files + key=value -> one typed, frozen config. Every mistake is reported, all at once.

The schema is a (nested) frozen dataclass whose fields carry `metadata={"help": ...}`. Sources override each other from
left to right: the dataclass defaults, each YAML file, each key=value. Values never name code, and `${...}`
interpolation is refused: it could read the environment, and with it secrets, into logs.
"""

import dataclasses
import difflib
import io
import json
import os
import re
import select
import signal
import sys
import time
import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metrics.errors import InputError

Schema = TypeVar("Schema")
REQUIRED = "???"  # OmegaConf's marker for a value that must be given
# Tokens of Hugging Face, GitHub and those who copied OpenAI; a W&B key; a password within an address.
SECRET = re.compile(r"\b(hf_|gh[opsu]_|sk-)[\w-]{16,}|^[0-9a-f]{40}$|://[^/\s:@]+:[^/\s@]+@")


@dataclass(frozen=True)
class Key:
    """One leaf of a schema."""

    name: str
    type: Any
    default: Any
    help: str
    is_id: bool = False  # an id of the user's data, which may look like a token


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """Yields every leaf of a nested dataclass in the order of its fields."""
    types = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if not field.init:
            continue
        name, kind = prefix + field.name, types[field.name]
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(kind):
            inner = {key.name: key for key in keys(typing.cast(type, kind), name + ".")}
            for leaf, value in _leaves(dataclasses.asdict(default), name + "."):
                yield dataclasses.replace(inner[leaf], default=value)
        else:
            yield Key(name, kind, default, field.metadata.get("help", ""), field.metadata.get("is_id", False))


def _leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, prefix + str(name) + ".")
        else:
            yield prefix + str(name), value


def load(schema: type[Schema], arguments: list[str]) -> tuple[Schema, dict[str, str]]:
    """Merges the sources of a command line into one config.

    Returns the config and, for each key given by a source, the source that set it last. Raises `InputError` with one
    line for each mistake: a missing file, an unknown key (with the nearest known one), a value of another type, a
    required key that is absent, a rule between keys that is broken.
    """
    known = {key.name: key for key in keys(schema)}
    merged = OmegaConf.structured(schema)
    origins: dict[str, str] = {}
    mistakes: list[str] = []
    _unlock(merged)
    for source, name, value in _given(arguments, known, mistakes):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4) or difflib.get_close_matches(
                name.rsplit(".", 1)[-1], known, n=1, cutoff=0.3
            )
            hint = f"; did you mean `{near[0]}`?" if near else ""
            mistakes.append(f"{source}: unknown key `{name}`{hint}")
            continue
        if isinstance(value, str) and "${" in value:
            mistakes.append(
                f"{source}: `{name}` holds an interpolation (`${{`), which is not supported; write the value"
            )
            continue
        if isinstance(value, str) and SECRET.search(value) and not known[name].is_id:
            mistakes.append(
                f"{source}: `{name}` holds what looks like a key or token, and configs are written to disk; give it "
                "by the environment (WANDB_API_KEY, HF_TOKEN) instead"
            )
            continue
        try:
            OmegaConf.update(merged, name, value)
            origins[name] = source
        except OmegaConfBaseException:
            mistakes.append(f"{source}: `{name}` takes {_type_name(known[name].type)}, got {value!r}")
    missing = [name for name in known if OmegaConf.is_missing(_node(merged, name), name.rsplit(".", 1)[-1])]
    mistakes += [f"`{name}` must be given: {known[name].help}" for name in missing]
    config = None if missing else _build(schema, OmegaConf.to_container(merged), mistakes)
    if mistakes:
        raise InputError("\n".join(mistakes))
    return typing.cast(Schema, config), origins


def _unlock(node: DictConfig) -> None:
    """Frozen dataclasses give read-only nodes, at every level; the merge must write to them."""
    OmegaConf.set_readonly(node, False)
    for name in node:
        if isinstance(child := node._get_node(name), DictConfig):
            _unlock(child)


def _given(arguments: list[str], known: dict[str, Key], mistakes: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Yields (source, key, value) of every YAML file, then of every key=value argument, as they stand."""
    files = [argument for argument in arguments if _is_file(argument, known)]
    for path in files:
        if not Path(path).is_file():
            mistakes.append(f"{path}: no such file (arguments are YAML files, then key=value; --help lists the keys)")
            continue
        try:
            tree = OmegaConf.to_container(OmegaConf.load(path))
        except Exception as error:  # the YAML parser raises several unrelated types
            mistakes.append(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}")
            continue
        if not isinstance(tree, dict):
            mistakes.append(f"{path}: must hold `key: value` lines")
            continue
        for name, value in _leaves(tree):
            yield path, name, value
    for name, _, text in (argument.partition("=") for argument in arguments if argument not in files):
        if name in known and known[name].type is str:
            yield "command line", name, text  # as typed: YAML would read 007 as a number and `a :` as a mapping
            continue
        try:
            yield "command line", name, yaml.safe_load(text)
        except yaml.YAMLError as error:
            mistakes.append(f"command line: `{name}`: cannot be read: {' '.join(str(error).split())}")


def _is_file(argument: str, known: Collection[str]) -> bool:
    """Whether an argument names a YAML file, in whose path there may be an equals sign (`runs/lr=0.1/config.yaml`)."""
    name, equals, _ = argument.partition("=")
    return not equals or (name not in known and Path(argument).is_file())


def _node(merged: Any, name: str) -> Any:
    parent = name.rpartition(".")[0]
    return OmegaConf.select(merged, parent) if parent else merged


def _build(schema: type, tree: Any, mistakes: list[str]) -> Any:
    """Instantiates innermost first, so that the rules of every part are checked even if one of them is broken."""
    types = typing.get_type_hints(schema)
    values, before = {}, len(mistakes)
    for field in dataclasses.fields(schema):
        kind, value = types[field.name], tree[field.name]
        values[field.name] = (
            _build(typing.cast(type, kind), value, mistakes) if dataclasses.is_dataclass(kind) else value
        )
    if len(mistakes) > before:
        return None
    try:
        return schema(**values)
    except InputError as error:
        mistakes.extend(str(error).splitlines())
        return None


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind, str(kind).replace("typing.", ""))


def describe(schema: type) -> str:
    """The text of --help: every key with type, default and meaning."""
    rows = []
    for key in keys(schema):
        default = "required" if key.default == REQUIRED else repr(key.default)
        kind = key.type.__name__ if isinstance(key.type, type) else str(key.type)
        rows.append((f"{key.name}: {kind} = {default}", key.help))
    width = min(54, max(len(left) for left, _ in rows))
    return "\n".join(f"  {left:<{width}}  {meaning}" for left, meaning in rows)


def show(config: Any, origins: dict[str, str]) -> str:
    """The merged config as YAML, each value that a source gave followed by that source."""
    lines = []
    for name, value in _leaves(dataclasses.asdict(config)):
        text = OmegaConf.to_yaml({"value": value}).removeprefix("value:").strip() if value != "" else '""'
        lines.append(f"{name}: {text}" + (f"  # {origins[name]}" if name in origins else ""))
    return "\n".join(lines)


def flatten(config: Any) -> dict[str, Any]:
    """Dotted key -> value of a config."""
    return dict(_leaves(dataclasses.asdict(config)))


def command(main: Callable[[Any], None], schema: type, doc: str | None) -> None:
    """Runs an entry point: parses `sys.argv`, calls `main(config)`.

    A user's mistake prints one sentence and exits with status 2; a traceback is only ever a fault of ours. What the
    streams cannot encode is printed as escapes. When the reader of standard output has gone (`| head`) it ends as other
    tools do: quietly, with SIGPIPE's status.
    """
    _print_any_text()
    try:
        _run(main, schema, doc, sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        fail(error)
    except BrokenPipeError:
        if not _reader_left():
            raise  # a socket, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        raise SystemExit(128 + signal.SIGPIPE) from None


def _refuse_undecoded(arguments: list[str]) -> None:
    """Raise InputError for names that Python has not read as UTF-8: libraries would look for other files by them."""
    encoding = sys.getfilesystemencoding()
    for argument in arguments:
        if argument.isascii():
            continue
        if encoding != "utf-8":
            raise InputError(f"command line: {argument!a} is read as {encoding} in this locale: set PYTHONUTF8=1.")
        if re.search("[\ud800-\udfff]", argument):
            raise InputError(
                f"command line: {argument!a} is not in UTF-8: rename the file, or write the value in UTF-8."
            )


def _print_any_text() -> None:
    """Characters that the streams cannot encode (ASCII, Latin-1; half a surrogate pair in any) come as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(main: Callable[[Any], None], schema: type, doc: str | None, arguments: list[str]) -> None:
    if {"--help", "-h"} & set(arguments):
        print(f"{doc}\nKeys (YAML files, then key=value):\n{describe(schema)}")
        return
    _refuse_undecoded(arguments)
    config: Any
    config, origins = load(schema, arguments)
    if getattr(config, "print_config", False):
        print(show(config, origins))
        return
    main(config)


def _reader_left() -> bool:
    """Has the other end of standard output been closed?"""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # no file of the system's
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def fail(error: InputError) -> typing.NoReturn:
    """Prints a user's mistake, once a machine, and exits with status 2."""
    text = "\n".join(f"error: {line}" for line in str(error).splitlines())
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr)
    tell_torchrun(text)
    raise SystemExit(2)


def tell_torchrun(text: str) -> None:
    """Has torchrun end with `text`, why this rank ended; does nothing where torchrun did not start it.

    It prints thirty lines when a rank fails: its own traceback and a table, and of the ranks what they have written to
    the file that it names to each. Without one the last line is "To enable traceback see: https://...".
    """
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        now = str(int(time.time()))
        Path(path).write_text(json.dumps({"message": {"message": text, "extraInfo": {"timestamp": now}}}))
