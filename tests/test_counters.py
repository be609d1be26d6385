"""Counters that processes share: nothing is lost or counted twice, whoever is killed; errors of the disk are told."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rolloutops.errors import WorkspaceError
from rolloutops.limits.counters import FILE
from rolloutops.limits.shared_counter import SharedCounter, Spending
from rolloutops.limits.shared_rate import SharedRate
from tests.helpers import environ

SPEND = """
import sys
from pathlib import Path
from rolloutops.limits.shared_counter import SharedCounter, Spending
counter = SharedCounter(Path(sys.argv[1]), "x")
counter.begin(Spending(0, 0.0, 0))
for number in range(1, int(sys.argv[2]) + 1):
    counter.add(Spending(2, 0.5, 1))
    counter.flush()
    left = counter._unwritten.attempts
    print(number - int(left), flush=True)
counter.close()
print(number, flush=True)
"""
"""A program that spends again and again, and prints how often it has said so to the others."""


def spending(folder: Path, times: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", SPEND, str(folder), str(times)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environ())


def opened(folder: Path, before: Spending) -> SharedCounter:
    counter = SharedCounter(folder, "x")
    counter.begin(before)
    return counter


def test_processes_that_are_killed_lose_no_more_than_the_addition_at_hand(tmp_path: Path) -> None:
    rng = random.Random(7)
    watch = opened(tmp_path, Spending(10, 1.0, 5))
    killed = [spending(tmp_path, 10**6) for _ in range(3)]
    whole = [spending(tmp_path, 200) for _ in range(2)]
    for process in killed:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        time.sleep(rng.random() / 4)
        process.send_signal(signal.SIGKILL)
    said = []
    for process in [*killed, *whole]:
        out, _ = process.communicate(timeout=600)
        said.append(int(out.splitlines()[-1]))
    assert [process.returncode for process in whole] == [0, 0]
    assert said[3:] == [200, 200]
    total = watch.total()
    # What a kill truncated was written or not, and several additions at once only where others were at the file.
    assert sum(said) + 5 <= total.attempts <= sum(said) + 5 + 3 * 50
    assert total == Spending(total.attempts * 2, total.attempts * 0.5 - 1.5, total.attempts)
    watch.close()


def test_who_comes_when_nobody_is_there_begins_with_what_the_tables_tell(tmp_path: Path) -> None:
    first = opened(tmp_path, Spending(100, 1.0, 10))
    first.add(Spending(5, 1.0, 1))
    first.flush()
    second = opened(tmp_path, Spending(0, 0.0, 0))
    assert second.total() == Spending(105, 2.0, 11)
    second.add(Spending(5, None, 1))
    second.close()
    assert first.total() == Spending(110, None, 12), "a cost that is not known makes all of it unknown"
    first.close()
    third = opened(tmp_path, Spending(7, 0.0, 1))
    assert third.total() == Spending(7, 0.0, 1)
    third.close()


def test_who_dies_before_it_begins_is_followed_by_another(tmp_path: Path) -> None:
    opened(tmp_path, Spending(100, 1.0, 10)).close()
    died = SharedCounter(tmp_path, "x")
    died.close()
    counter = opened(tmp_path, Spending(3, 0.0, 1))
    assert counter.total() == Spending(3, 0.0, 1)
    counter.close()


def test_who_finds_the_file_locked_does_not_wait_and_loses_nothing(tmp_path: Path) -> None:
    counter = opened(tmp_path, Spending(0, 0.0, 0))
    rate = SharedRate(tmp_path, "y", requests_per_minute=600)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    assert counter.add(Spending(5, 0.0, 1)) == Spending(5, 0.0, 1)
    counter.flush()
    assert counter.total() == Spending(5, 0.0, 1)
    assert rate.take(0) > 0
    assert time.monotonic() - began < 1
    other.execute("ROLLBACK")
    assert rate.take(0) == 0
    assert counter.total() == Spending(5, 0.0, 1)
    assert other.execute("SELECT tokens, attempts FROM spending").fetchone() == (5, 1)
    other.close()
    rate.close()
    counter.close()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("no database at all " * 100)
    with pytest.raises(WorkspaceError, match=r"counters.sqlite is damaged .*delete the file"):
        SharedRate(tmp_path, "y", requests_per_minute=600)


def test_a_folder_that_is_gone_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        SharedRate(tmp_path / "none", "y", requests_per_minute=600)
