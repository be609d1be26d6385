"""What many tests need: a command line run as a process, files of tasks, a workspace read back."""

from __future__ import annotations

import json
import os
import pty
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config.plan import make_plan
from rolloutops.config.recipe import LastRecipe, Recipe
from rolloutops.store import sql
from rolloutops.store.runs import last_recipe
from rolloutops.store.workspace import connect, open_workspace

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not next to the checkout")


def command(*words: str) -> list[str]:
    """The argv of a rolloutops command, for a process of its own."""
    return [sys.executable, "-m", "rolloutops", *words]


def environ(**more: str) -> dict[str, str]:
    """The environment of such a process: the checkout is importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), **more}


def rolloutops(*words: str, cwd: Path, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and expect an exit code."""
    done = subprocess.run(
        command(*words), cwd=cwd, env=environ(**more), capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == code, f"exit {done.returncode}, not {code}:\n{done.stdout}\n{done.stderr}"
    assert code == 1 or "Traceback" not in done.stderr, done.stderr
    return done


def on_a_terminal(folder: Path, *words: str, **more: str) -> str:
    """Run a command on a terminal of its own; returns what it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command(*words), cwd=folder, env=environ(**more), stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        pieces = []
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not piece:
                break
            pieces.append(piece)
        process.wait()
    os.close(ours)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def sums(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Arithmetic tasks that are all different."""
    rng = random.Random(seed)
    numbers = [(rng.randint(1, 999), rng.randint(1, 999)) for _ in range(count)]
    return [{"n": i, "prompt": f"What is {a} + {b}?", "answer": str(a + b)} for i, (a, b) in enumerate(numbers)]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """JSON lines as rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def query(data: Path, text: str, recipe: Recipe | None = None) -> list[tuple[Any, ...]]:
    """A query over a workspace's views."""
    workspace = open_workspace(data)
    last = LastRecipe(recipe, {}) if recipe else last_recipe(workspace)
    return sql.rows(connect(workspace, make_plan(last.recipe, earlier=last.flags).rows), text)
