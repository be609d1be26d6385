"""The plan: what recipe, flags and plug-ins come to is worked out once in a command, and passed on."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest

from rolloutops.cli.main import main
from rolloutops.config import plan as planning
from rolloutops.config.plan import Plan, VerifierVersion, make_plan
from rolloutops.config.plugins import Plugin
from rolloutops.config.recipe import Recipe
from rolloutops.config.recipe_file import load
from tests.helpers import sums, write_jsonl
from tests.test_house import FILES, imported, module, parsed

RECIPE = """
data = "w"
[datasets.one]
input = "tasks.jsonl"
environment = "exact_match"
[datasets.two]
input = "tasks.jsonl"
environment = "own.py"
[policies.a]
[policies.b]
responses_create_params = { temperature = 0.5 }
[collect]
engine = "scripted"
num_repeats = 2
[metrics]
steps = ["metrics/rewards"]
[filter.good]
use = "filter/reward"
[build.sft]
use = "build/sft_messages"
"""

ONCE = [
    (Plan, "__init__", 1),
    (Recipe, "as_json", 1),
    (Recipe, "collect_of", 6),  # of each dataset by two policies, and by any that the recipe does not name
    (Plugin, "version", 2),  # of each dataset's verifier
    (Plugin, "equal_versions", 2),
    (planning, "engine_jobs", 1),
    (planning, "policy_fingerprint", 4),
]
"""What a command works out, and how often: once for each that there is."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two datasets with verifiers, one of them an own one, and two policies."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "tasks.jsonl", sums(3))
    own = "class Own:\n    def verify(self, task, rollout):\n        return 1.0\n\n\ndef make():\n    return Own()\n"
    (tmp_path / "own.py").write_text(own)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


@pytest.mark.parametrize("command", ["collect", "run"])
def test_a_command_works_everything_out_once(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    calls = Counter[str]()
    for place, name, _ in ONCE:
        monkeypatch.setattr(place, name, counted(getattr(place, name), calls))
    assert main([command, "recipe.toml"]) == 0
    assert calls == {name: times for _, name, times in ONCE}


def counted(function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    """A function that counts its calls under its name."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        calls[function.__name__] += 1
        return function(*args, **kwargs)

    return call


def test_verdicts_of_an_earlier_version_look_up_no_verifier_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(load("recipe.toml"))
    calls = Counter[str]()
    rows = plan.rows
    monkeypatch.setattr(Plugin, "version", counted(Plugin.version, calls))
    pinned = plan.with_pins({"one": VerifierVersion("mcqa", "1-abc")})
    names = [(row["verifier"], row["verifier_version"]) for row in pinned.rows]
    assert names[:2] == [("mcqa", "1-abc")] * 2
    assert names[2:] == [(row["verifier"], row["verifier_version"]) for row in rows[2:]]
    assert not calls


def test_an_engine_that_is_none_is_refused_before_anything_is_written(folder: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE.replace('"scripted"', '"scriptd"'))
    for command in ("collect", "run"):
        assert main([command, "recipe.toml"]) == 2
        assert not (folder / "w").exists()


def test_the_plan_passes_through_at_most_8_modules() -> None:
    """From a command to its work: the longest way through modules that import each other and name the plan."""
    takes = {
        module(path): {name for _, name in imported(path)}
        for path in FILES
        if any(isinstance(node, ast.Name) and node.id in ("Plan", "plan_of") for node in ast.walk(parsed(path)))
    }

    @cache
    def longest(name: str) -> list[str]:
        ways = [longest(below) for below in takes[name] if below in takes and below != name]
        return [name, *max(ways, key=len, default=[])]

    commands = [longest(name) for name in takes if name.startswith("cli.commands.")]
    assert all(len(way) <= 8 for way in commands), max(commands, key=len)
