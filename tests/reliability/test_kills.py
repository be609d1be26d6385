"""Kills at each step that makes something durable, and torn journals.

What was delivered and what was kept is compared through the log of `tests.test_collect`'s engine.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers import CHECKOUT, command, environ, query, rolloutops, sums
from tests.test_collect import assert_exact, delivered, project

FAILPOINTS = sorted(
    {
        name
        for path in (CHECKOUT / "rolloutops").rglob("*.py")
        for name in re.findall(r'failpoint\("([a-z-]+)"\)', path.read_text())
        if not name.startswith(("compact-", "merge-", "removal-"))  # which others of tests/ pass
    }
)
"""Those that `collect` passes."""
SMALL, WIDTH = 100, 32
LINES = 5
"""Writes to the journal before a kill. One may hold the lines of all rollouts in flight, if the machine is slow."""


def collecting(folder: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("collect", "recipe.toml"), cwd=folder, env=environ(**more), stderr=subprocess.PIPE, text=True
    )


def asked_again(folder: Path) -> int:
    log = delivered(folder)
    return len(log) - len(set(log))


def test_failpoints_are_found() -> None:
    assert len(FAILPOINTS) >= 10


def spots() -> list[str]:
    """Each failpoint, and at which of its passages. The first part that a command writes is the record of its start."""
    passages = {"journal": [LINES], "attempt": [15], "part": [1, 2]}
    return [f"{name}:{passage}" for name in FAILPOINTS for passage in passages.get(name.partition("-")[0], [1])]


@pytest.mark.parametrize("spot", spots())
def test_killed_at_a_failpoint(tmp_path: Path, spot: str) -> None:
    folder = project(tmp_path, sums(SMALL))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    if spot.startswith("orphan"):  # which takes a journal that a killed run left
        killed = collecting(folder, ROLLOUTOPS_FAILPOINT=f"journal-after-line:{LINES}")
        killed.communicate(timeout=600)
    process = collecting(folder, ROLLOUTOPS_FAILPOINT=spot)
    _, err = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, f"{spot} was not passed: {err}"
    rolloutops("collect", "recipe.toml", cwd=folder)
    assert_exact(folder, 2 * SMALL)
    assert asked_again(folder) <= 2 * WIDTH
    assert not list((folder / "w").rglob("*.tmp")), "no half-written file is left"


def test_torn_tails_are_recovered(tmp_path: Path) -> None:
    folder = project(tmp_path, sums(SMALL))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    process = collecting(folder, ROLLOUTOPS_FAILPOINT=f"journal-after-line:{LINES}")
    process.communicate(timeout=600)
    (journal,) = (folder / "w" / "journals").glob("*.jsonl")
    whole = journal.read_bytes()
    from rolloutops.store.journal import seal_orphans
    from rolloutops.store.workspace import open_workspace

    rng = random.Random(5)
    for _ in range(50):
        for old in (*folder.glob("w/attempts/*/*"), *folder.glob("w/verdicts/*/*")):
            old.unlink()
        at = rng.randrange(len(whole))
        journal.write_bytes(whole[:at])
        kept = whole[:at].count(b"\n")
        saved = seal_orphans(open_workspace(folder / "w"))
        assert saved in (kept, kept + 1), "a last line that only lacks its line feed is whole"
        if saved:
            assert query(folder / "w", "SELECT (SELECT count(*) FROM attempts) + (SELECT count(*) FROM verdicts)") == [
                (saved,)
            ]
    rolloutops("collect", "recipe.toml", cwd=folder)
    assert_exact(folder, 2 * SMALL)
