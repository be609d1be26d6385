"""Run a program that nobody has read: in bubblewrap, without network, on a read-only system, under limits.

bubblewrap (`bwrap`) makes new namespaces without root: the program sees the system's libraries, the interpreter with
its packages, and an empty /tmp of its own. The limits of memory, CPU, output and processes are set by
`code_harness.py`, with or without bubblewrap; without it the program can read and write what its user can.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rolloutops.environments import code_harness, syscalls

SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/sbin", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives")
"""What of the system a program sees: libraries, nothing that is anybody's."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
ENVIRON = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""All that a program sees of the environment: no key is in it."""
SPARE = 5.0
"""Seconds beyond a job's own limit after which the sandbox itself is ended."""


class SandboxFailed(Exception):
    """The sandbox could not run the program; nothing is said about the program."""


def run(job: Mapping[str, Any], sandboxed: bool) -> list[dict[str, Any]]:
    """Run a job of `code_harness.py`; `path` and `calls` are added here. Returns {status, output, message} of
    each test.

    Raises SandboxFailed where the sandbox did not come up. A program that takes its sandbox down has failed all tests.
    """
    data = json.dumps({**job, "path": _packages(), "calls": syscalls.for_this_machine()}).encode()
    with tempfile.TemporaryDirectory(prefix="rolloutops-", ignore_cleanup_errors=True) as folder:
        argv = _bubblewrap(int(job["output"]) * 4 + 2 * len(data)) if sandboxed else []
        process = subprocess.Popen(
            [*argv, *_python(), Path(code_harness.__file__).read_text(encoding="utf-8")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRON if sandboxed else {**ENVIRON, "HOME": folder},
            cwd="/" if sandboxed else folder,
        )
        try:
            out, errors = process.communicate(data, timeout=float(job["seconds"]) + SPARE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, errors = process.communicate()
    try:
        answer = json.loads(out)
    except ValueError:
        said = errors.decode(errors="replace").strip()
        if process.returncode == 1 and (said.startswith("bwrap:") or not sandboxed):
            raise SandboxFailed(f"the sandbox does not start: {said[-500:]}") from None
        ended = {"status": "error", "output": "", "message": "the program ended the sandbox that it ran in"}
        return [ended for _ in job["tests"]]
    if "broken" in answer:
        raise SandboxFailed(answer["broken"])
    results: list[dict[str, Any]] = answer["results"]
    return results


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why there is no sandbox here, None where there is one."""
    if sys.platform != "linux":
        return "bubblewrap is for Linux"
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    done = subprocess.run(
        [*_bubblewrap(0), *_python(), "pass"], env=ENVIRON, capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else f"bubblewrap does not work here: {done.stderr.strip()[-300:]}"


def _python() -> list[str]:
    """The bare interpreter: no site module, no user's folders, nothing from the environment."""
    return [os.path.realpath(sys.executable), "-I", "-S", "-X", "utf8", "-c"]


def _packages() -> list[str]:
    """The folders of installed packages, which a program may import."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _bubblewrap(tmp_bytes: int) -> list[str]:
    """The command line up to the program's own."""
    argv = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
    ]
    argv += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    prefix = str(Path(os.path.realpath(sys.executable)).parents[1])
    own = [path for path in (prefix, *_packages()) if not path.startswith("/usr/") and path != "/usr"]
    argv += ["--perms", "1777", "--size", str(max(tmp_bytes, 2**26)), "--tmpfs", "/tmp"]
    for path in (*SYSTEM, *own):
        argv += ["--ro-bind-try", path, path]
    for path in DEVICES:
        argv += ["--dev-bind-try", path, path]
    return [*argv, "--remount-ro", "/", "--chdir", "/tmp", "--"]
