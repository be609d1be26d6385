"""Model-written programs against tests: what passes, what does not, and what tries to take the machine along."""

from __future__ import annotations

import asyncio
import json
import platform
import secrets
import socket
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config.plugins import find
from rolloutops.environments import sandbox
from rolloutops.environments.code import make
from rolloutops.environments.verdict import Verdict
from rolloutops.environments.verification import VerifierRunner
from rolloutops.errors import UsageError
from rolloutops.types import Rollout, Task
from tests.helpers import query, rolloutops, write_jsonl

MISSING = sandbox.missing()
needs_sandbox = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
BOTH = [pytest.param(False, id="sandbox", marks=needs_sandbox), pytest.param(True, id="unsafe")]

ASSERTS = {"tests": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]}
PAIRS = {"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "3 4\n", "output": "7"}]}
GYM = {"verifier_metadata": {"unit_tests": {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}}}
FUNCTION = {"input_output": json.dumps({"inputs": ["1\n2", "3\n4"], "outputs": ["3", "7"], "fn_name": "add"})}
ADD = "def add(a, b):\n    return a + b\n"
READ = "a, b = map(int, input().split())\n"


@pytest.fixture
def unsafe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Without bubblewrap where the parameter says so, as on a machine that has none."""
    if request.param:
        monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap (bwrap) is not installed")
    return bool(request.param)


def judged(row: dict[str, Any], text: str, unsafe: bool = False, **given: Any) -> dict[str, Any]:
    return make(unsafe_code=unsafe, **given).verify(Task("d", "t", row, []), Rollout([], text))


@pytest.mark.parametrize("unsafe", BOTH, indirect=True)
@pytest.mark.parametrize(
    ("row", "text", "passed", "status"),
    [
        (ASSERTS, f"Like this:\n```python\n{ADD}```\nDone.", 2, "passed"),
        ({"test_list": ASSERTS["tests"], "test_setup_code": "import math"}, ADD, 3, "passed"),
        ({"tests": "assert add(1, 2) == 3\nassert add(2, 2) == 4"}, ADD, 1, "passed"),
        (ASSERTS, "def add(a, b): return 4", 1, "error"),
        (PAIRS, f"<think>```python\nno\n```</think>```\n{READ}print(a + b)\n```", 2, "passed"),
        (GYM, f"{READ}print(float(a + b), end='   ')", 2, "passed"),
        (GYM, "print(3)", 1, "wrong_answer"),
        (GYM, f"{READ}print(a + b)\nraise SystemExit(1)", 0, "error"),
        (FUNCTION, "class Solution:\n    def add(self, a, b):\n        return a + b", 2, "passed"),
        (FUNCTION, ADD, 2, "passed"),
        (FUNCTION, "def plus(a, b): return a + b", 0, "error"),
        (GYM, "I would rather not.", 0, "no_program"),
        (GYM, "", 0, "no_program"),
    ],
)  # fmt: skip
def test_programs(unsafe: bool, row: dict[str, Any], text: str, passed: int, status: str) -> None:
    verdict = judged(row, text, unsafe)
    tests = verdict["tests"]
    assert (verdict["passed"], verdict["status"], verdict["reward"]) == (passed, status, float(passed == tests))
    assert judged(row, text, unsafe, partial=True)["reward"] == passed / tests
    assert bool(verdict["message"]) == (status != "passed")


@pytest.mark.parametrize("unsafe", BOTH, indirect=True)
@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        ("while True: pass", "timeout", "not finished within 1 s"),
        ("import time\nwhile True: time.sleep(1)", "timeout", "not finished within 1 s"),
        ("from signal import *\nfor n in (SIGTERM, SIGXCPU): signal(n, SIG_IGN)\nwhile True: pass", "timeout", "1 s"),
        ("x = bytearray(10 * 2**30)", "memory_limit", "it needs more than 256 MB"),
        ("x = []\nwhile True: x.append(bytearray(2**20))", "memory_limit", "it needs more than 256 MB"),
        ("import os\nwhile True: os.fork()", "error", "line 2: PermissionError"),
        ("import subprocess\nsubprocess.Popen(['sleep', '1000'])", "error", "PermissionError"),
        ("import threading, time\nwhile 1: threading.Thread(target=time.sleep, args=(9,)).start()", "error", "thread"),
        ("while True: print('x' * 10**6)", "output_limit", "more output than"),
        ("open('big', 'wb').write(b'x' * 2**22)", "output_limit", "more output than"),
        ("import os\nos.kill(os.getppid(), 9)", "error", "line 2: PermissionError"),
        ("import os\nos.kill(0, 9)", "error", "line 2: PermissionError"),
        ("import os\nos.kill(os.getpid(), 9)", "error", "SIGKILL"),
        ("import os\nos.abort()", "error", "SIGABRT"),
        ("import ctypes\nprint(ctypes.CDLL(None).unshare(0x10000000))", "wrong_answer", "'-1"),
        ("1 / 0", "error", "line 1: ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_what_a_program_must_not_do_is_a_failed_verdict(unsafe: bool, text: str, status: str, told: str) -> None:
    seconds = 1.0 if status == "timeout" else 10.0
    verdict = judged(GYM, text, unsafe, test_seconds=seconds, memory_mb=256, output_kb=1024)
    assert (verdict["reward"], verdict["status"]) == (0.0, status), verdict
    assert told in verdict["message"]


FORGERY = """
import ctypes, json, os, signal, sys
call, parent = ctypes.CDLL(None).syscall, os.getppid()
told = json.dumps({"results": [{"status": "ok", "output": "", "message": ""}] * 2}).encode()
try:
    fds = [call(438, call(434, parent, 0), 1, 0), os.open(f"/proc/{parent}/fd/1", os.O_WRONLY)]
except OSError:
    fds = []
for fd in fds:
    os.write(fd, told)
call(424, call(434, parent, 0), signal.SIGKILL, 0, 0)
def add(a, b): return 5
"""
"""A program whose answers are wrong, and which writes a verdict where the harness writes, then ends it."""


@pytest.mark.parametrize("unsafe", BOTH, indirect=True)
def test_a_program_cannot_write_its_own_verdict(unsafe: bool) -> None:
    verdict = judged(ASSERTS, FORGERY, unsafe)
    assert (verdict["reward"], verdict["passed"], verdict["status"]) == (0.0, 0, "error")


@pytest.mark.parametrize("unsafe", BOTH, indirect=True)
@pytest.mark.parametrize(
    "attempt",
    [
        *("call(312, parent, os.getpid(), 0, 0, 1)", "call(425, 8, ctypes.create_string_buffer(256))", "call(323, 0)"),
        *("call(321, 0, 0, 0)", "call(298, 0, parent, -1, -1, 0)", "call(250, 0, -3, 0)", "call(249, 0, 0, 0, 0)"),
        *("call(440, 3, 0, 0, 4, 0)", "call(310, parent, 0, 0, 0, 0, 0)", "call(101, 16, parent, 0, 0)"),
        *("call(200, parent, 19)", "call(129, parent, 19, ctypes.create_string_buffer(128))", "call(62, -1, 0)"),
        *("open(f'/proc/{parent}/mem', 'r+b')", "open(f'/proc/{parent}/environ')", "open(f'/proc/{parent}/fd/1', 'w')"),
        *("fcntl.fcntl(0, fcntl.F_SETOWN, parent)", "fcntl.ioctl(0, 0x5412, b'x')", "fcntl.ioctl(0, 0x8901, b'1234')"),
        *("resource.prlimit(parent, resource.RLIMIT_CPU, (0, 0))", "os.setpriority(os.PRIO_PROCESS, parent, 19)"),
    ],
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
def test_a_program_cannot_reach_its_harness(unsafe: bool, attempt: str) -> None:
    """Each is refused, not only of no effect: EPERM, or nothing is there."""
    text = f"""
import ctypes, errno, fcntl, os, resource
library, parent = ctypes.CDLL(None, use_errno=True), os.getppid()
def call(*words):
    if library.syscall(*words) == -1: raise OSError(ctypes.get_errno(), "refused")
try: {attempt}
except OSError as error: print(errno.errorcode[error.errno] in ("EPERM", "EACCES", "ENOENT"))
"""
    verdict = judged({"tests": [{"input": "", "output": "True"}]}, text, unsafe)
    assert verdict["status"] == "passed", verdict


@pytest.mark.parametrize("unsafe", BOTH, indirect=True)
def test_what_a_program_does_to_itself_is_its_own_affair(unsafe: bool) -> None:
    text = """
import fcntl, os, resource, signal, threading, tempfile
signal.signal(signal.SIGUSR1, lambda *_: print("signal"))
os.kill(os.getpid(), signal.SIGUSR1)
signal.raise_signal(signal.SIGUSR1)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with tempfile.TemporaryFile(dir=".") as file: fcntl.lockf(file, fcntl.LOCK_EX)
one = threading.Thread(target=print, args=("thread",)); one.start(); one.join()
os.nice(1)
"""
    verdict = judged({"tests": [{"input": "", "output": "signal\nsignal\nthread"}]}, text, unsafe)
    assert verdict["status"] == "passed", verdict


@pytest.mark.parametrize("unsafe", BOTH, indirect=True)
def test_asserts_that_never_run_have_not_passed(unsafe: bool) -> None:
    for leave in ("import sys; sys.exit(0)", "import os; os._exit(0)"):
        verdict = judged(ASSERTS, f"{ADD}\n{leave}", unsafe)
        assert (verdict["reward"], verdict["status"]) == (0.0, "error")
        assert "ended before its tests" in verdict["message"]
    inside = {"tests": ["raise SystemExit(0)", "assert True"]}
    assert judged(inside, ADD, unsafe)["passed"] == 1


@needs_sandbox
def test_the_sandbox_shows_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    row = {"tests": [{"input": "", "output": "ok"}]}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for attempt in (
            f"open({str(secret)!r})",
            f"open({str(Path(__file__))!r})",
            "open('/etc/passwd')",
            "open('/usr/here', 'w')",
            "open('/here', 'w')",
            "__import__('os').environ['SOME_API_KEY']",
            f"__import__('socket').create_connection({listening.getsockname()!r}, 1)",
        ):
            verdict = judged(row, f"try:\n    {attempt}\nexcept (OSError, KeyError):\n    print('ok')")
            assert verdict["status"] == "passed", (attempt, verdict)
    name = f"/tmp/{secrets.token_hex(8)}"
    assert judged(row, f"open({name!r}, 'w').write('x')\nprint('ok')")["status"] == "passed"
    assert not Path(name).exists()
    assert judged(row, "import orjson\nprint('ok')")["status"] == "passed", "installed packages can be imported"


def test_without_a_sandbox_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap (bwrap) is not installed")
    plugin = find("environment", "code")

    async def one(**given: Any) -> Verdict:
        verifier = VerifierRunner(plugin.make(given), plugin, given, processes=1)
        try:
            return await verifier.verify(Task("d", "t", ASSERTS, []), Rollout([], ADD))
        finally:
            await verifier.close()

    with pytest.raises(UsageError, match=r"no sandbox for them: bubblewrap .* is not installed; .*--unsafe_code"):
        asyncio.run(one())
    assert asyncio.run(one(unsafe_code=True)).reward == 1.0


def test_a_run_goes_on(tmp_path: Path) -> None:
    """Good and bad programs through the command line: each has a verdict, the good ones pass."""
    deeds = ["while True: pass", "x = bytearray(10 * 2**30)", "import os\nwhile True: os.fork()", f"{READ}print(a + b)"]
    rows = [{"prompt": f"program {n}", "solution": deeds[n % 4], **PAIRS} for n in range(8)]
    given = write_jsonl(tmp_path / "programs.jsonl", rows)
    (tmp_path / "rule.py").write_text("def say(call): return call.row['solution']")
    (tmp_path / "programs.toml").write_text(
        f"""
        data = "w"
        [datasets.programs]
        input = "{given.name}"
        environment = "code"
        environment_args = {{ test_seconds = 1.0 }}
        [collect]
        engine = "scripted"
        verify = "later"
        [collect.engine_args]
        rule = "rule.py:say"
        """
    )
    rolloutops("chunk", "programs.toml", cwd=tmp_path)
    rolloutops("collect", "programs.toml", cwd=tmp_path)
    rolloutops("verify", "programs.toml", *(["--unsafe_code"] if MISSING else []), cwd=tmp_path)
    status = "json_extract_string(details, '$.status')"
    found = query(tmp_path / "w", f"SELECT {status}, count(*), sum(reward) FROM rollouts GROUP BY 1 ORDER BY 1")
    assert found == [("error", 2, 0.0), ("memory_limit", 2, 0.0), ("passed", 2, 2.0), ("timeout", 2, 0.0)]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({}, "no tests"),
        ({"tests": [1, 2]}, "neither Python code nor pairs"),
        ({"unit_tests": {"inputs": ["1"], "outputs": []}}, "two lists of one length"),
    ],
)
def test_rows_without_tests(row: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        judged(row, ADD, unsafe=True)


def test_gold() -> None:
    environment = make(unsafe_code=True)
    task = Task("d", "t", {**ASSERTS, "solution": ADD}, [])
    gold = environment.gold(task)
    assert gold is not None
    assert environment.verify(task, Rollout([], gold))["reward"] == 1.0
    assert environment.gold(Task("d", "t", ASSERTS, [])) is None
