"""Collection: exactly the wanted rollouts, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import command, environ, query, rolloutops, sums, write_jsonl

RECIPE = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[chunk]
rows_per_part = 300
[collect]
engine = "logged.py:make"
num_repeats = 2
num_samples_in_parallel = 32
retry_seconds = 0.01
max_attempts = 9
grace_seconds = 0.2
[collect.engine_args]
delay = "0.01..0.03"
faults = "timeout:0.05,bad_response:0.05"
[[steps]]
kind = "filter"
name = "solved"
use = "filter/solve_rate"
low = 0.1
high = 0.9
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
output = "out/sft"
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
output = "out/dpo"
"""

LOGGED = '''
"""The scripted engine, with a log of every answer that it delivered."""
import json, os
from rolloutops.engines import scripted

class Logged:
    def __init__(self, inner):
        self.inner = inner
    async def start(self):
        with open("started", "a") as log:
            log.write("once ")
        await self.inner.start()
    async def answer(self, call):
        answer = await self.inner.answer(call)
        with open("delivered.jsonl", "a") as log:
            log.write(json.dumps([call.key, call.attempt]) + "\\n")
        return answer
    async def stop(self):
        await self.inner.stop()

def make(delay: str = "0", faults: str = "", correct: float = 0.5):
    return Logged(scripted.ScriptedEngine(delay=delay, faults=faults, correct=correct))
'''


def project(folder: Path, tasks: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "tasks.jsonl", tasks)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "logged.py").write_text(LOGGED)
    return folder


def start(folder: Path) -> subprocess.Popen[str]:
    """Begin a collection and do not wait for it."""
    return subprocess.Popen(
        command("collect", "recipe.toml"),
        cwd=folder,
        env=environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def built(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "out").rglob("*.jsonl"))}


def delivered(folder: Path) -> list[tuple[str, int]]:
    """(task and repeat, attempt) of each answer that the engine gave, but for a line torn by a kill."""
    lines = (folder / "delivered.jsonl").read_text().split("\n")
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]


def assert_exact(folder: Path, wanted: int) -> None:
    """Every wanted rollout is there once, and the tables agree."""
    data = folder / "w"
    assert query(data, "SELECT count(*), count(DISTINCT (task_id, rollout_index)) FROM rollouts") == [(wanted, wanted)]
    assert query(data, "SELECT (SELECT count(*) FROM pending), (SELECT count(*) FROM given_up)") == [(0, 0)]
    assert query(data, "SELECT count(*), count(reward) FROM rollouts") == [(wanted, wanted)]
    rolloutops("status", "--data=w", cwd=folder)


def test_ten_kills_lose_nothing_and_change_no_byte(tmp_path: Path) -> None:
    tasks = sums(2000)
    calm = project(tmp_path / "calm", tasks)
    rolloutops("run", "recipe.toml", cwd=calm)
    wild = project(tmp_path / "wild", tasks)
    rolloutops("chunk", "recipe.toml", cwd=wild)
    rng = random.Random(20261121)
    killed = 0
    while killed < 10:
        process = start(wild)
        before = len(delivered(wild)) if (wild / "delivered.jsonl").exists() else 0
        goal = before + rng.randint(1, 250)
        while process.poll() is None and (not (wild / "delivered.jsonl").exists() or len(delivered(wild)) < goal):
            time.sleep(0.01)
        assert process.poll() is None, f"ended before kill {killed + 1}: {process.communicate()[1]}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
    log = delivered(wild)
    rolloutops("collect", "recipe.toml", cwd=wild)
    assert_exact(wild, 4000)
    kept = {
        (f"sums/{task}/{index}", attempt)
        for task, index, attempt in query(wild / "w", "SELECT task_id, rollout_index, attempt FROM attempts")
    }
    lost = [item for item in log if item not in kept]
    assert len(lost) <= 10 * 32, "an answer is lost only where it arrived in the moment of a kill"
    again = len(delivered(wild)) - len(set(delivered(wild)))
    assert again <= 10 * 32, "no more than what was in flight is asked for again"
    rolloutops("build", "recipe.toml", cwd=wild)
    assert built(wild) == built(calm)
    assert not list((wild / "w").rglob("*.tmp")), "no half-written file is left"


def test_changed_input_owes_only_what_is_new(tmp_path: Path) -> None:
    tasks = sums(500)
    folder = project(tmp_path, tasks)
    rolloutops("chunk", "recipe.toml", cwd=folder)
    rolloutops("collect", "recipe.toml", cwd=folder)
    before = len(delivered(folder))
    more = sums(50, seed=7)
    changed = list(reversed(tasks))
    for i, row in enumerate(more):
        changed.insert(i * 11, {**row, "n": 10_000 + i})
    (folder / "tasks.jsonl").unlink()
    write_jsonl(folder / "split" / "b.jsonl", changed[:123])
    write_jsonl(folder / "split" / "a.jsonl", changed[123:])
    recipe = RECIPE.replace('"tasks.jsonl"', '"split/*.jsonl"').replace("rows_per_part = 300", "rows_per_part = 77")
    (folder / "recipe.toml").write_text(recipe)
    rolloutops("chunk", "recipe.toml", cwd=folder)
    rolloutops("collect", "recipe.toml", cwd=folder)
    assert_exact(folder, 1100)
    new = {key for key, _ in delivered(folder)[before:]}
    assert len(new) == 100
    assert len(delivered(folder)) - before == 100, "nothing that was done is done again"


def test_a_model_is_loaded_once_for_all_of_its_windows(tmp_path: Path) -> None:
    folder = project(tmp_path, sums(20))
    write_jsonl(folder / "more.jsonl", sums(10))
    own = 'input = "more.jsonl"\ncollect = { num_samples_in_parallel = 2, max_failure_rate = 0.9 }'
    (folder / "recipe.toml").write_text(RECIPE.replace("[chunk]", f"[datasets.more]\n{own}\n[chunk]"))
    for name in ("chunk", "collect", "collect"):
        rolloutops(name, "recipe.toml", cwd=folder)
    assert query(folder / "w", "SELECT dataset, count(*) FROM rollouts GROUP BY ALL ORDER BY ALL") == [
        ("more", 20),
        ("sums", 40),
    ]
    assert (folder / "started").read_text() == "once ", "and not where nothing is pending"


def test_two_collectors_share_the_work(tmp_path: Path) -> None:
    folder = project(tmp_path, sums(900))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    processes = [start(folder), start(folder)]
    for process in processes:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    assert_exact(folder, 1800)
    log = delivered(folder)
    assert len(log) == len(set(log)) == 1800, "no rollout is collected twice"


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_keeps_what_ended_and_says_130(tmp_path: Path, times: int) -> None:
    folder = project(tmp_path, sums(2000))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    process = start(folder)
    while not (folder / "delivered.jsonl").exists() or len(delivered(folder)) < 100:
        assert process.poll() is None
        time.sleep(0.01)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, err = process.communicate(timeout=600)
    by_signal = -signal.SIGINT  # which a shell calls 130 too: the second Ctrl-C met the process when all was sealed
    assert process.returncode == 130 or (times == 2 and process.returncode == by_signal), err
    assert "Traceback" not in err
    log = delivered(folder)
    if times == 1:
        assert not os.listdir(folder / "w" / "journals"), "all is sealed"
        assert query(folder / "w", "SELECT count(*) < 4000 FROM rollouts") == [(True,)]
    rolloutops("collect", "recipe.toml", cwd=folder)
    again = len(delivered(folder)) - len(set(delivered(folder)))
    assert again <= 32, f"of {len(log)} that were delivered, only what was in flight is asked for again"
    assert_exact(folder, 4000)


BREAKING = """
import os

class Breaking:
    def verify(self, task, rollout):
        os._exit(9)

def make():
    return Breaking()
"""


def test_a_verifier_that_ends_the_process_costs_no_answer(tmp_path: Path) -> None:
    """A rollout is in the journal before it is verified: it is verified again, and not asked for again."""
    folder = project(tmp_path, sums(1))
    (folder / "breaking.py").write_text(BREAKING)
    breaking = ("recipe.toml", "--num_repeats=1", "--engine_args.faults=", "--dataset=sums")
    (folder / "recipe.toml").write_text(RECIPE.replace('"exact_match"', '"breaking.py:make"'))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    for _ in range(2):
        rolloutops("collect", *breaking, cwd=folder, code=9)
    (folder / "breaking.py").write_text(BREAKING.replace("os._exit(9)", "return 1.0"))
    rolloutops("collect", *breaking, cwd=folder)
    assert len(delivered(folder)) == 1
    assert query(folder / "w", "SELECT count(*), sum(reward) FROM rollouts") == [(1, 1.0)]


def test_a_policy_that_changed_is_refused(tmp_path: Path) -> None:
    folder = project(tmp_path, sums(20))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    rolloutops("collect", "recipe.toml", cwd=folder)
    warm = ("collect", "recipe.toml", "--num_repeats=3", "--responses_create_params.temperature=0.7")
    refused = rolloutops(*warm, cwd=folder, code=2)
    assert "responses_create_params.temperature was null, is 0.7" in refused.stderr
    assert "--policy=NAME" in refused.stderr
    assert "--allow_policy_change" in refused.stderr
    rolloutops(*warm, "--policy=warm", cwd=folder)
    assert query(folder / "w", "SELECT policy, count(*) FROM rollouts GROUP BY policy ORDER BY policy") == [
        ("logged.py:make", 40),
        ("warm", 60),
    ]


def test_the_means_of_two_policies_never_mix(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(20))
    words = ("collect", "--input=tasks.jsonl", "--data=w", "--environment=exact_match", "--engine=scripted")
    first = json.loads(rolloutops(*words, "--policy=good", "--engine_args.correct=1", cwd=tmp_path).stdout)
    assert first["reward"] == 1.0
    second = json.loads(rolloutops(*words, "--policy=bad", "--engine_args.correct=0", cwd=tmp_path).stdout)
    assert second["reward"] == 0.0, "collect shows what it was asked for"
    both = json.loads(rolloutops("verify", "--data=w", cwd=tmp_path).stdout)
    assert {policy: means["reward"] for policy, means in both.items()} == {"good": 1.0, "bad": 0.0}


def test_an_edited_task_under_its_own_id_is_pending_again(tmp_path: Path) -> None:
    tasks = sums(30)
    folder = project(tmp_path, tasks)
    (folder / "recipe.toml").write_text(RECIPE.replace("[chunk]", 'id = "n"\n[chunk]'))
    rolloutops("chunk", "recipe.toml", cwd=folder)
    rolloutops("collect", "recipe.toml", cwd=folder)
    write_jsonl(folder / "tasks.jsonl", [{**tasks[0], "prompt": "What is 1 + 1?", "answer": "2"}, *tasks[2:]])
    said = rolloutops("chunk", "recipe.toml", cwd=folder)
    assert "1 task removed from the input" in said.stderr
    before = len(delivered(folder))
    rolloutops("collect", "recipe.toml", cwd=folder)
    assert {key for key, _ in delivered(folder)[before:]} == {"sums/0/0", "sums/0/1"}
    assert_exact(folder, 58)
    assert query(folder / "w", "SELECT count(*) FROM rollouts WHERE task_id = '1'") == [(0,)]
