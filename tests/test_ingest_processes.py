"""Reading rows in several processes: the same results with any number of them, and none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rolloutops.errors import RolloutopsError
from rolloutops.ingest.processes import AHEAD, HERE, Processes
from tests.helpers import environ, query, rolloutops


def tables(data: Path) -> dict[str, bytes]:
    """The files of tasks, and the rejected lines."""
    files = [*data.glob("tasks/**/*.parquet"), *data.glob("rejected/*")]
    return {str(file.relative_to(data)): file.read_bytes() for file in files}


def test_tasks_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"What is {i % 19_000}?", "answer": i % 19_000}) for i in range(HERE * 1000 + 4000)]
    rows[::1500] = ["{broken"] * len(rows[::1500])
    rows[17_001] = json.dumps({"prompt": "long " * 2_000_000})
    (tmp_path / "tasks.jsonl").write_text("\n".join(rows))
    found = []
    for processes in (1, 2, 3):
        flags = ["--input=tasks.jsonl", f"--data=of-{processes}", f"--processes={processes}", "--skip_bad_lines"]
        said = rolloutops("chunk", *flags, cwd=tmp_path).stderr
        found.append((said.replace(f"of-{processes}", "w"), tables(tmp_path / f"of-{processes}")))
    assert found[0] == found[1] == found[2]


ROLLOUTS = """
SELECT task_id, rollout_index, attempt, text, reward, response
FROM rollouts
ORDER BY ALL
"""


def test_imported_rollouts_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"What is {i // 8}?", "response": f"It is {i}.", "reward": i % 2} for i in range(HERE * 1000 + 2000)
    ]
    lines = [json.dumps(row) for row in rows]
    lines[::1500] = ["{broken"] * len(lines[::1500])
    lines[17_001] = json.dumps({"prompt": "What?", "response": "long " * 2_000_000, "reward": 1})
    (tmp_path / "made.jsonl").write_text("\n".join(lines))
    found = []
    for processes in (1, 2):
        recipe = f'data = "of-{processes}"\n[datasets.d]\n[chunk]\nprocesses = {processes}\n'
        (tmp_path / "r.toml").write_text(recipe)
        flags = ["--recipe=r.toml", "--dataset=d", "--policy=p", "--skip_bad_lines"]
        said = rolloutops("import", "made.jsonl", *flags, cwd=tmp_path).stderr.partition("dataset ")[2]
        data = tmp_path / f"of-{processes}"
        found.append((said.replace(f"of-{processes}", "w"), tables(data), query(data, ROLLOUTS)))
    assert found[0] == found[1]


def faulty(parent: int) -> Callable[[int], int]:
    """A function that doubles numbers in the process `parent`, and in others does harm with negative ones."""

    def work(number: int) -> int:
        if os.getpid() == parent or number >= 0:
            return 2 * number
        if number == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(f"no number: {number}")

    return work


@pytest.mark.parametrize(("bad", "said"), [(-1, "killed by signal 9"), (-2, "no number: -2")])
def test_what_happens_to_a_process_is_told(bad: int, said: str) -> None:
    numbers = [*range(HERE + 5), bad, *range(5)]
    found = []
    with (
        pytest.raises((RolloutopsError, ValueError), match=said),
        Processes[int, int]("tests.test_ingest_processes:faulty", os.getpid(), 2, lambda _: False) as processes,
    ):
        found += processes.map(numbers)
    with Processes[int, int]("tests.test_ingest_processes:faulty", os.getpid(), 3, lambda n: n < 0) as processes:
        assert list(processes.map(numbers)) == [2 * number for number in numbers], "long ones are worked on here"


def endless(folder: str) -> Callable[[int], int]:
    """A function that ends in the process that has the folder `parent`'s name, and in others leaves their number."""

    def work(number: int) -> int:
        if str(os.getpid()) != os.environ["PARENT"]:
            (Path(folder) / str(os.getpid())).touch()
            time.sleep(10_000)
        return number

    return work


WAIT_FOR_EVER = """
import os, sys
from rolloutops.ingest.processes import Processes
os.environ["PARENT"] = str(os.getpid())
with Processes("tests.test_ingest_processes:endless", sys.argv[1], 2, lambda _: False) as processes:
    list(processes.map(range(1000)))
"""


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", WAIT_FOR_EVER, str(tmp_path)], env=environ(), stderr=subprocess.PIPE
    )
    while len(list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.01)
    assert AHEAD * 2 < 1000 - HERE, "the parent waits"
    parent.send_signal(how)
    parent.communicate()
    for file in tmp_path.iterdir():
        while lives(int(file.name)):
            time.sleep(0.01)
