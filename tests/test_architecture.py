"""What the sources promise of themselves: directions of imports, sizes, docstrings, no way to run foreign code."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("callbacks", "configs", "datamodules", "launch", "lightning_modules", "metrics", "models")

# package -> packages of ours that it may import. callbacks are used by launch alone; nothing imports launch.
MAY_IMPORT = {
    "launch": {"callbacks", "datamodules", "lightning_modules", "metrics", "models"},
    "callbacks": {"datamodules", "lightning_modules", "metrics", "models"},
    "lightning_modules": {"datamodules", "metrics", "models"},
    "datamodules": {"metrics"},
    "models": {"metrics"},
    "metrics": set(),
    "configs": set(),
}
TRAINERS = {"pytorch_lightning", "lightning", "lightning_fabric", "deepspeed"}
# The corpus must be readable, and metrics computable, without waiting for torch.
WITHOUT_TORCH = [
    *sorted((ROOT / "metrics").rglob("*.py")),
    *sorted((ROOT / "datamodules" / "importers").rglob("*.py")),
    *(
        ROOT / "datamodules" / f"{name}.py"
        for name in (
            *("build", "concepts", "corpus", "extraction", "mentions", "narrowing", "noun_chunks", "opinions"),
            *("records", "sentences", "splits", "tables"),
        )
    ),
]

SOURCES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"), str(path))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(tree):
    """The top-level packages that a module imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module.split(".")[0]


def definitions(tree, kinds=(ast.FunctionDef, ast.AsyncFunctionDef)):
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def calls(tree):
    """(dotted name, call) of every call by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def each_source(check):
    """What `check(tree)` finds, by file; the message of the assertion is the list of offences."""
    return {str(path): found for path, tree in SOURCES.items() if (found := list(check(tree)))}


def test_the_sources_are_found():
    assert len(SOURCES) > 40
    assert {path.parts[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    allowed = MAY_IMPORT[package] | {package}
    for path, tree in SOURCES.items():
        if path.parts[0] == package:
            assert set(imported(tree)) & set(PACKAGES) <= allowed, path


def test_models_and_metrics_know_no_trainer():
    for path, tree in SOURCES.items():
        if path.parts[0] in ("models", "metrics"):
            assert not set(imported(tree)) & TRAINERS, path


@pytest.mark.parametrize("path", WITHOUT_TORCH, ids=lambda path: path.name)
def test_corpus_and_metrics_do_not_import_torch(path):
    assert not set(imported(ast.parse(path.read_text(encoding="utf-8")))) & {"torch", "transformers", *TRAINERS}


def test_no_file_has_more_than_400_lines():
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_no_function_has_more_than_60_lines():
    def too_long(tree):
        return [f.name for f in definitions(tree) if f.end_lineno - f.lineno + 1 > 60]

    assert each_source(too_long) == {}


def public(body, inside=""):
    """(name, node) of every function and class that others can name: at top level and in public classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield inside + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{inside}{node.name}.")


def test_every_module_and_every_public_function_and_class_has_a_docstring():
    def mute(tree):
        if tree.body and not ast.get_docstring(tree):
            yield "the module itself"
        yield from (name for name, node in public(tree.body) if not ast.get_docstring(node))

    assert each_source(mute) == {}


FORBIDDEN = {"eval", "exec", "compile", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}


def test_nothing_runs_text_as_code():
    assert each_source(lambda tree: [name for name, _ in calls(tree) if name in FORBIDDEN]) == {}


def test_nothing_unpickles():
    """Reading pickles of others takes an `Unpickler` that resolves no class; the loaders of pickle itself are out."""

    def unpickles(tree):
        names = {f"{module}.{name}" for module in ("pickle", "cPickle", "dill", "joblib") for name in ("load", "loads")}
        return [name for name, _ in calls(tree) if name in names]

    assert each_source(unpickles) == {}


def keyword_of(call, name):
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), None)


def test_torch_loads_weights_only():
    def unsafe(tree):
        for name, call in calls(tree):
            if name == "torch.load" and keyword_of(call, "weights_only") != "True":
                yield name
            if name in ("np.load", "numpy.load") and keyword_of(call, "allow_pickle") not in (None, "False"):
                yield name

    assert each_source(unsafe) == {}


def test_no_shell_and_no_code_of_models():
    def unsafe(tree):
        for name, call in calls(tree):
            for option in ("shell", "trust_remote_code"):
                if keyword_of(call, option) not in (None, "False"):
                    yield f"{name}({option}=...)"

    assert each_source(unsafe) == {}


def test_whatever_is_loaded_from_the_hub_refuses_its_code_by_name():
    def silent(tree):
        for name, call in calls(tree):
            loads = name.startswith("Auto") and name.endswith(".from_pretrained")
            if loads and keyword_of(call, "trust_remote_code") != "False":
                yield name

    assert each_source(silent) == {}


def test_no_exception_is_swallowed():
    def swallowed(tree):
        handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        return [ast.unparse(h)[:60] for h in handlers if h.type is None or isinstance(h.body[0], ast.Pass)]

    assert each_source(swallowed) == {}


def test_no_assertion_guards_the_user():
    assert each_source(lambda tree: [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]) == {}


def test_the_package_list_is_that_of_the_folders():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    folders = [path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.py")]
    found = {".".join(folder.parts) for folder in folders if folder.parts[0] in PACKAGES}
    assert set(listed) == found
    assert len(listed) == len(set(listed))
    assert not [folder for folder in folders if folder.parts[0] == "tests"]


def test_every_folder_with_sources_is_a_package():
    folders = {path.parent for path in SOURCES}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
    assert not list((ROOT / "tests").rglob("__init__.py"))
