"""Several processes of one command: exact whatever dies, one Ctrl-C, one error, budgets over all of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from rolloutops.errors import UsageError
from rolloutops.limits.stop_time import parse_stop_time
from tests.helpers import command, environ, query, rolloutops, sums, write_jsonl

FULL = bool(os.environ.get("ROLLOUTOPS_FULL"))
TASKS, KILLS = (2000, 10) if FULL else (300, 3)
RECIPE = """
data = "{data}"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[chunk]
rows_per_part = 20
[collect]
engine = "scripted"
num_repeats = 2
num_samples_in_parallel = {width}
grace_seconds = 0.5
[collect.engine_args]
delay = "0.05..0.3"
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
min_reward = 1.0
validation = 0.1
[[steps]]
kind = "pair"
name = "best"
use = "pair/best_worst"
[[steps]]
kind = "build"
name = "dpo"
use = "build/dpo_messages"
from = "best"
"""


def project(folder: Path, data: str = "w", width: int = 8, tasks: int = TASKS) -> Path:
    """A folder with tasks and a recipe."""
    write_jsonl(folder / "tasks.jsonl", sums(tasks))
    (folder / f"{data}.toml").write_text(RECIPE.format(data=data, width=width))
    return folder


def start(folder: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """A command with its stderr in a file, which nobody has to read."""
    with (folder / "err").open("a") as err:
        return subprocess.Popen(command(*words), cwd=folder, env=environ(**more), stdout=err, stderr=err, text=True)


def children(pid: int) -> list[int]:
    """The processes that a process started and that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for what comes at last, however slow the machine; what never comes ends with the test's own limit."""
    while not condition():
        time.sleep(0.02)


def journaled(folder: Path) -> int:
    """Bytes of attempts that running commands have written."""
    sizes = 0
    for path in [*folder.glob("w/journals/*"), *folder.glob("w/attempts/*/*.parquet")]:
        try:
            sizes += path.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def alive(pids: list[int]) -> bool:
    """Whether one of these processes runs."""
    return any(Path(f"/proc/{pid}").exists() and "State:\tZ" not in _status(pid) for pid in pids)


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "State:\tZ"


def files(folder: Path, data: str) -> dict[str, bytes]:
    """What is trained on."""
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted((folder / data / "exports").rglob("*.jsonl"))
    }


def assert_exact(folder: Path, wanted: int) -> None:
    """Every wanted rollout is there, none twice."""
    counts = "SELECT count(*), count(DISTINCT (task_id, rollout_index)) FROM rollouts"
    assert query(folder / "w", counts) == [(wanted, wanted)]
    good = "SELECT count(*) FROM attempts WHERE error IS NULL"
    assert query(folder / "w", good) == [(wanted,)], "no rollout has two good attempts"
    assert not list(folder.glob("w/journals/*"))
    rolloutops("status", "w.toml", cwd=folder)


def test_kills_of_workers_and_of_the_parent_cost_nothing(tmp_path: Path) -> None:
    folder, rng = project(tmp_path), random.Random(3)
    project(tmp_path, "calm", width=64)
    rolloutops("run", "calm.toml", cwd=folder)
    words = ("collect", "w.toml", "--workers=4")
    process = start(folder, *words)
    for kill in range(KILLS):
        before = journaled(folder)
        until(lambda at=before, now=process: now.poll() is not None or journaled(folder) > at + 2000)
        workers = children(process.pid)
        if process.poll() is not None or not workers:
            continue
        time.sleep(rng.uniform(0, 0.3))
        if kill % 3 == 2:
            process.kill()
            process.wait()
            until(lambda pids=workers: not alive(pids))
            process = start(folder, *words)
        else:
            os.kill(rng.choice(workers), signal.SIGKILL)
    assert process.wait(timeout=1800) in (0, 2), (folder / "err").read_text()
    said = (folder / "err").read_text()
    assert "was killed by signal 9; started again (1 of 3)" in said
    rolloutops("run", "w.toml", cwd=folder)
    assert_exact(folder, 2 * TASKS)
    assert files(folder, "w") == files(folder, "calm")


def test_several_workers_are_shown_as_one(tmp_path: Path) -> None:
    folder = project(tmp_path, tasks=100)
    done = rolloutops("collect", "w.toml", "--workers=3", "--output=out.jsonl", cwd=folder)
    *progress, summary, output = [line for line in done.stderr.splitlines() if line and "tasks" not in line]
    assert summary == "200 rollouts collected; of 200 wanted, 0 are given up and 0 pending"
    assert output == "200 rollouts in out.jsonl"
    assert progress[-1].startswith("200/200 rollouts · ")
    assert 0 < json.loads(done.stdout)["reward"] < 1
    assert len((folder / "out.jsonl").read_text().splitlines()) == 200
    (runs,) = query(folder / "w", "SELECT count(DISTINCT run_id) FROM attempts")[0]
    assert runs > 1, "several processes did the work"
    again = rolloutops("collect", "w.toml", "--workers=3", cwd=folder)
    assert again.stderr == "nothing to collect: all 200 rollouts are done\n"


def test_one_interrupt_ends_all_workers_and_loses_nothing(tmp_path: Path) -> None:
    folder = project(tmp_path)
    process = start(folder, "collect", "w.toml", "--workers=3", "--grace_seconds=9")
    until(lambda: journaled(folder) > 20_000)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert not alive(workers)
    said = (folder / "err").read_text()
    assert said.count("stopping: up to 9 s for running rollouts to finish; Ctrl-C again stops at once") == 1
    assert "Traceback" not in said
    assert not list(folder.glob("w/journals/*"))
    rolloutops("collect", "w.toml", "--workers=2", cwd=folder)
    assert_exact(folder, 2 * TASKS)


def test_an_error_of_one_is_said_once_and_ends_all(tmp_path: Path) -> None:
    folder = project(tmp_path, tasks=40)
    faults = "--engine_args.faults=unauthorized:0.2"
    done = rolloutops("collect", "w.toml", "--workers=3", faults, cwd=folder, code=2)
    assert done.stderr.count("No rollout was given up; fix the cause and rerun") == 1
    assert "rolloutops: worker " in done.stderr


def test_what_dies_again_and_again_is_not_started_for_ever(tmp_path: Path) -> None:
    folder = project(tmp_path, tasks=40)
    done = rolloutops(
        "collect", "w.toml", "--workers=2", cwd=folder, code=2, ROLLOUTOPS_FAILPOINT="journal-after-line:1"
    )
    assert "worker 1 of 2 was killed by signal 9; it died 4 times and is not started again" in done.stderr
    assert "all workers died (see above)" in done.stderr
    rolloutops("collect", "w.toml", "--workers=2", cwd=folder)
    assert_exact(folder, 80)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--workers=0"], "--workers expects 1 or more, got 0"),
        (["--gpus_per_worker=1"], "--gpus_per_worker needs --workers=N"),
        (["--workers=2", "--tune"], "--tune measures one process: leave --workers out"),
        (
            ["--workers=8", "--gpus_per_worker=1"],
            "8 workers with 1 GPU each need 8 GPUs, and this machine has 2: start 2 with --workers=2",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, words: list[str], says: str) -> None:
    folder = project(tmp_path, tasks=4)
    assert says in rolloutops("collect", "w.toml", *words, cwd=folder, code=2, CUDA_VISIBLE_DEVICES="4,5").stderr


def test_each_worker_has_gpus_of_its_own(tmp_path: Path) -> None:
    folder = project(tmp_path, tasks=80)
    (folder / "own.py").write_text("import os\ndef see(call):\n    return os.environ['CUDA_VISIBLE_DEVICES']\n")
    words = ("--workers=2", "--gpus_per_worker=2", "--engine_args.rule=own.py:see", "--engine_args.delay=0.2")
    rolloutops("collect", "w.toml", *words, cwd=folder, CUDA_VISIBLE_DEVICES="7,3,GPU-ab,1")
    assert query(folder / "w", "SELECT DISTINCT text FROM rollouts ORDER BY ALL") == [("7,3",), ("GPU-ab,1",)]


def test_budgets_hold_over_all_workers(tmp_path: Path) -> None:
    folder = project(tmp_path, width=4)
    words = ("collect", "w.toml", "--workers=4", "--engine_args.delay=0.02")
    done = rolloutops(*words, "--max_tokens_total=4000", cwd=folder, code=2)
    assert done.stderr.count("the budget is spent") == 1
    assert ": raise max_tokens_total to collect the rest" in done.stderr
    (spent, largest) = query(
        folder / "w", "SELECT sum(input_tokens + output_tokens), max(output_tokens) FROM attempts"
    )[0]
    assert 3000 < spent <= 4000 + 16 * largest, "what was in flight in all workers may exceed it, and no more"
    began = time.time()
    rolloutops(*words, "--requests_per_minute=600", "--limit=150", cwd=folder)
    sent = "SELECT count(*) FROM attempts WHERE epoch(started_at) > {:f}"
    ((requests,),) = query(folder / "w", sent.format(began))
    assert requests / 10 - 2 <= time.time() - began, "ten a second, whoever sends them"


def test_status_shows_each_worker_and_what_it_has_in_flight(tmp_path: Path) -> None:
    folder = project(tmp_path)
    process = start(folder, "collect", "w.toml", "--workers=2", "--engine_args.delay=0.5")
    try:
        until(lambda: journaled(folder) > 20_000)
        running = json.loads(rolloutops("status", "w.toml", "--json", cwd=folder).stdout)["running"]
        assert {one["worker"]["number"] for one in running} == {1, 2}
        assert {one["pid"] for one in running} <= set(children(process.pid))
        assert all(0 <= one["in_flight"] <= 8 for one in running)
        shown = rolloutops("status", "w.toml", cwd=folder, COLUMNS="200").stdout
        assert "1 of 2" in shown
        assert "2 of 2" in shown
    finally:
        process.terminate()
        assert process.wait(timeout=300) == 130


@pytest.mark.parametrize("workers", [[], ["--workers=2"]], ids=["alone", "workers"])
def test_a_command_ends_in_time_and_goes_on_later(tmp_path: Path, workers: list[str]) -> None:
    folder = project(tmp_path, tasks=400)
    words = ("collect", "w.toml", *workers, "--num_samples_in_parallel=2", "--engine_args.delay=0.2")
    end = time.time() + 12
    done = rolloutops(*words, f"--stop_at={end:.0f}", "--grace_seconds=60", cwd=folder, code=3)
    assert done.stderr.endswith("run the same command again for the pending rollouts\n")
    ((collected,),) = query(folder / "w", "SELECT count(*) FROM rollouts")
    assert f"{collected} rollouts collected; of 800 wanted, 0 are given up and {800 - collected} pending" in done.stderr
    ((last, failed),) = query(
        folder / "w", "SELECT max(epoch(started_at)), count(*) FILTER (WHERE error IS NOT NULL) FROM attempts"
    )
    assert last < end - 1
    assert failed == 0, "what was in flight had the time to end"
    assert not list(folder.glob("w/journals/*"))
    rolloutops("collect", "w.toml", "--num_samples_in_parallel=200", "--stop_at=3600", cwd=folder)
    assert_exact(folder, 800)


@pytest.mark.parametrize(
    ("text", "at"), [("90", 1090), ("1500000000", 1.5e9), ("2001-01-01T00:00:00+00:00", 978307200)]
)
def test_times_to_stop_at(text: str, at: float) -> None:
    assert parse_stop_time(text, 1000.0) == at


def test_a_time_to_stop_at_may_be_that_of_a_clock() -> None:
    now = datetime(2026, 11, 30, 17, 0).timestamp()
    assert parse_stop_time("17:30", now) == now + 1800
    assert parse_stop_time("16:30:10", now) == now + 84610
    with pytest.raises(UsageError, match="expects seconds from now, a time as 17:30"):
        parse_stop_time("soon", now)
    with pytest.raises(UsageError, match="is over: it is 2026-11-30 17:00:00"):
        parse_stop_time("2026-11-30T16:59", now)


HELD_VERIFIER = """
import asyncio, os
from pathlib import Path

class Environment:
    async def verify(self, task, rollout):
        Path(f"busy/{os.getpid()}").touch()
        while not Path("go").exists():
            await asyncio.sleep(0.05)
        return {"reward": 1.0}

def make():
    return Environment()
"""


def test_workers_verify_each_rollout_once(tmp_path: Path) -> None:
    folder = project(tmp_path, tasks=150)
    (folder / "busy").mkdir()
    (folder / "held.py").write_text(HELD_VERIFIER)
    (folder / "w.toml").write_text((folder / "w.toml").read_text().replace('"exact_match"', '"held.py"'))
    rolloutops("collect", "w.toml", "--verify=later", "--num_samples_in_parallel=200", cwd=folder)
    process = start(folder, "verify", "w.toml", "--workers=3")
    until(lambda: process.poll() is not None or len(list((folder / "busy").iterdir())) == 3)
    os.kill(int(next((folder / "busy").iterdir()).name), signal.SIGKILL)
    (folder / "go").touch()
    assert process.wait(timeout=600) == 0, (folder / "err").read_text()
    said = (folder / "err").read_text()
    assert " verified; 0 verifications failed" in said
    assert "was killed by signal 9; started again (1 of 3)" in said
    counts = "SELECT count(*), count(DISTINCT attempt_id) FROM good_verdicts"
    assert query(folder / "w", counts) == [(300, 300)]
    ((runs,),) = query(folder / "w", "SELECT count(DISTINCT run_id) FROM verdicts")
    assert runs >= 2, "more than one of them did a share"
    again = rolloutops("verify", "w.toml", "--workers=3", cwd=folder)
    assert "Nothing to verify: all 300 rollouts have a verdict" in again.stderr


WAITING = '''
import asyncio, os
from pathlib import Path
from rolloutops.engines.scripted import ScriptedEngine

class Waiting(ScriptedEngine):
    """Answers when four processes have been asked something."""

    async def answer(self, call):
        Path("asked").mkdir(exist_ok=True)
        Path(f"asked/{os.getpid()}").touch()
        while len(os.listdir("asked")) < 4:
            await asyncio.sleep(0.05)
        return await super().answer(call)

def engine(model="scripted"):
    return Waiting(model)
'''


def test_every_worker_has_some_of_a_small_dataset(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(10))
    (tmp_path / "waiting.py").write_text(WAITING)
    words = ("collect", "--input=tasks.jsonl", "--data=w", "--engine=waiting.py:engine", "--num_repeats=2")
    done = rolloutops(*words, "--workers=4", cwd=tmp_path)
    assert "20 rollouts collected" in done.stderr
    assert len(query(tmp_path / "w", "SELECT DISTINCT run_id FROM attempts")) == 4
