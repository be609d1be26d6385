"""Verdicts from verifiers that behave and from those that do not, in real worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config.plugins import find
from rolloutops.environments.stored_rollout import StoredRollout
from rolloutops.environments.verdict import Verdict, verdict_of
from rolloutops.environments.verification import VerifierRunner
from rolloutops.errors import RolloutopsError
from rolloutops.types import Rollout, Task

# One environment for all that a verifier can do: the rollout's text is the deed.
ENVIRONMENTS = '''
import asyncio, decimal, os, re, sys, time
from pathlib import Path

class Numpy:
    """What a scalar of numpy or torch looks like."""
    shape = ()
    def __init__(self, value): self.value = value
    def item(self): return self.value

hoard = []

def do(deed, task):
    word, _, rest = deed.partition(" ")
    if word == "reward": return float(rest)
    if word == "pid": return {"reward": 1.0, "pid": os.getpid()}
    if word == "nap":
        time.sleep(float(rest.split()[0]))
        return {"reward": 1.0, "pid": os.getpid()}
    if word == "row": return {"reward": 1.0, "row": str(task.row)}
    if word == "unsure": return {"reward": None, "error": "no verdict", "judge_calls": 2}
    if word == "meet":  # ends when two processes are here
        Path(rest, str(os.getpid())).touch()
        while len(os.listdir(rest)) < 2: time.sleep(0.01)
        return {"reward": 1.0, "pid": os.getpid()}
    if word == "count":
        with open(rest, "a") as file: file.write("x")
        return 1.0
    if word == "true": return True
    if word == "numpy": return Numpy(0.25)
    if word == "decimal": return {"reward": decimal.Decimal("0.5")}
    if word == "dict":
        return {"reward": Numpy(True), "accuracy": False, "n": 3, "score": Numpy(0.5), "text": "a", "nan": float("nan"),
                "list": [1, Numpy(2), {"x": float("inf")}], "none": None, "path": Path("/x"), "big": 10**400}
    if word == "none": return None
    if word == "nan": return float("nan")
    if word == "text": return "1.0"
    if word == "noreward": return {"score": 1.0}
    if word == "badreward": return {"reward": "high"}
    if word == "raise": raise ValueError("cannot judge this")
    if word == "sysexit": sys.exit(3)
    if word == "loop":
        while True: pass
    if word == "bomb": return float(bool(re.match(r"(a+)+$", "a" * 60 + "b")))
    if word == "exit": os._exit(3)
    if word == "abort": os.abort()
    if word == "allocate": return float(len(bytearray(10 * 2**30)) > 0)
    if word == "hoard":
        hoard.append(bytearray(int(rest) * 2**20))
        return 1.0
    if word == "print":
        print("a verifier may print", flush=True)
        return 1.0
    if word == "read": return float(sys.stdin.read() == "")
    if word == "files": return {"reward": 1.0, "files": len(os.listdir("/proc/self/fd"))}
    if word == "child":
        import subprocess
        subprocess.Popen(["sleep", "1000"], stdout=open(rest, "w")).pid
        Path(rest + ".pid").write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
        while True: pass
    raise AssertionError(deed)

class Environment:
    def __init__(self, runs, pure):
        self.runs, self.pure = runs, pure
    def verify(self, task, rollout):
        return do(rollout.text, task)

class Coroutine:
    async def verify(self, task, rollout):
        if rollout.text == "loop": await asyncio.sleep(1000)
        if rollout.text == "late": raise TimeoutError("the judge's endpoint")
        await asyncio.sleep(0.001)
        return do(rollout.text, task)

class Prepared:
    runs = "process"
    ready = False
    def prepare(self): Prepared.ready = True
    def verify(self, task, rollout): return float(self.ready)

def make(runs: str = "process", pure: bool = False): return Environment(runs or None, pure)
def coroutine(): return Coroutine()
def prepared(): return Prepared()
def both():
    environment = Coroutine()
    environment.runs = "process"
    return environment
def some():
    modes = {True: "process", "odd": "thread"}
    return Environment(lambda task: modes.get(task.row.get("dear"), "inline"), False)
def only_here(runs: str = "process"):
    if os.environ.get("PARENT") != str(os.getpid()): raise OSError("no such license")
    return Environment(runs or None, False)
def not_awaited(): return Environment("async", False)
def partly_awaited():
    environment = Coroutine()
    verify = environment.verify
    environment.verify = lambda task, rollout: verify(task, rollout)
    environment.runs = "async"
    return environment

class Earlier:
    def __init__(self, cpu_bound): self.cpu_bound = cpu_bound
    def verify(self, task, rollout): return do(rollout.text, task)

def earlier(cpu_bound: bool = True): return Earlier(cpu_bound)
def earlier_some(): return Earlier(lambda task: task.row.get("dear", False))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("environments")
    (path / "deeds.py").write_text(ENVIRONMENTS)
    return path


def judge(
    folder: Path, factory: str = "make", processes: int | None = 2, timeout: float = 20.0, **given: Any
) -> VerifierRunner:
    plugin = find("environment", f"deeds.py:{factory}", folder)
    memory = given.pop("memory_mb", 1024)
    return VerifierRunner(plugin.make(given), plugin, given, processes, timeout, memory)


def pair(deed: str, n: int = 0, **row: Any) -> tuple[Task, Rollout]:
    return Task("demo", str(n), row, []), Rollout([{"role": "assistant", "content": deed}], deed, "stop")


def judged(verifier: VerifierRunner, *deeds: str) -> list[Verdict]:
    async def run() -> list[Verdict]:
        try:
            return await asyncio.gather(*(verifier.verify(*pair(deed, n)) for n, deed in enumerate(deeds)))
        finally:
            await verifier.close()

    return asyncio.run(run())


GOOD = [("reward 0.5", 0.5), ("true", 1.0), ("numpy", 0.25), ("decimal", 0.5), ("reward -3", -3.0), ("print", 1.0)]
BAD = [
    ("none", "must return a finite number, or a dict with one under 'reward', not None"),
    ("nan", "not nan"),
    ("text", "not '1.0'"),
    ("noreward", "no 'reward', only score"),
    ("badreward", "not 'high'"),
    ("raise", "verify raised ValueError: cannot judge this"),
    ("sysexit", "verify raised SystemExit: 3"),
]
"""What a verifier does, and what the verdict then says."""


@pytest.mark.parametrize("runs", ["", "process"])
def test_what_a_verifier_returns(folder: Path, runs: str) -> None:
    verdicts = judged(judge(folder, runs=runs), *(deed for deed, _ in GOOD + BAD), "dict")
    for (deed, reward), verdict in zip(GOOD, verdicts, strict=False):
        assert (verdict.reward, verdict.metrics, verdict.error) == (reward, {"reward": reward}, None), deed
    for (deed, reported), verdict in zip(BAD, verdicts[len(GOOD) :], strict=False):
        assert (verdict.reward, verdict.metrics, verdict.error) == (None, {}, "verifier_error"), deed
        assert reported in (verdict.error_message or ""), deed
    assert verdicts[-1].metrics == {"reward": 1.0, "accuracy": 0.0, "n": 3.0, "score": 0.5}
    assert verdicts[-1].details == {
        "reward": True,
        "accuracy": False,
        "n": 3,
        "score": 0.5,
        "text": "a",
        "nan": None,
        "list": [1, 2, {"x": None}],
        "none": None,
        "path": "/x",
        "big": 10**400,
    }


def test_numbers_in_reward_components_are_metrics() -> None:
    parts = {"format": 0.5, "quality.tone": True, "reward": 0.25, "note": "n", "none": None, "nan": float("nan")}
    verdict = verdict_of({"reward": 1.5, "format": 2, "reward_components": parts}, 0.0)
    assert verdict.metrics == {
        **{"reward": 1.5, "format": 2.0, "quality.tone": 1.0},
        **{"reward_components.reward": 0.25, "reward_components.format": 0.5},
    }
    assert verdict_of({"reward": 1, "reward_components": [1, 2]}, 0.0).metrics == {"reward": 1.0}


def test_a_verifier_may_say_that_it_cannot_judge_and_what_that_cost(folder: Path) -> None:
    (verdict,) = judged(judge(folder, runs=""), "unsure")
    assert (verdict.reward, verdict.error, verdict.error_message) == (None, "verifier_error", "no verdict")
    assert verdict.metrics == {"judge_calls": 2.0}


def test_a_verifier_that_will_not_end_is_stopped_and_the_others_go_on(folder: Path) -> None:
    deeds = ["loop", "bomb", "exit", "abort", "allocate", *[f"reward {n}" for n in range(200)]]
    verdicts = judged(judge(folder, timeout=1.0), *deeds)
    loop, bomb, ended, aborted, hungry, *good = verdicts
    for verdict in (loop, bomb):
        assert (verdict.error, verdict.error_message) == ("verifier_timeout", "no verdict within 1 s")
    assert (ended.error, ended.error_message) == ("verifier_error", "its process ended with exit status 3")
    assert (aborted.error, aborted.error_message) == ("verifier_error", "its process was killed by signal 6")
    assert (hungry.error, hungry.error_message) == ("verifier_error", "it needs more memory than the limit of 1024 MB")
    assert [verdict.reward for verdict in good] == list(range(200))


def test_memory_that_earlier_rollouts_left_behind_is_not_a_rollouts_fault(folder: Path) -> None:
    verdicts = judged(judge(folder, processes=1, memory_mb=200), *["hoard 60"] * 9, "hoard 400", "hoard 60")
    assert [verdict.reward for verdict in verdicts] == [1.0] * 9 + [None, 1.0]


def test_a_coroutine_is_awaited_with_a_time_limit(folder: Path) -> None:
    verdicts = judged(judge(folder, "coroutine", timeout=0.2), "reward 1", "loop", "raise", "late")
    assert [verdict.error for verdict in verdicts] == [None, "verifier_timeout", "verifier_error", "verifier_error"]
    assert verdicts[3].error_message == "verify raised TimeoutError: the judge's endpoint"
    both = judged(judge(folder, "both", timeout=1.0), "reward 1", "loop", "raise")
    assert [verdict.error for verdict in both] == [None, "verifier_timeout", "verifier_error"]


def test_where_a_verifier_runs(folder: Path, tmp_path: Path) -> None:
    async def pids(verifier: VerifierRunner, **row: Any) -> set[int]:
        try:
            verdicts = await asyncio.gather(*(verifier.verify(*pair("pid", n, **row)) for n in range(300)))
        finally:
            await verifier.close()
        return {int(verdict.details["pid"]) for verdict in verdicts}

    here = {os.getpid()}
    assert asyncio.run(pids(judge(folder, runs=""))) == here
    assert asyncio.run(pids(judge(folder, "coroutine"))) == here
    assert asyncio.run(pids(judge(folder, processes=0))) == here
    assert asyncio.run(pids(judge(folder, "some"))) == here
    assert not asyncio.run(pids(judge(folder, "some"), dear=True)) & here
    assert asyncio.run(pids(judge(folder, "partly_awaited"))) == here
    assert not asyncio.run(pids(judge(folder, "earlier"))) & here, "cpu_bound is understood"
    assert asyncio.run(pids(judge(folder, "earlier_some"))) == here
    assert not asyncio.run(pids(judge(folder, "earlier_some"), dear=True)) & here
    one, two = judged(judge(folder), f"meet {tmp_path}", f"meet {tmp_path}")
    workers = {int(one.details["pid"]), int(two.details["pid"])}
    assert len(workers) == 2
    assert not workers & here
    assert [verdict.reward for verdict in judged(judge(folder, "prepared"), "x")] == [1.0]
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_inherits_no_open_file(folder: Path, tmp_path: Path) -> None:
    held = [open(tmp_path / str(n), "w") for n in range(50)]  # noqa: SIM115
    for file in held:
        os.set_inheritable(file.fileno(), True)
    files, read = judged(judge(folder, processes=1), "files", "read")
    assert files.metrics["files"] < 15
    assert read.reward == 1.0, "its standard input is empty, not ours"
    for file in held:
        file.close()


def test_equal_rollouts_of_a_pure_verifier_are_verified_once(folder: Path, tmp_path: Path) -> None:
    async def run(pure: bool, log: Path) -> list[bool]:
        here = judge(folder, pure=pure)
        try:
            same = await asyncio.gather(*(here.verify(*pair(f"count {log}")) for _ in range(20)))
            later = await here.verify(*pair(f"count {log}"))
            other = await here.verify(*pair(f"count {log}", 1))
        finally:
            await here.close()
        assert all(verdict.reward == 1.0 for verdict in [*same, later, other])
        return [verdict.cached for verdict in [*same, later, other]]

    assert asyncio.run(run(True, tmp_path / "pure")) == [False] + [True] * 20 + [False]
    assert (tmp_path / "pure").read_text() == "xx"
    assert asyncio.run(run(False, tmp_path / "impure")) == [False] * 22
    assert (tmp_path / "impure").read_text() == "x" * 22


def test_a_failure_is_not_kept(folder: Path) -> None:
    async def run() -> list[Verdict]:
        here = judge(folder, pure=True)
        try:
            return [await here.verify(*pair("exit")) for _ in range(2)]
        finally:
            await here.close()

    assert [(v.error, v.cached) for v in asyncio.run(run())] == [("verifier_error", False)] * 2


def stored(deed: str, n: int = 0, row: str = "{}") -> StoredRollout:
    return StoredRollout("demo", str(n), row, "[]", None, None, "[]", deed, "stop")


@pytest.mark.parametrize("factory", ["make", "coroutine"])
@pytest.mark.parametrize("runs", ["", "process"])
def test_judge_all_reads_as_needed_and_gives_each_key_its_verdict(folder: Path, runs: str, factory: str) -> None:
    count, read = 5000, 0

    def items() -> Iterator[tuple[int, StoredRollout]]:
        nonlocal read
        for n in range(count):
            read += 1
            yield n, stored("raise" if n % 1000 == 7 else f"reward {n}", n)

    async def run() -> dict[int, float | None]:
        here = judge(folder, factory, **({"runs": runs} if factory == "make" else {}))
        seen: dict[int, float | None] = {}
        try:
            async for ended in here.verify_all(items(), count):
                seen.update((n, verdict.reward) for n, verdict in ended)
                assert read - len(seen) <= 1024
        finally:
            await here.close()
        return seen

    assert asyncio.run(run()) == {n: None if n % 1000 == 7 else float(n) for n in range(count)}


def test_what_is_stored_is_read_as_it_was_written(folder: Path) -> None:
    """Integers stay exact; a row that cannot be sent or read as JSON is one bad verdict, not the end."""

    async def run(runs: str) -> list[Verdict]:
        here = judge(folder, runs=runs)
        row = '{"big": 123456789012345678901234567890, "half": 0.1}'
        try:
            items = enumerate([stored("row", 0, row), stored("row", 1, "{"), stored("reward 1", 2)])
            found = {n: verdict async for many in here.verify_all(items, 3) for n, verdict in many}
            return [found[n] for n in range(3)]
        finally:
            await here.close()

    for runs in ("", "process"):
        exact, broken, good = asyncio.run(run(runs))
        assert exact.details["row"] == "{'big': 123456789012345678901234567890, 'half': 0.1}"
        assert (broken.error, good.reward) == ("verifier_error", 1.0)
        assert "cannot be read" in (broken.error_message or "")


def test_a_plain_verifier_that_takes_long_is_spread_over_the_workers(folder: Path) -> None:
    async def run(processes: int | None, count: int) -> set[int]:
        here = judge(folder, runs="", processes=processes)
        try:
            items = ((n, stored("nap 0.06 pid", n)) for n in range(3 if count < 1000 else 20))
            ended = [pair async for many in here.verify_all(items, count) for pair in many]
        finally:
            await here.close()
        return {int(verdict.details["pid"]) for _, verdict in ended}

    assert asyncio.run(run(2, 3)) == {os.getpid()}, "few are not worth it"
    assert asyncio.run(run(0, 10_000)) == {os.getpid()}, "no process is allowed"
    many = asyncio.run(run(2, 10_000))
    assert os.getpid() in many
    assert len(many) > 1


async def slow_verdicts(here: VerifierRunner) -> tuple[list[Verdict], float]:
    """A verdict of 0.6 s, then eight of a second at once; and the longest turn of the event loop in these."""
    worst, last = 0.0, time.monotonic()

    async def tick() -> None:
        nonlocal worst, last
        while True:
            await asyncio.sleep(0.01)
            worst, last = max(worst, time.monotonic() - last), time.monotonic()

    try:
        first = await here.verify(*pair("nap 0.6 pid"))
        assert not here.is_plain
        watch, last = asyncio.create_task(tick()), time.monotonic()
        others = await asyncio.gather(*(here.verify(*pair("nap 1 pid", n)) for n in range(8)))
        watch.cancel()
        return [first, *others], worst
    finally:
        await here.close()


@pytest.mark.parametrize(
    ("runs", "processes", "leaves"),
    [("", 2, True), ("", 0, False), ("inline", 2, False)],
    ids=["declares nothing", "no process is allowed", "inline"],
)
def test_a_verifier_that_turns_out_slow_does_not_hold_up_the_event_loop(
    folder: Path, runs: str, processes: int, leaves: bool
) -> None:
    verdicts, worst = asyncio.run(slow_verdicts(judge(folder, runs=runs, processes=processes)))
    first, *others = [verdict.details["pid"] for verdict in verdicts]
    assert first == os.getpid()
    assert os.getpid() not in others if leaves else set(others) == {os.getpid()}
    assert worst < 4.0, "eight verdicts of a second each, one after the other, take eight"


def test_a_slow_verifier_that_no_worker_can_make_stays_where_it_was_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARENT", str(os.getpid()))
    verdicts, worst = asyncio.run(slow_verdicts(judge(folder, "only_here", runs="")))
    assert [(verdict.details["pid"], verdict.error) for verdict in verdicts] == [(os.getpid(), None)] * 9
    assert worst < 4.0
    said = capsys.readouterr().err
    assert said.count("no such license") == 1
    assert 'declare runs = "inline" in the environment' in said


def test_what_runs_otherwise_than_it_declares_is_a_verdict_that_says_so(folder: Path) -> None:
    (verdict,) = judged(judge(folder, "not_awaited"), "reward 1")
    assert "but verify returned float, not a coroutine: write async def verify" in (verdict.error_message or "")

    async def odd() -> Verdict:
        here = judge(folder, "some")
        try:
            return await here.verify(*pair("reward 1", dear="odd"))
        finally:
            await here.close()

    assert "runs must be 'inline', 'process', 'async', not 'thread'" in (asyncio.run(odd()).error_message or "")


def test_a_cancelled_caller_harms_nobody(folder: Path) -> None:
    async def run() -> list[float | None]:
        here = judge(folder, pure=True, processes=1)
        try:
            first = asyncio.create_task(here.verify(*pair("reward 1")))
            second = asyncio.create_task(here.verify(*pair("reward 1")))
            await asyncio.sleep(0)
            first.cancel()
            return [(await second).reward, (await here.verify(*pair("reward 2"))).reward]
        finally:
            await here.close()

    assert asyncio.run(run()) == [1.0, 2.0]


def test_workers_that_cannot_start_end_the_run_with_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARENT", str(os.getpid()))
    here = judge(folder, "only_here")
    with pytest.raises(RolloutopsError, match=r"does not start: .*no such license"):
        judged(here, "reward 1", "reward 2")


PARENT = """
import asyncio, os, signal, sys
from rolloutops.environments import Rollout, Task
from rolloutops.environments.verification import VerifierRunner
from rolloutops.config.plugins import find

async def main():
    plugin = find("environment", "deeds.py:make", sys.argv[1])
    judge = VerifierRunner(plugin.make({}), plugin, {}, processes=2)
    def one(deed): return judge.verify(Task("d", deed, {}, []), Rollout([], deed))
    pids = {(await one("pid")).details["pid"]}
    tasks = [asyncio.create_task(one(deed)) for deed in ("loop", "bomb")]
    while len(judge._pool.workers) < 2 or not all(w.ready and w.outstanding for w in judge._pool.workers):
        await asyncio.sleep(0.01)
    print(*(w.process.pid for w in judge._pool.workers), flush=True)
    await asyncio.gather(*tasks)

asyncio.run(main())
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # the time limit of every test ends a wait for what does not happen
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_busy_workers_ignore_ctrl_c_and_end_with_a_killed_parent(folder: Path) -> None:
    root = str(Path(__file__).parents[1])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True, cwd=root, start_new_session=True
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert not any(map(gone, workers))
    parent.kill()  # SIGKILL: it can tell nobody
    parent.wait()
    wait_until(lambda: all(map(gone, workers)))
    parent.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_stopped_verifier_has_started_ends_with_it(folder: Path, tmp_path: Path) -> None:
    (verdict,) = judged(judge(folder, timeout=2.0), f"child {tmp_path / 'child'}")
    assert verdict.error == "verifier_timeout"
    wait_until(lambda: gone(int((tmp_path / "child.pid").read_text())))


def test_math_that_never_ends_is_a_failed_verdict() -> None:
    pytest.importorskip("math_verify", reason="the extra 'math' is not installed")
    plugin = find("environment", "math")
    rollouts = ["\\boxed{\\frac{2}{4}}", "\\boxed{3}", "\\boxed{\\frac{1}{2}}", "\\boxed{9^{9^{9^{9^9}}}}"]

    async def run() -> list[Verdict]:
        here = VerifierRunner(plugin.make({}), plugin, {}, 1, timeout=3.0)
        try:
            task = Task("d", "1", {}, [], None, "\\frac{1}{2}")
            return await asyncio.gather(*(here.verify(task, Rollout([], text)) for text in rollouts))
        finally:
            await here.close()

    *others, endless = asyncio.run(run())
    assert endless.error == "verifier_timeout"
    assert [verdict.reward for verdict in others] == [1.0, 0.0, 1.0]
