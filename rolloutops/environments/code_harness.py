"""What runs inside the sandbox: it reads a job from standard input, runs a program against its tests, each in a child
process under limits, and writes what came of it to standard output. Only the standard library, and nothing of ours:
`sandbox.py` hands this file's text to a bare interpreter.

The job, as JSON: `code`, `mode`, `tests`, `keep`, `name`, `path`, `calls`, `seconds`, `test_seconds`, `memory`,
`output`.
What comes back: {"results": [{"status", "output", "message"}, ...]}, one for each test, or {"broken": "why"}.

A child can start no process (seccomp on Linux), so that nothing outlives it. It holds no expected output: those of
programs and functions are compared outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import resource
import signal
import sys
import time
from typing import Any

FAILED, MEMORY, OUTPUT = 101, 102, 103
"""Exit statuses of a child: it raised, asked for too much memory, wrote too much."""
WALL = 3
"""A test's limit is one of CPU time, which a busy machine does not shorten; one that sleeps has so many times that."""
STATUS = {0: "ok", FAILED: "error", MEMORY: "memory_limit", OUTPUT: "output_limit"}


def main() -> None:
    """Read the job, run it, write the results."""
    job = json.loads(sys.stdin.buffer.read())
    sys.path.extend(job["path"])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(
            4, 0, 0, 0, 0
        )  # PR_SET_DUMPABLE: no child opens this process's memory or files in /proc
    guard = seccomp(job["calls"])
    if sys.platform == "linux" and not works(guard):
        write(1, json.dumps({"broken": "this system has no way to keep a program from starting others (seccomp)"}))
        return
    ends = time.monotonic() + job["seconds"]
    results = run_asserts(job, guard, ends) if job["mode"] == "asserts" else run_each(job, guard, ends)
    write(1, json.dumps({"results": results}))


def run_each(job: dict[str, Any], guard: Any, ends: float) -> list[dict[str, Any]]:
    """Programs and functions: a child for each test. After one that took too long none is run any more."""
    results: list[dict[str, Any]] = []
    for given, keep in zip(job["tests"], job["keep"], strict=True):
        if results and results[-1]["status"] in ("timeout", "not_run"):
            results.append({"status": "not_run", "output": "", "message": ""})
            continue
        if job["mode"] == "function":
            results.append(child(job, guard, ends, lambda report, given=given: call(job, given, report), b"", keep))
        else:
            results.append(child(job, guard, ends, lambda report: program(job), given.encode(), keep))
    return results


def run_asserts(job: dict[str, Any], guard: Any, ends: float) -> list[dict[str, Any]]:
    """Asserts: one child runs the code and then each of them; it reports one line for each."""
    one = child(job, guard, ends, lambda report: asserts(job, report), b"", 2**20)
    reported = [json.loads(line) for line in one["output"].splitlines()][: len(job["tests"])]
    results = [{"status": "error" if why else "ok", "output": "", "message": why} for why in reported]
    for n in range(len(results), len(job["tests"])):
        first = n == len(reported)
        ended = "error" if one["status"] == "ok" else one["status"]  # it ended before its tests did
        message = one["message"] or "the program ended before its tests"
        results.append({"status": ended if first else "not_run", "output": "", "message": message if first else ""})
    return results


def program(job: dict[str, Any]) -> None:
    """Run the code as a program that reads standard input."""
    exec(compile(job["code"], "solution.py", "exec"), {"__name__": "__main__"})


def call(job: dict[str, Any], value: Any, report: int) -> None:
    """Call the function that the task names, and report what it returns, as JSON."""
    scope: dict[str, Any] = {"__name__": "solution"}
    exec(compile(job["code"], "solution.py", "exec"), scope)
    holder = scope["Solution"]() if "Solution" in scope else None
    function = getattr(holder, job["name"], None) or scope.get(job["name"])
    if function is None:
        raise NameError(f"the program has no function {job['name']!r}")
    arguments = [json.loads(line) for line in value.split("\n") if line.strip()] if isinstance(value, str) else value
    write(report, json.dumps(function(*arguments), default=repr))


def asserts(job: dict[str, Any], report: int) -> None:
    """Run the code, then each test in its scope; report for each what was wrong, an empty text for nothing."""
    scope: dict[str, Any] = {"__name__": "solution"}
    exec(compile(job["code"], "solution.py", "exec"), scope)
    for test in job["tests"]:
        try:
            exec(compile(test, "test.py", "exec"), scope)
            why = ""
        except MemoryError:
            raise
        except BaseException as error:
            why = (
                error_text(error)
                if not isinstance(error, AssertionError) or error.args
                else f"not true: {test.strip()}"
            )
        write(report, json.dumps(why[:500]) + "\n")


def write(fd: int, text: str) -> None:
    """Write a text, all of it."""
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(fd, data) :]


def child(job: dict[str, Any], guard: Any, ends: float, body: Any, stdin: bytes, keep: int) -> dict[str, Any]:
    """Run `body` in a child under limits. Its output is what it reported, for a program what it printed."""
    files = [scratch() for _ in range(4)]  # input, output, errors, report
    write_all(files[0], stdin)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        live(job, guard, body, files)
    status, burnt = wait(pid, min(ends, started + WALL * job["test_seconds"]))
    source = files[1] if job["mode"] == "program" else files[3]
    output, errors = read(source, keep), read(files[2], 65_536)
    for fd in files:
        os.close(fd)
    message = errors.decode(errors="replace").strip()[-1500:]
    ended_by = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
    unstoppable = ended_by == signal.SIGKILL and burnt > 0.5 * job["test_seconds"]  # it caught SIGXCPU
    if status is None or ended_by == signal.SIGXCPU or unstoppable:
        return {"status": "timeout", "output": "", "message": f"not finished within {job['test_seconds']:g} s"}
    if ended_by is not None:
        message = f"the program was ended by {signal.Signals(ended_by).name}"
        return {"status": "error", "output": "", "message": message}
    code = os.WEXITSTATUS(status)
    named = STATUS.get(code, "error")
    kept = output.decode(errors="replace") if named == "ok" or job["mode"] == "asserts" else ""
    limits = {
        MEMORY: f"it needs more than {job['memory'] / 2**20:g} MB",
        OUTPUT: "it writes more output than the limit",
    }
    message = limits.get(code) or message or ("" if code == 0 else f"exit status {code}")
    return {"status": named, "output": kept, "message": message}


def live(job: dict[str, Any], guard: Any, body: Any, files: list[int]) -> None:
    """A child's life. Never returns."""
    code = FAILED
    try:
        for fd in range(3):
            os.dup2(files[fd], fd)
        report = os.dup2(files[3], 3)
        os.closerange(4, 256)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.argv = ["solution.py"]
        limit(job, guard)
        try:
            body(report)
        finally:
            with contextlib.suppress(ValueError):  # the program may have closed it
                sys.stdout.flush()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else FAILED
        code = code & 0xFF
    except MemoryError:
        code = MEMORY
    except OSError as error:
        code = OUTPUT if error.errno in (errno.EFBIG, errno.ENOSPC) else FAILED
        tell(error)
    except BaseException as error:
        tell(error)
    finally:
        os._exit(code)


def tell(error: BaseException) -> None:
    """Write an error to standard error, if that is still there."""
    with contextlib.suppress(BaseException):
        os.write(2, error_text(error).encode(errors="replace")[:1500])


def error_text(error: BaseException) -> str:
    """An error in one line: where in the program, what."""
    line, at = 0, error.__traceback__
    while at is not None:
        line = at.tb_lineno if at.tb_frame.f_code.co_filename == "solution.py" else line
        at = at.tb_next
    return f"{f'line {line}: ' if line else ''}{type(error).__name__}: {error}"[:1000]


def limit(job: dict[str, Any], guard: Any) -> None:
    """Set the limits of this process."""
    limits = [
        ("RLIMIT_AS", job["memory"]),
        ("RLIMIT_CPU", math.ceil(job["test_seconds"])),
        ("RLIMIT_FSIZE", job["output"]),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
    ]
    if sys.platform != "linux":
        limits.append(("RLIMIT_NPROC", 0))
    for name, value in limits:
        kind = getattr(resource, name, None)
        if kind is not None:
            highest = resource.getrlimit(kind)[1]
            highest = 2**62 if highest == resource.RLIM_INFINITY else highest
            hard = value + 1 if name == "RLIMIT_CPU" else value  # first SIGXCPU, a second later SIGKILL
            with contextlib.suppress(ValueError, OSError):  # macOS refuses some
                resource.setrlimit(kind, (min(value, highest), min(hard, highest)))
    if guard is not None and not guard():
        os._exit(FAILED)


def works(guard: Any) -> bool:
    """Whether the guard can be installed here, found out in a child."""
    if guard is None:
        return False
    pid = os.fork()
    if pid == 0:
        os._exit(0 if guard() else 1)
    return os.waitpid(pid, 0)[1] == 0


def seccomp(calls: dict[str, Any] | None) -> Any:
    """A function that forbids this process to start or to touch others, for good; None where there is no way.

    calls: as of `syscalls.py`. It returns whether that worked. Threads stay allowed; clone3 looks absent, so that C
    libraries fall back to clone.
    """
    if calls is None:
        return None
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse, absent = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    code: list[tuple[int, int, int, int]] = [
        *((load, 0, 0, 4), (equal, 1, 0, calls["audit"]), (end, 0, 0, kill)),  # another machine's numbers
        *((load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (end, 0, 0, refuse)),  # the x32 numbers
        *((equal, 0, 1, calls["clone3"]), (end, 0, 0, absent)),
    ]
    for number in calls["refused"]:
        code += [(equal, 0, 1, number), (end, 0, 0, refuse)]

    def by_argument(number: int, argument: int, values: list[int], count: int, other: int) -> None:
        """What becomes of a call by the low half of an argument."""
        code.extend([(equal, 0, len(values) + 3, number), (load, 0, 0, 16 + 8 * argument)])
        code.extend((equal, len(values) - place, 0, value) for place, value in enumerate(values))
        code.extend([(end, 0, 0, other), (end, 0, 0, count)])

    for number, values in calls["second"]:
        by_argument(number, 1, values, refuse, allow)
    threads = 0x00010000  # CLONE_THREAD
    clone = [(equal, 0, 3, calls["clone"]), (load, 0, 0, 16), (any_bit, 1, 0, threads), (end, 0, 0, refuse)]

    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.POINTER(Instruction)))

    library = ctypes.CDLL(None, use_errno=True)
    prctl = library.prctl

    def install() -> bool:
        for number, argument, zero in calls["own"]:
            by_argument(number, argument, [*zero, os.getpid()], allow, refuse)
        code.extend([*clone, (end, 0, 0, allow)])
        made = Program(len(code), (Instruction * len(code))(*(Instruction(*line) for line in code)))
        drop_capabilities(library)
        prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG: not to outlive this driver
        if prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
            return False
        return bool(prctl(22, 2, ctypes.byref(made), 0, 0) == 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

    return install


def drop_capabilities(library: Any) -> None:
    """Take root's rights over other processes from a program that runs without a sandbox, as root."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    library.capset(header, (ctypes.c_uint32 * 6)())


def wait(pid: int, ends: float) -> tuple[int | None, float]:
    """A child's exit status, None where it did not end in time and was killed; and the CPU seconds that it took."""
    pause = 0.0005
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            return status, used.ru_utime + used.ru_stime
        if time.monotonic() >= ends:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None, 0.0
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def scratch() -> int:
    """A file without a name, in the working directory."""
    name = f".scratch-{time.monotonic_ns()}"
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(name)
    return fd


def write_all(fd: int, data: bytes) -> None:
    """Fill a file, and go back to its start."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)


def read(fd: int, keep: int) -> bytes:
    """The first bytes of a file."""
    os.lseek(fd, 0, os.SEEK_SET)
    parts = []
    while keep > 0 and (part := os.read(fd, min(keep, 2**20))):
        parts.append(part)
        keep -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
