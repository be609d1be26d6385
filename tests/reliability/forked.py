"""Commands in processes of their own, forked from one that has imported everything: each costs its work, not its
imports, and can be killed for good. With them an engine and an environment that do what a test wants.

An engine here answers as the scripted one does, notes each answer in `delivered.jsonl`, and may kill its process, or
interrupt it, right after a certain answer.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rolloutops.cli.main import main
from rolloutops.engines import scripted
from rolloutops.store import failpoints
from rolloutops.types import Engine, ModelAnswer, ModelCall, Rollout, Task

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "rolloutops.build.build", "duckdb", "pyarrow.parquet"])


PATIENCE = 300.0
"""Seconds after which a command that has not ended is a fault; what it was at is told."""


class Process:
    """A command that runs in a folder. failpoint: as ROLLOUTOPS_FAILPOINT. die, stop: after so many answers of the
    engine it kills itself, or sends itself Ctrl-C."""

    def __init__(self, folder: Path, *words: str, failpoint: str = "", die: int = 0, stop: int = 0) -> None:
        self.said = folder / "said.txt"
        self.process = CONTEXT.Process(target=_child, args=(str(folder), words, failpoint, die, stop))
        self.process.start()

    def end(self, *codes: int) -> int:
        """Wait for it. Returns its exit code, which is one of these; minus the signal's number where one ended it."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
        said = self.said.read_text()[-4000:]
        assert code in codes, f"exit {code}: {said}"
        assert code != 2 or "attempts failed" in said.splitlines()[-1], said
        self.process.close()
        return code


def run(folder: Path, *words: str, codes: tuple[int, ...] = (0,), **how: Any) -> int:
    """Run a command in a folder and wait for it; the arguments are those of Process."""
    return Process(folder, *words, **how).end(*codes)


def _child(folder: str, words: tuple[str, ...], failpoint: str, die: int, stop: int) -> None:
    os.chdir(folder)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    faulthandler.dump_traceback_later(PATIENCE - 10)
    failpoints._name, _, count = failpoint.partition(":")
    failpoints._left = int(count or 1)
    Noting.die, Noting.stop_at = die, stop
    code = main(list(words))
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


class Noting:
    """The scripted engine, with a note of each answer that it gave."""

    die = stop_at = given = 0

    def __init__(self, inner: Engine) -> None:
        self.inner = inner

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def answer(self, call: ModelCall) -> ModelAnswer:
        """One answer, and perhaps the end."""
        answer = await self.inner.answer(call)
        with open("delivered.jsonl", "a") as log:
            log.write(json.dumps([call.key, call.messages[-1]["content"], call.attempt]) + "\n")
        Noting.given += 1
        if Noting.given == Noting.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if Noting.given == Noting.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return answer


def engine(model: str, faults: str = "", delay: str = "0..0.004") -> Noting:
    """The engine, as a plug-in."""
    return Noting(scripted.ScriptedEngine(model, faults=faults, delay=delay))


def delivered(folder: Path) -> list[tuple[Any, ...]]:
    """(key, prompt, attempt) of each answer that an engine gave."""
    path = folder / "delivered.jsonl"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def reward(text: str, version: int) -> float:
    """The verdict of a version of the verifier."""
    return float((len(text) + version) % 3)


class Judging:
    """An environment whose verdicts depend on its version."""

    def __init__(self, version: int) -> None:
        self.version = version

    def verify(self, task: Task, rollout: Rollout) -> float:
        """A reward that tells which version gave it."""
        return reward(rollout.text, self.version)


def environment(version: int) -> Judging:
    """The environment, as a plug-in."""
    return Judging(version)
