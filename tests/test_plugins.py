"""Look-up of engines and environments, and what a user is told when it fails."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from rolloutops.config.plan import make_plan
from rolloutops.config.plugins import BUILT_IN, UNDECLARED, Plugin, find, names
from rolloutops.config.recipe_file import load
from rolloutops.errors import MissingExtra, UsageError
from rolloutops.types import Rollout, Task

MINE = """
import my_helper
from dataclasses import dataclass

@dataclass
class Environment:
    bonus: float

    def verify(self, task, rollout):
        return self.bonus + my_helper.ONE

def make(bonus: float = 0.0, name: str = "x", *, shout: bool = False):
    return Environment(bonus)

def needs(level: int):
    return Environment(level)

def broken():
    raise OSError("no such disk")

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe's folder with a user's environment; what is imported from it is forgotten afterwards."""
    (tmp_path / "my_env.py").write_text(MINE)
    (tmp_path / "my_helper.py").write_text("ONE = 1.0\n")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "judge.py").write_text("from . import words\ndef make():\n    return words\n")
    (tmp_path / "my_package" / "words.py").write_text("def verify(task, rollout):\n    return 0.5\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def reward(plugin: Plugin, **settings: object) -> float:
    return plugin.make(settings).verify(Task("d", "1", {}, []), Rollout([], ""))


def test_built_in_names_point_to_factories() -> None:
    for kind in BUILT_IN:
        for name in BUILT_IN[kind]:
            plugin = find(kind, name)
            assert plugin.target.startswith(f"rolloutops.{kind}s.{name}:")
            assert kind == "environment" or isinstance(plugin.load(), type), "an engine is made by its class"
            assert name in names(kind)
    assert list(find("environment", "exact_match").takes()) == ["strip", "ignore_case", "extract"]


def test_a_users_file_package_and_module(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reward(find("environment", "my_env.py:make", mine), bonus=1) == 2.0
    assert reward(find("environment", "my_env.py", mine)) == 1.0
    assert reward(find("environment", f"{mine}/my_env.py:needs"), level=3) == 4.0
    assert reward(find("environment", "my_package.judge:make", mine)) == 0.5
    assert reward(find("environment", "my_env:Environment", mine), bonus=0.25) == 1.25
    monkeypatch.chdir(mine)
    assert reward(find("environment", "my_env.py:make")) == 1.0


def test_an_entry_point(mine: Path) -> None:
    info = mine / "their_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rolloutops.environments]\ntheirs = my_env:make\n")
    sys.path.append(str(mine))
    assert "theirs" in names("environment")
    assert "theirs" not in names("engine")
    assert reward(find("environment", "theirs"), bonus=2.0) == 3.0


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        (
            "exact_mach",
            {},
            "there is no environment 'exact_mach', did you mean 'exact_match'? There are exact_match, mc",
        ),
        ("qqq", {}, "there is no environment 'qqq'. There are exact_match"),
        (
            "exact_match",
            {"stripp": True},
            "has no setting 'stripp', did you mean 'strip'? (it takes strip, ignore_case",
        ),
        ("exact_match", {"strip": "no"}, "setting strip must be true or false, not 'no'"),
        ("multi_step", {"max_results": True}, "setting max_results must be a whole number, not True"),
        ("remote", {"headers": {"x": 3}}, "setting headers may hold only texts; found x = 3"),
        ("no_such.py:make", {}, "there is no file"),
        ("no_such:make", {}, "no module 'no_such' in the working directory"),
        ("no_such.module:make", {}, "cannot be imported: No module named 'no_such'"),
        ("my_env.py:mak", {}, "names 'mak', which"),
        ("my_env.py:number", {}, "must be a function or class that makes one, not 3"),
        ("my_env.py:needs", {}, "needs the setting 'level' (it takes level)"),
        ("my_env.py:broken", {}, "cannot be created: OSError: no such disk"),
        ("wrong.py:make", {}, "line 2 fails: SyntaxError"),
        ("needy.py:make", {}, "cannot be imported: No module named 'not_installed_anywhere'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(name: str, settings: dict[str, object], told: str, mine: Path) -> None:
    (mine / "wrong.py").write_text("\ndef make(:\n")
    (mine / "needy.py").write_text("import not_installed_anywhere\n")
    with pytest.raises(UsageError) as error:
        find("environment", name, mine).make(settings)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_extra_has_its_install_line(mine: Path) -> None:
    plugin = Plugin("engine", "vllm", f"{mine}/needs_vllm.py:make", "vllm")
    (mine / "needs_vllm.py").write_text("import not_installed_anywhere\n")
    with pytest.raises(MissingExtra) as error:
        plugin.load()
    assert "pip install 'rolloutops[vllm]'" in str(error.value)
    assert "'cpu'" in str(error.value)


def test_version_changes_with_code_settings_and_packages(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = find("environment", "my_env.py:make", mine)
    first = plugin.version({"bonus": 1})
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert plugin.version({"bonus": 1}) == first
    assert plugin.version({"bonus": 2}) != first
    assert plugin.version({"shout": True, "bonus": 1}) == plugin.version({"bonus": 1, "shout": True})
    assert find("environment", "my_env.py:needs", mine).version({"bonus": 1}) != first
    (mine / "my_helper.py").write_text("ONE = 2.0\n")
    second = plugin.version({"bonus": 1})
    assert second != first, "a file beside it that it imports is part of the verifier"
    (mine / "unrelated.py").write_text("x = 1\n")
    assert plugin.version({"bonus": 1}) == second
    (mine / "my_env.py").write_text(MINE + '\nPACKAGES = ("pytest", "not-installed")\n')
    third = plugin.version({"bonus": 1})
    assert third != second
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1")
    assert plugin.version({"bonus": 1}) != third

    verifier = find("environment", "my_package.judge:make", mine)
    before = verifier.version({})
    (mine / "my_package" / "words.py").write_text("def verify(task, rollout):\n    return 0.75\n")
    assert verifier.version({}) != before


def test_version_is_the_same_in_another_folder_and_imports_nothing(mine: Path) -> None:
    copy = mine / "copy"
    copy.mkdir()
    for name in ("my_env.py", "my_helper.py"):
        (copy / name).write_text((mine / name).read_text())
    assert find("environment", "my_env.py", mine).version({}) == find("environment", "my_env.py", copy).version({})
    (mine / "explodes.py").write_text("raise SystemExit('imported')\n")
    assert find("environment", "explodes.py", mine).version({})
    assert find("environment", "explodes:make", mine).version({})


def test_two_recipes_may_both_have_a_my_env(mine: Path) -> None:
    other = mine / "other"
    other.mkdir()
    (other / "my_env.py").write_text("def make():\n    return 'the other'\n")
    assert find("environment", "my_env.py", other).make({}) == "the other"
    assert reward(find("environment", "my_env.py", mine)) == 1.0


def test_look_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rolloutops.config.plugins import find, names; find('engine', 'vllm'); names('engine');"
        "find('environment', 'math').version({});"
        "heavy = {'duckdb', 'pyarrow', 'polars', 'vllm', 'openai', 'aiohttp', 'sympy', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")


OWN_ENGINE = """
class Own:
    {declares}
    def __init__(self, model: str = "own", speed: int = 1, tone: str = "dry", timeout: float = 1.0): ...
    async def start(self): ...
    async def answer(self, call): ...
    async def stop(self): ...
"""


@pytest.mark.parametrize(
    ("declares", "counts"),
    [
        ("", {"speed", "tone"}),
        ("operational = ('speed',)", {"tone", "timeout"}),
        ("operational = frozenset()", {"speed", "tone", "timeout"}),
    ],
    ids=["by name", "declared", "none"],
)
def test_an_engine_declares_which_settings_are_no_part_of_a_policy_nor_of_a_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declares: str, counts: set[str]
) -> None:
    (tmp_path / "own.py").write_text(OWN_ENGINE.format(declares=declares))
    monkeypatch.chdir(tmp_path)
    judge = find("environment", "llm_judge")
    prints, versions = {}, {}
    for name, value in {"nothing": None, "speed": 2, "tone": "warm", "timeout": 9.0}.items():
        args = {} if value is None else {name: value}
        recipe = 'engine = "own.py:Own"\nengine_args = { ' + "".join(f"{k} = {v!r}" for k, v in args.items()) + " }\n"
        (tmp_path / "r.toml").write_text(f'[datasets.d]\ninput = "x"\n[collect]\npolicy = "m"\n{recipe}')
        prints[name] = make_plan(load("r.toml")).fingerprints["d"]["m"]
        versions[name] = judge.version({"engine": "own.py:Own", "engine_args": args})
    assert {name for name in prints if prints[name] != prints["nothing"]} == counts
    assert {name for name in versions if versions[name] != versions["nothing"]} == counts


@pytest.mark.parametrize(
    ("declares", "said"),
    [
        ("operational = 'speed'", "operational must be a list of settings, not 'speed'"),
        ("operational = ('sped',)", "declares 'sped' operational and has no such setting, did you mean 'speed'?"),
    ],
)
def test_settings_that_are_declared_operational_and_are_none(tmp_path: Path, declares: str, said: str) -> None:
    (tmp_path / "own.py").write_text(OWN_ENGINE.format(declares=declares))
    with pytest.raises(UsageError, match=re.escape(said)):
        find("engine", "own.py:Own", tmp_path).operational()


def test_the_settings_that_shipped_engines_declare_operational_are_those_of_earlier_versions() -> None:
    """Else policies of earlier workspaces would be others now."""
    later = {"head_server"}
    for name in BUILT_IN["engine"]:
        plugin = find("engine", name)
        assert set(plugin.operational()) - later == UNDECLARED & set(plugin.takes()), name
