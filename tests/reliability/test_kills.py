"""Kills: at each step that makes something durable, and at random, with one collector and with two.

What was delivered and what was kept is compared through the log of `tests.test_collect`'s engine.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import CHECKOUT, command, environ, query, rolloutops, sums, write_jsonl
from tests.test_collect import assert_exact, delivered, project

FAILPOINTS = sorted(
    {
        name
        for path in (CHECKOUT / "rolloutops").rglob("*.py")
        for name in re.findall(r'failpoint\("([a-z-]+)"\)', path.read_text())
    }
)
SMALL, WIDTH = 100, 32


def collecting(folder: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("collect", "recipe.toml"), cwd=folder, env=environ(**more), stderr=subprocess.PIPE, text=True
    )


def asked_again(folder: Path) -> int:
    log = delivered(folder)
    return len(log) - len(set(log))


def test_failpoints_are_found() -> None:
    assert len(FAILPOINTS) >= 10


@pytest.mark.parametrize("name", FAILPOINTS)
def test_killed_at_a_failpoint(tmp_path: Path, name: str) -> None:
    folder = project(tmp_path, sums(SMALL))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    if name.startswith("orphan"):  # which takes a journal that a killed run left
        killed = collecting(folder, ROLLOUTOPS_FAILPOINT="journal-after-line:20")
        killed.communicate(timeout=60)
    spot = f"{name}:15" if name.startswith(("journal", "attempt")) else f"{name}:{2 if name.startswith('part') else 1}"
    process = collecting(folder, ROLLOUTOPS_FAILPOINT=spot)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, f"{name} was not passed: {err}"
    rolloutops("collect", "recipe.toml", cwd=folder)
    assert_exact(folder, 2 * SMALL)
    assert asked_again(folder) <= 2 * WIDTH
    assert not list((folder / "w").rglob("*.tmp")), "no half-written file is left"


def test_random_kills_of_two_collectors(tmp_path: Path) -> None:
    tasks = sums(1200)
    folder = project(tmp_path, tasks)
    rolloutops("chunk", "recipe.toml", cwd=folder)
    rng = random.Random(4)
    killed = 0
    running = [collecting(folder), collecting(folder)]
    while killed < 8:
        time.sleep(rng.uniform(0.8, 1.8))
        victim = rng.randrange(2)
        if all(process.poll() is not None for process in running):
            break
        if running[victim].poll() is None:
            running[victim].send_signal(signal.SIGKILL)
            running[victim].communicate()
            killed += 1
        running[victim] = collecting(folder)
    for process in running:
        process.communicate(timeout=120)
    rolloutops("collect", "recipe.toml", cwd=folder)
    assert killed >= 3
    assert_exact(folder, 2400)
    assert asked_again(folder) <= killed * WIDTH


def test_killed_with_the_input_reversed_and_a_tenth_inserted(tmp_path: Path) -> None:
    tasks = sums(600)
    folder = project(tmp_path, tasks)
    rolloutops("chunk", "recipe.toml", cwd=folder)
    process = collecting(folder)
    while process.poll() is None and (not (folder / "delivered.jsonl").exists() or len(delivered(folder)) < 400):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = len(set(delivered(folder)))
    changed = list(reversed(tasks))
    for i, row in enumerate(sums(60, seed=9)):
        changed.insert(i * 11, {**row, "n": 50_000 + i})
    write_jsonl(folder / "tasks.jsonl", changed)
    rolloutops("chunk", "recipe.toml", cwd=folder)
    rolloutops("collect", "recipe.toml", cwd=folder)
    assert_exact(folder, 1320)
    assert asked_again(folder) <= WIDTH
    assert before >= 400


def test_a_collector_that_stood_still_goes_on(tmp_path: Path) -> None:
    folder = project(tmp_path, sums(600))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    first = collecting(folder)
    while not (folder / "delivered.jsonl").exists() or len(delivered(folder)) < 100:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)
    second = collecting(folder)
    time.sleep(4)
    first.send_signal(signal.SIGCONT)
    for process in (first, second):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert_exact(folder, 1200)
    assert asked_again(folder) == 0


def test_torn_tails_are_recovered(tmp_path: Path) -> None:
    folder = project(tmp_path, sums(SMALL))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    process = collecting(folder, ROLLOUTOPS_FAILPOINT="journal-after-line:20")
    process.communicate(timeout=60)
    (journal,) = (folder / "w" / "journals").glob("*.jsonl")
    whole = journal.read_bytes()
    from rolloutops.tables.journal import seal_orphans
    from rolloutops.tables.workspace import open_workspace

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
