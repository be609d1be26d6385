"""Disks that are full, fail, lie or are shared: each is a sentence, and nothing durable is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.helpers import environ, query, rolloutops, sums, write_jsonl

PATCH = """
import errno, os, runpy, sqlite3, sys
call, number, times, spared, only = {call!r}, {number}, {times}, {spared}, {only!r}

def about(what):
    if isinstance(what, int):
        try:
            return os.readlink(f"/proc/self/fd/{{what}}")
        except OSError:
            return ""
    return os.fsdecode(what)

def bad(what, *more, **named):
    if only in about(what):
        passed[0] += 1
        if spared < passed[0] <= spared + times:
            raise OSError(number, os.strerror(number), *([] if isinstance(what, int) else [what]))
    return real(what, *more, **named)

class BadCounters(sqlite3.Connection):
    def execute(self, query, *more):
        if query.startswith(only):
            error = sqlite3.OperationalError("refused")
            error.sqlite_errorcode = {{errno.ENOSPC: sqlite3.SQLITE_FULL}}.get(number, sqlite3.SQLITE_IOERR)
            raise error
        return super().execute(query, *more)

if call == "sqlite3":
    connect = sqlite3.connect
    sqlite3.connect = lambda *what, **named: connect(*what, factory=BadCounters, **named)
else:
    real, passed = getattr(os, call), [0]
    setattr(os, call, bad)
sys.argv[0] = "rolloutops"
runpy.run_module("rolloutops", run_name="__main__")
"""
"""A program that runs rolloutops where one function of `os` fails for some paths, or SQLite for some statements."""
ALWAYS = 10**9
WANTED = 60


def failing(folder: Path, *words: str, call: str, number: int, times: int, spared: int, only: str) -> Any:
    """Run a command whose calls of os.`call` fail for paths with `only` in them: `times` times, after `spared`."""
    program = folder / "failing.py"
    program.write_text(PATCH.format(call=call, number=number, times=times, spared=spared, only=only))
    argv = [sys.executable, str(program), *words]
    return subprocess.run(argv, cwd=folder, env=environ(), capture_output=True, text=True, timeout=600, check=False)


def collecting(*more: str, delay: str = "0.1..0.9") -> list[str]:
    """A collection of WANTED rollouts, some of which end at once and some later."""
    flags = ["--data=w", "--environment=exact_match", "--engine=scripted", "--num_samples_in_parallel=20"]
    return ["collect", *flags, f"--engine_args.delay={delay}", *more]


def durable(data: Path) -> set[str]:
    """The ids of the attempts that are in part files."""
    parts = (data / "attempts").glob("*/*.parquet")
    return {name for part in parts for name in pq.read_table(part, columns=["attempt_id"])["attempt_id"].to_pylist()}


FAULTS = [
    ("fdatasync", errno.EIO, ALWAYS, 0, "/journals/"),
    ("fdatasync", errno.EDQUOT, 1, 0, "/journals/"),
    ("fsync", errno.ENOSPC, 1, 1, "/w/"),
    ("fsync", errno.EIO, ALWAYS, 1, "/attempts/"),
    ("write", errno.ENOSPC, 1, 2, "/journals/"),
    ("write", errno.EIO, ALWAYS, 0, "/journals/"),
    ("open", errno.ENOSPC, ALWAYS, 0, "/journals/"),
    ("open", errno.EDQUOT, ALWAYS, 0, "w/verdicts/in/"),
    ("replace", errno.EIO, ALWAYS, 0, "/verdicts/"),
    ("close", errno.EIO, ALWAYS, 0, "/journals/"),
    ("fsync", errno.ENOSPC, 1, 0, "/w/runs/"),
]


@pytest.mark.parametrize(("call", "number", "times", "spared", "only"), FAULTS)
def test_an_error_of_the_disk_is_a_sentence(
    tmp_path: Path, call: str, number: int, times: int, spared: int, only: str
) -> None:
    write_jsonl(tmp_path / "in.jsonl", sums(WANTED))
    rolloutops("chunk", "--input=in.jsonl", "--data=w", "--environment=exact_match", cwd=tmp_path)
    rolloutops(*collecting("--limit=10", delay="0"), cwd=tmp_path)
    before = durable(tmp_path / "w")
    # A journal is synced each second: three rounds of answers take at least that long, whatever the machine does.
    words = collecting(f"--limit={WANTED}", delay="1.2..1.6" if call == "fdatasync" else "0.1..0.9")
    done = failing(tmp_path, *words, call=call, number=number, times=times, spared=spared, only=only)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert ("no space is left in w" if number == errno.ENOSPC else os.strerror(number).lower()) in last, last
    kept = durable(tmp_path / "w")
    assert before <= kept
    rolloutops(*collecting(f"--limit={WANTED}", delay="0"), cwd=tmp_path)
    assert kept <= durable(tmp_path / "w")
    counts = "SELECT count(*), count(DISTINCT task_id), count(reward) FROM rollouts"
    assert query(tmp_path / "w", counts) == [(WANTED,) * 3]
    assert not list((tmp_path / "w" / "journals").iterdir())
    assert not list((tmp_path / "w").rglob("*.tmp"))


OUTPUTS = [
    (["chunk", "--input=more.jsonl", "--data=w", "--dataset=more"], "mkdir", "staging/"),
    (["chunk", "--input=more.jsonl", "--data=w", "--dataset=more"], "fsync", "/tasks/more/"),
    (["import", "rollouts.jsonl", "--data=w", "--dataset=other"], "mkdir", "staging/"),
    (["import", "rollouts.jsonl", "--data=w", "--dataset=other"], "replace", "attempts/other/"),
    (["build", "recipe.toml"], "fsync", "/exports/"),
    (["build", "recipe.toml"], "rename", "exports/"),
    (["build", "recipe.toml"], "mkdir", "exports/"),
    (["export", "--data=w", "--output=out/rollouts.jsonl"], "fsync", "/out/"),
    (["export", "--data=w", "--output=out/rollouts.jsonl"], "replace", "/out/"),
    (["sql", "FROM rollouts", "--data=w", "--output=out/rollouts.jsonl"], "fsync", "/out/"),
    (["metrics", "--data=w", "--report=out/rollouts.jsonl"], "fsync", "/out/"),
    (["collect", "--data=w", "--num_repeats=2", "--max_tokens_total=1000000"], "sqlite3", "INSERT INTO spending"),
    (
        ["collect", "--data=w", "--num_repeats=2", "--max_tokens_total=1000000", "--num_samples_in_parallel=1"],
        "sqlite3",
        "UPDATE spending",
    ),
    (
        ["collect", "--data=w", "--num_repeats=2", "--requests_per_minute=1000"],
        "sqlite3",
        "INSERT OR REPLACE INTO rates",
    ),
    (["collect", "--data=w", "--num_repeats=2", "--max_tokens_total=1000000"], "sqlite3", "BEGIN"),
    (["verify", "--data=w", "--retry_errors"], "open", "w/runs/"),
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace of four rollouts, and what each command above takes and makes."""
    folder = tmp_path_factory.mktemp("stored")
    write_jsonl(folder / "in.jsonl", sums(4))
    write_jsonl(folder / "more.jsonl", sums(4, seed=1))
    (folder / "recipe.toml").write_text(
        'data = "w"\n[datasets.in]\ninput = "in.jsonl"\nenvironment = "exact_match"\n[collect]\n'
        'engine = "scripted"\n[[steps]]\nkind = "build"\nname = "sft"\nuse = "build/sft_messages"\n'
    )
    rolloutops("run", "recipe.toml", cwd=folder)
    for copy in ("rollouts.jsonl", "out/rollouts.jsonl"):
        rolloutops("export", "--data=w", f"--output={copy}", cwd=folder)
    return folder


@pytest.mark.parametrize(
    ("place", "output"), list(enumerate(OUTPUTS)), ids=[f"{words[0]}-{call}" for words, call, _ in OUTPUTS]
)
def test_an_output_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, stored: Path, place: int, output: tuple[list[str], str, str]
) -> None:
    (words, call, only), number = output, (errno.ENOSPC, errno.EIO)[place % 2]
    folder = shutil.copytree(stored, tmp_path / "copy")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts}
    done = failing(folder, *words, call=call, number=number, times=ALWAYS, spared=0, only=only)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()[-1]) > 40, "a sentence"
    assert all(path.read_bytes() == data for path, data in before.items()), "what was there stays"
    rolloutops(*words, cwd=folder)
    left = [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".lock") or ".new-" in path.name]
    assert left == []


def test_answers_that_came_before_and_after_a_failed_sync_are_kept(tmp_path: Path) -> None:
    """The journal is not trusted any more, but a part file can still be written: nothing is collected again."""
    write_jsonl(tmp_path / "in.jsonl", sums(WANTED))
    fault: dict[str, Any] = {
        "call": "fdatasync",
        "number": errno.EIO,
        "times": ALWAYS,
        "spared": 0,
        "only": "/journals/",
    }
    words = collecting("--input=in.jsonl", delay="0.8..1.6")
    done = failing(tmp_path, *words, **fault)
    assert done.returncode == 2, done.stderr
    assert len(durable(tmp_path / "w")) >= 20, "those in flight had their grace"
    rolloutops(*collecting(delay="0"), cwd=tmp_path)
    assert len(durable(tmp_path / "w")) == WANTED, "nothing was collected twice"
