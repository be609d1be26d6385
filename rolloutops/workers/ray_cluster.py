"""Workers as tasks of a Ray cluster, which places them, and places them anew when a node is lost.

A node needs rolloutops in the same version, and the workspace under the same path. What a lost node had in flight is
all that it costs: the next worker finds what is pending in the workspace.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rolloutops import __version__
from rolloutops.errors import MissingExtra, UsageError
from rolloutops.layout import count, verb
from rolloutops.store.workspace import lock_file
from rolloutops.workers.node import NodeJob, sign_of
from rolloutops.workers.supervisor import RESTARTS, WorkerEnd

HEAD_SECONDS = 10.0
"""How long a cluster's head may take to accept a connection."""


class RayWorkers:
    """The workers of one command on a Ray cluster."""

    says_restarts = False

    def __init__(self, ray: Any, jobs: Sequence[NodeJob], gpus: int, say: Callable[[str], None]) -> None:
        """ray: the package, connected. gpus: of each worker. say: takes lines for the screen."""
        self._ray, self._say, self._interrupts = ray, say, 0
        first = jobs[0].job
        self._sign = sign_of(first.data, first.name.group)
        _sweep(self._sign.parent)
        self._held = os.open(self._sign, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        lock_file(self._held)  # as long as this command runs
        self._sign.write_text("0")
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RESTARTS, "scheduling_strategy": "SPREAD"}
        task = ray.remote(**options)(_task())
        files = ray.put(dict(jobs[0].files))
        self._numbers = {task.remote(_without_files(job), files, __version__): job.job.name.number for job in jobs}

    def wait(self, seconds: float) -> list[WorkerEnd]:
        """Wait at most so long for workers to end; returns those that did."""
        ended, _ = self._ray.wait(list(self._numbers), num_returns=1, timeout=seconds)
        return [self._end(ref) for ref in ended]

    def stop(self) -> None:
        """Let all workers end soon; called again, at once."""
        self._interrupts += 1
        self._sign.write_text(str(self._interrupts))
        for ref in list(self._numbers):
            if self._interrupts > 2:
                self._ray.cancel(ref, force=True)

    def close(self) -> None:
        """Let go of the workers and of the cluster."""
        with suppress(OSError):
            self._sign.unlink()
        os.close(self._held)
        self._ray.shutdown()

    def _end(self, ref: Any) -> WorkerEnd:
        number = self._numbers.pop(ref)
        try:
            end, lines = self._ray.get(ref)
        except Exception as error:  # whatever Ray could not help by trying again
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self._say(f"worker {number} was lost, and Ray started it {RESTARTS} times again: {reason}")
            return WorkerEnd(number, died=True, exit_code=2)
        for line in lines:
            self._say(line)
        return WorkerEnd(*end)


def _sweep(locks: Path) -> None:
    """Take away the signs of commands that were killed."""
    for sign in locks.glob(sign_of("", "*").name):
        with suppress(OSError), sign.open("rb") as file:
            if lock_file(file.fileno()):
                sign.unlink()


def connect_to_ray(address: str | None, workers: int, gpus: int, say: Callable[[str], None]) -> Any:
    """Connect to a cluster and return the package ray. address: of its head (default: RAY_ADDRESS, else the cluster of
    this machine). Raises MissingExtra, or UsageError where there is no cluster or no node for a worker."""
    try:
        import ray as package
    except ImportError as error:
        raise MissingExtra("--on=ray", "ray") from error
    ray: Any = package  # whose own types are wrong in places
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _require_head(address)
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # Ray has many of them, and none is a bug here
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"cannot connect to a Ray cluster at {address} ({reason}): start one with ray start --head, or name "
            "another with --ray_address"
        ) from error
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max((int(node.get("GPU", 0)) for node in nodes), default=0)
    if gpus > most:
        ray.shutdown()
        raise UsageError(f"each worker needs {count(gpus, 'GPU')}, and no node of the Ray cluster has more than {most}")
    room = sum(min(int(node.get("CPU", 0)), int(node.get("GPU", 0)) // gpus if gpus else workers) for node in nodes)
    if room < workers:
        say(f"the Ray cluster has room for {room} of {count(workers, 'worker')} now; the others {verb(2, 'wait')}")
    return ray


def _require_head(address: str) -> None:
    """Raise OSError where nothing answers at the address of a head: Ray asks for minutes before it says so."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), HEAD_SECONDS).close()


def _without_files(job: NodeJob) -> dict[str, Any]:
    """A job as plain values, which any version can read."""
    return {"line": job.job.line(), "words": list(job.words), "folder": job.folder, "recipe": job.recipe_folder}


def _task() -> Callable[..., Any]:
    """What a node runs: a function that is sent as a whole, since the node may have no rolloutops, or another one."""

    def work(job: dict[str, Any], files: dict[str, bytes], version: str) -> tuple[tuple[Any, ...], list[str]]:
        import json
        import socket

        number, host = json.loads(job["line"])["name"]["number"], socket.gethostname()
        try:
            import rolloutops
        except ImportError:
            there = "is not installed"
        else:
            there = f"is {rolloutops.__version__}"
        if there != f"is {version}":
            why = f"rolloutops {there} on {host} and is {version} where the command was started: install the same there"
            return (number, None, why, 2, False), []
        from rolloutops.workers.job import job_of
        from rolloutops.workers.node import NodeJob, run_on_node

        end, lines = run_on_node(NodeJob(job_of(job["line"]), job["words"], files, job["folder"], job["recipe"]))
        return tuple(end), lines

    return work
