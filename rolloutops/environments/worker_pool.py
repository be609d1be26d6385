"""A few worker processes that compute, each of which can be stopped: a time limit for each item, a memory limit for
each process, and no item that can take the run with it.

A worker (`child_process.py`) answers items in order over one socket. What is outstanding at it is kept to about LATENCY
seconds of work, so cheap items travel in crowds and dear ones one at a time.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from rolloutops.environments.child_process import die_with_parent, limit_memory, start_child
from rolloutops.errors import RolloutopsError

LATENCY = 0.05
"""Seconds of work that may be outstanding at one worker."""
CROWD = 256
"""Items that may be outstanding at one worker."""
START_TIMEOUT = 300.0
"""Seconds that a worker may take to start: heavy packages are imported then."""
STARTS = 3
"""Workers that may fail to start, one after another, before the pool gives up."""

_LENGTH = struct.Struct("<I")


@dataclass(slots=True)
class Item:
    """One item that is not answered yet: its pickle, where the answer goes, and whether a worker ran out of memory."""

    payload: bytes
    future: asyncio.Future[Any]
    again: bool = False


class WorkerPool:
    """Processes that answer items.

    target: `module:function`; it is called once in each worker with `argument` and returns the function that answers
    items (it must not raise but MemoryError). failed(kind, message, seconds): the answer for an item whose worker was
    stopped; kind is `timeout` or `died`. timeout: seconds for one item. memory: bytes that a worker may take beyond
    what it holds when it is ready; None is no limit. A pool belongs to the event loop that first submits to it.
    """

    def __init__(
        self,
        target: str,
        argument: Any,
        failed: Callable[[str, str, float], Any],
        processes: int | None = None,
        timeout: float = 30.0,
        memory: int | None = None,
    ) -> None:
        self.setup = pickle.dumps((target, argument, memory))
        self.failed, self.timeout, self.memory = failed, timeout, memory
        self.processes = processes or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else "1")
        self.queue: deque[Item] = deque()
        self.workers: list[_Worker] = []
        self.gone: list[subprocess.Popen[bytes]] = []
        self.seconds = LATENCY  # what an item takes: a running mean, at first one that sends single items
        self.handing_out = False
        self.failures = 0  # workers that did not start, one after another
        self.broken: RolloutopsError | None = None

    def submit(self, item: Any) -> asyncio.Future[Any]:
        """The answer to an item, in time. Raises what pickling it raises, and RolloutopsError if no worker starts."""
        if self.broken:
            raise self.broken
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.queue.append(Item(pickle.dumps(item, pickle.HIGHEST_PROTOCOL), future))
        self._hand_out_soon()
        return future

    async def close(self) -> None:
        """Kill all workers. What is not answered is cancelled."""
        for item in [*self.queue, *(item for worker in self.workers for item in worker.outstanding)]:
            item.future.cancel()
        self.queue.clear()
        for worker in list(self.workers):
            self._end(worker)
        for process in self.gone:
            await asyncio.to_thread(process.wait)
        self.gone.clear()

    def _hand_out_soon(self) -> None:
        """Once for all that is submitted and answered in one turn of the event loop: one write for many items."""
        if not self.handing_out:
            self.handing_out = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        """Give what is queued to workers with room, the emptiest first; start workers where all are busy."""
        self.handing_out = False
        room = max(1, min(CROWD, int(LATENCY / self.seconds)))
        while self.queue:
            ready = [w for w in self.workers if w.ready and len(w.outstanding) < room]
            if not ready:
                starting = sum(not worker.ready for worker in self.workers)
                if len(self.workers) < self.processes and len(self.queue) > starting:
                    self.workers.append(_Worker(self, asyncio.get_running_loop()))
                    continue
                return
            worker = min(ready, key=lambda w: len(w.outstanding))
            share = max(1, min(room - len(worker.outstanding), len(self.queue) // len(ready)))
            worker.send([self.queue.popleft() for _ in range(share)])

    def _answered(self, worker: _Worker, kind: str, answer: Any, seconds: float) -> None:
        if kind == "ready":
            worker.be_ready()
            self.failures = 0
            self._hand_out_soon()
            return
        if kind == "broken":
            self._on_exit(worker, answer)
            return
        item = worker.outstanding.popleft()
        worker.answered += 1
        if kind == "memory":  # its own fault, or that of what earlier items left behind: a fresh worker tells
            if worker.answered > 1 and not item.again:
                item.again = True
                self.queue.appendleft(item)
            else:
                limit = "" if self.memory is None else f" of {self.memory / 2**20:.0f} MB"
                self._resolve(item, self.failed("died", f"it needs more memory than the limit{limit}", seconds))
            self._end(worker)
            self._give_back(worker)
        else:
            self.seconds += 0.1 * (max(seconds, 1e-5) - self.seconds)
            self._resolve(item, answer)
        self._hand_out_soon()

    def _on_exit(self, worker: _Worker, reason: str | None = None) -> None:
        """A worker's end that was not asked for: the item that it had in hand has failed, the others go back."""
        if worker not in self.workers:
            return
        ended = self._end(worker)
        if not worker.ready:
            self._start_failed(reason or ended)
        elif worker.outstanding:
            item = worker.outstanding.popleft()
            self._resolve(item, self.failed("died", ended, time.monotonic() - worker.progress))
        self._give_back(worker)

    def _timed_out(self, worker: _Worker) -> None:
        self._end(worker)
        if not worker.ready:
            self._start_failed(f"it was not ready within {START_TIMEOUT:.0f} s")
        else:
            item = worker.outstanding.popleft()
            message = f"no verdict within {self.timeout:g} s"
            self._resolve(item, self.failed("timeout", message, time.monotonic() - worker.progress))
        self._give_back(worker)

    def _give_back(self, worker: _Worker) -> None:
        self.queue.extendleft(reversed(worker.outstanding))
        worker.outstanding.clear()
        self._hand_out_soon()

    def _start_failed(self, reason: str) -> None:
        self.failures += 1
        if self.failures >= STARTS:
            self.broken = RolloutopsError(f"a worker process for verifiers does not start: {reason}")
            for item in self.queue:
                if not item.future.done():
                    item.future.set_exception(self.broken)
            self.queue.clear()

    def _resolve(self, item: Item, answer: Any) -> None:
        if not item.future.done():  # its caller may have been cancelled
            item.future.set_result(answer)

    def _end(self, worker: _Worker) -> str:
        """Kill a worker and what it started. Returns how it had ended, in words."""
        self.workers.remove(worker)
        worker.stop()
        process = worker.process
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # does not change the status of a process that is ending already
        code = None
        if worker.hung_up:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(0.2)
        self.gone = [gone for gone in [*self.gone, process] if gone.poll() is None]
        if code is None:
            return "its process closed the connection"
        return f"its process was killed by signal {-code}" if code < 0 else f"its process ended with exit status {code}"


class _Worker(asyncio.Protocol):
    """One worker process, seen from the parent."""

    def __init__(self, pool: WorkerPool, loop: asyncio.AbstractEventLoop) -> None:
        self.pool, self.loop = pool, loop
        self.outstanding: deque[Item] = deque()
        self.ready = self.hung_up = False
        self.answered = 0
        self.buffer = bytearray()
        self.transport: asyncio.WriteTransport | None = None
        self.progress = time.monotonic()
        # Killing its group takes what a verifier has started along.
        self.process, self.ours = start_child("rolloutops.environments.worker_pool")
        self.ours.setblocking(False)
        self.connecting = loop.create_task(loop.create_unix_connection(lambda: self, sock=self.ours))
        self.timer: asyncio.TimerHandle | None = loop.call_later(START_TIMEOUT, self._check)

    def send(self, items: list[Item]) -> None:
        if not self.outstanding:
            self.progress = time.monotonic()
        self.outstanding.extend(items)
        assert self.transport is not None
        self.transport.write(b"".join(item.payload for item in items))
        if self.timer is None:
            self.timer = self.loop.call_later(self.pool.timeout, self._check)

    def be_ready(self) -> None:
        self.ready = True
        if self.timer is not None:  # it measured the start
            self.timer.cancel()
            self.timer = None

    def stop(self) -> None:
        self.connecting.cancel()
        if self.transport is None:
            self.ours.close()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is not an instance of it
        self.transport.write(self.pool.setup)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        at = 0
        while len(self.buffer) - at >= 4:
            end = at + 4 + _LENGTH.unpack_from(self.buffer, at)[0]
            if len(self.buffer) < end:
                break
            self.progress = time.monotonic()
            self.pool._answered(self, *pickle.loads(memoryview(self.buffer)[at + 4 : end]))
            at = end
        del self.buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        self.hung_up = True
        self.pool._on_exit(self)

    def _check(self) -> None:
        """One timer for a worker, not one for an item: it looks when the item in hand is due and sets itself anew."""
        self.timer = None
        if self.ready and not self.outstanding:
            return
        left = self.progress + (self.pool.timeout if self.ready else START_TIMEOUT) - time.monotonic()
        if left > 0:
            self.timer = self.loop.call_later(left, self._check)
        else:
            self.pool._timed_out(self)


def work() -> None:
    """A worker's life: read the setup, then answer items until the parent hangs up. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    with socket.socket(fileno=os.dup(0)) as parent, open(os.devnull) as nothing, parent.makefile("rb") as items:
        os.dup2(nothing.fileno(), 0)
        try:
            target, argument, memory = pickle.load(items)
            module, _, function = target.partition(":")
            answer = getattr(importlib.import_module(module), function)(argument)
            limit_memory(memory)
        except Exception as error:
            _send(parent, "broken", f"{type(error).__name__}: {error}", 0.0)
            os._exit(1)
        _send(parent, "ready", None, 0.0)
        while True:
            start = time.perf_counter()
            try:
                item = pickle.load(items)
                start = time.perf_counter()
                result = answer(item)
                _send(parent, "answer", result, time.perf_counter() - start)
            except MemoryError:
                _send(parent, "memory", None, time.perf_counter() - start)
                os._exit(0)
            except (EOFError, OSError):
                os._exit(0)  # at once: threads that a verifier left behind must not hold the process


def _send(parent: socket.socket, kind: str, answer: Any, seconds: float) -> None:
    data = pickle.dumps((kind, answer, seconds), pickle.HIGHEST_PROTOCOL)
    parent.sendall(_LENGTH.pack(len(data)) + data)
