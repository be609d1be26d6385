"""The hooks of an environment: a misspelt one is named, a name that only looks like one is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rolloutops.environments.hooks import refuse_misspelt_hooks
from rolloutops.errors import UsageError
from tests.helpers import rolloutops, sums, write_jsonl


def made(**names: Any) -> Any:
    """An environment with these names beside its verify."""
    return type("Mine", (), {"verify": lambda self, task, rollout: 1.0, **names})()


def method(self: Any, *arguments: Any) -> None: ...


@pytest.mark.parametrize(
    ("names", "hook"),
    [
        ({"run": "process"}, "runs"),
        ({"Runs": "inline"}, "runs"),
        ({"cpuBound": True}, "cpu_bound"),
        ({"cpu_bond": method}, "cpu_bound"),
        ({"paralel": 4}, "parallel"),
        ({"longset": 30.0}, "longest"),
        ({"tool": [{"type": "function"}]}, "tools"),
        ({"prefligth": method}, "preflight"),
        ({"golden": staticmethod(method)}, "gold"),
        ({"beginn": method}, "begin"),
        ({"pures": True}, "pure"),
    ],
)
def test_a_misspelt_hook_is_refused_with_the_near_name(names: dict[str, Any], hook: str) -> None:
    with pytest.raises(UsageError, match=f"has '{next(iter(names))}', .* did you mean '{hook}'"):
        refuse_misspelt_hooks("mine.py:make", made(**names))


@pytest.mark.parametrize(
    "names",
    [
        {"recall": method, "hold": method, "score": method, "normalize": method},
        {"run": method, "rules": ["a"], "turns": 3},
        {"golden": Path("golden.jsonl"), "tool": "search", "paralel": "no"},
        {"_golden": method},
        {"call": method, "calls": 3, "gold": method, "golds": method, "tools": [], "tool": [], "cpu_bound": True},
    ],
)
def test_other_names_are_left_alone(names: dict[str, Any]) -> None:
    refuse_misspelt_hooks("mine.py:make", made(**names))


async def awaited(self: Any, *arguments: Any) -> None: ...


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"runs": "processes"}, "has runs = 'processes', did you mean 'process'.*'inline', 'process', 'async'"),
        ({"runs": True}, "has runs = True: it must be one of"),
        ({"runs": "inline", "verify": awaited}, "has runs = 'inline', but its verify is a coroutine function"),
    ],
)
def test_runs_that_is_none_of_the_three_is_refused(names: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"environment 'mine.py:make' {sentence}"):
        refuse_misspelt_hooks("mine.py:make", made(**names))


def test_check_and_collect_refuse_a_misspelt_verify(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(2))
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def verfy(self, task, rollout):\n        return 1.0\n\ndef make():\n    return Mine()\n"
    )
    words = ("--input=tasks.jsonl", "--environment=mine.py:make", "--engine=scripted", "--data=w")
    for command in ("check", "collect"):
        done = rolloutops(command, *words, cwd=tmp_path, code=2)
        assert "environment 'mine.py:make' has 'verfy'" in done.stdout + done.stderr
        assert "did you mean 'verify'?" in done.stdout + done.stderr
    assert not list((tmp_path / "w" / "attempts").glob("*/*"))
