"""Verifying: an environment's verify, run so that whatever it does becomes a verdict.

How it runs the environment declares (`runs`, see `Environment` in `types.py`). One that declares nothing runs here, in
microseconds, and moves to worker processes, which can be stopped, as soon as it is slow; where these cannot make it,
and where no process is allowed, it stays here, in threads. A verifier that raises, hangs, takes all memory or ends its
process has failed for this one rollout: an error in the verdict, never a reward of 0.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from rolloutops.config.plugins import Plugin
from rolloutops.config.redact import tell
from rolloutops.environments.cpu_time import CpuClock, process_cpu
from rolloutops.environments.hooks import how_it_runs, runs_as
from rolloutops.environments.stored_rollout import StoredRollout
from rolloutops.environments.verdict import Verdict, failed, raised, stopped, verdict_of
from rolloutops.environments.verdict_cache import VerdictCache
from rolloutops.environments.worker_pool import WorkerPool
from rolloutops.errors import RolloutopsError
from rolloutops.types import Rollout, Runs, Task

WINDOW = 1024
"""Rollouts that `verify_all` has in flight."""
BATCH = 64
"""Verdicts that are made here before other work of the event loop has a turn."""
TRIED, WORTH = 0.05, 4.0
"""Seconds of a plain verify after which it is known, and seconds of it to come that are worth starting workers."""
SLOW, HELD_UP, SHARE, THREADS = 0.05, 0.5, 0.1, 64
"""Seconds of a plain verify from which it is slow; seconds of slow ones, and their share of the time since the first
(a busy machine makes a few), after which they have held up the event loop for long enough; threads that run it where it
stays in this process."""

Key = TypeVar("Key")


class VerifierRunner:
    """Judges rollouts of one environment.

    environment: as made by `plugin` with `settings`; workers make their own. processes: worker processes (default: the
    cores; 0: none, then nothing can stop a verifier). timeout: seconds for one verdict (the environment's `longest`, if
    that is more), but for what runs inline, which cannot be interrupted. memory_mb: what a worker may take; None is no
    limit.
    Use it in one event loop, and `close` it there.
    """

    def __init__(
        self,
        environment: Any,
        plugin: Plugin,
        settings: Mapping[str, Any],
        processes: int | None = None,
        timeout: float = 30.0,
        memory_mb: int | None = 4096,
    ) -> None:
        self.environment, self.timeout = environment, max(timeout, getattr(environment, "longest", 0.0))
        self._verify = environment.verify
        runs = how_it_runs(environment)
        self._runs_of = runs if callable(runs) else None  # of a task
        self._may_use_processes = processes != 0
        self._may_move = runs is None and self._may_use_processes
        self._runs: Runs = self._possible("inline" if runs is None or callable(runs) else runs)
        self._is_proven = not self._may_move  # False while it is not known whether a worker can make the environment
        self._died: RolloutopsError | None = None
        self._held_up = self._slow_since = 0.0
        self._threads: ThreadPoolExecutor | None = None
        self.is_plain = self._runs_of is None and self._runs == "inline"
        memory = None if memory_mb is None else memory_mb * 2**20
        setup = (plugin, dict(settings))
        self._pool = WorkerPool(
            "rolloutops.environments.verification:_worker", setup, stopped, processes, self.timeout, memory
        )
        self._turn = asyncio.Semaphore(int(getattr(environment, "parallel", None) or WINDOW))
        self._cache = VerdictCache() if getattr(environment, "pure", False) else None
        self._preflight = getattr(environment, "preflight", None)
        self._is_used_here = self._runs != "process"
        if self._is_used_here:
            _prepare(environment)

    def at_once(self, task: Task, rollout: Rollout) -> Verdict | None:
        """The verdict of a plain verify; None where it takes time, and `verify` is to be awaited."""
        if not self.is_plain or self._preflight is not None:
            return None
        verdict = _verify_here(self._verify, task, rollout)
        if verdict.seconds >= SLOW:
            self._slow(verdict.seconds)
        return verdict

    async def verify(self, task: Task, rollout: Rollout) -> Verdict:
        """One verdict. Raises RolloutopsError where no rollout can be verified: no worker process starts, the machine
        has no sandbox, the key of a judge is refused. Nothing else."""
        verdict = self.at_once(task, rollout)
        if verdict is not None:
            return verdict
        started = self._start((task, rollout))
        return started if isinstance(started, Verdict) else await asyncio.shield(started)

    def _slow(self, seconds: float) -> None:
        """A verify in place was slow. If such ones take too much of the event loop's time, the next are elsewhere."""
        self._held_up += seconds
        self._slow_since = self._slow_since or time.perf_counter() - seconds
        if self._held_up >= max(HELD_UP, SHARE * (time.perf_counter() - self._slow_since)):
            self._move()

    def _move(self) -> None:
        """Verify in worker processes from now on; in threads where the environment may not leave this process."""
        self.is_plain = False
        if self._may_move:
            self._runs = "process"
        else:
            self._threads = ThreadPoolExecutor(int(getattr(self.environment, "parallel", None) or THREADS))

    def _stay(self, why: RolloutopsError) -> None:
        """Verify in this process again: no worker can make the environment, which has not declared that it must."""
        if self._runs != "process":
            return  # another rollout's attempt has told it
        self._runs, self._may_move, self._is_proven = "inline", False, True
        self._move()
        tell(f'{why}. Slow verifications run in this process; declare runs = "inline" in the environment if they must')

    def _possible(self, runs: Runs) -> Runs:
        """How a verify runs that declares this."""
        if runs != "process" or self._may_use_processes:
            return runs
        return "async" if inspect.iscoroutinefunction(self._verify) else "inline"

    async def verify_all(
        self, stored: Iterable[tuple[Key, StoredRollout]], count: int
    ) -> AsyncIterator[list[tuple[Key, Verdict]]]:
        """The verdicts of many stored rollouts, each with its key, in lists, as they end.

        stored: read as it is needed, WINDOW ahead. count: how many they are; a plain verify that will take seconds for
        so many is spread over the worker processes. Raises as `verify` does.
        """
        ended: list[tuple[Key, Verdict | asyncio.Future[Verdict]]] = []
        flying, wake, here = 0, asyncio.Event(), 0.0

        def on_verdict(key: Key, verdict: asyncio.Future[Verdict]) -> None:
            nonlocal flying
            flying -= 1
            ended.append((key, verdict))
            wake.set()

        def take() -> list[tuple[Key, Verdict]]:
            said = [(key, each if isinstance(each, Verdict) else self._unless_dead(each)) for key, each in ended]
            ended.clear()
            return [(key, verdict) for key, verdict in said if verdict is not None]

        for n, (key, item) in enumerate(stored, 1):
            if self._died is not None:  # what is under way is paid for: it is waited for
                break
            started = self._start(item)
            if isinstance(started, Verdict):
                ended.append((key, started))
                here += started.seconds
                if self.is_plain and self._may_move and here >= TRIED and here / n * (count - n) >= WORTH:
                    self._move()
                elif self.is_plain and not self._may_move and started.seconds >= SLOW:
                    self._slow(started.seconds)
            else:
                flying += 1
                started.add_done_callback(partial(on_verdict, key))
            while flying >= WINDOW:
                wake.clear()
                await wake.wait()
            if n % BATCH == 0:
                await asyncio.sleep(0)
            if ended and (n % BATCH == 0 or flying >= WINDOW - 1):
                yield take()
        while flying:
            wake.clear()
            await wake.wait()
            yield take()
        yield take()
        if self._died is not None:
            raise self._died

    async def close(self) -> None:
        """End the worker processes, and what the environment holds open."""
        await self._pool.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        close = getattr(self.environment, "close", None)
        if close is not None and self._is_used_here:
            closed = close()
            if inspect.isawaitable(closed):
                await closed

    def _start(self, item: tuple[Task, Rollout] | StoredRollout) -> Verdict | asyncio.Future[Verdict]:
        """A verdict, or its future where it takes time; that of an equal rollout where there is one."""
        if self._preflight is not None:
            self._preflight()
            self._preflight = None
        if self._runs == "process":
            return self._once(item, lambda: self._in_process(item))  # read where it is verified
        try:
            task, rollout = pair = item.read() if isinstance(item, StoredRollout) else item
        except ValueError as error:
            return failed(f"the stored rollout cannot be read: {error}")
        try:
            runs = self._runs if self._runs_of is None else self._possible(runs_as(self._runs_of(task)))
        except Exception as error:
            return failed(f"runs(task) raised {type(error).__name__}: {error}")
        if runs == "process":
            return self._once(pair, lambda: self._submit(pair))
        if runs == "async":
            return self._once(pair, lambda: asyncio.ensure_future(self._awaited(task, rollout)))
        if self._threads is not None:
            return self._once(pair, lambda: self._in_thread(task, rollout))
        # Not looked up in the cache: that takes longer than most plain verifiers.
        return _verify_here(self._verify, task, rollout)

    def _once(
        self, item: tuple[Task, Rollout] | StoredRollout, start: Callable[[], Verdict | asyncio.Future[Verdict]]
    ) -> Verdict | asyncio.Future[Verdict]:
        return start() if self._cache is None else self._cache.once(item, start)

    def _in_thread(self, task: Task, rollout: Rollout) -> asyncio.Future[Verdict]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, _verify_here, self._verify, task, rollout)

    def _in_process(self, item: tuple[Task, Rollout] | StoredRollout) -> Verdict | asyncio.Future[Verdict]:
        if self._is_proven:
            return self._submit(item)
        return asyncio.ensure_future(self._in_process_or_here(item))

    async def _in_process_or_here(self, item: tuple[Task, Rollout] | StoredRollout) -> Verdict:
        try:
            submitted = self._submit(item)
            verdict = submitted if isinstance(submitted, Verdict) else await submitted
            self._is_proven = True
            return verdict
        except RolloutopsError as error:  # no worker starts, so this rollout was not verified
            self._stay(error)
        try:
            task, rollout = item.read() if isinstance(item, StoredRollout) else item
        except ValueError as error:
            return failed(f"the stored rollout cannot be read: {error}")
        return await self._in_thread(task, rollout)

    def _submit(self, item: tuple[Task, Rollout] | StoredRollout) -> Verdict | asyncio.Future[Verdict]:
        try:
            return self._pool.submit(item)
        except (TypeError, AttributeError, ValueError) as error:  # pickle's ways to say no
            return failed(f"the rollout cannot be sent to a worker process: {error}")

    async def _awaited(self, task: Task, rollout: Rollout) -> Verdict:
        async with self._turn:
            if self._died is not None:
                raise self._died
            return await self._answered(task, rollout)

    async def _answered(self, task: Task, rollout: Rollout) -> Verdict:
        cpu = CpuClock()
        verdict = await self._within(cpu.measured(self._called(task, rollout)))
        verdict.cpu_seconds = cpu.seconds
        return verdict

    async def _called(self, task: Task, rollout: Rollout) -> Any:
        verifying = self._verify(task, rollout)
        if not inspect.isawaitable(verifying):
            what = type(verifying).__name__
            raise TypeError(f'runs is "async", but verify returned {what}, not a coroutine: write async def verify')
        return await verifying

    async def _within(self, verifying: Awaitable[Any]) -> Verdict:
        clock = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout):
                returned = await verifying
        except TimeoutError as error:
            if time.perf_counter() - clock < self.timeout:  # the verifier's own
                return failed(raised(error), seconds=time.perf_counter() - clock)
            return stopped("timeout", f"no verdict within {self.timeout:g} s", time.perf_counter() - clock)
        except RolloutopsError as error:
            self._died = error
            raise
        except Exception as error:
            return failed(raised(error), seconds=time.perf_counter() - clock)
        return verdict_of(returned, time.perf_counter() - clock)

    def _unless_dead(self, done: asyncio.Future[Verdict]) -> Verdict | None:
        error = done.exception()
        self._died = error if isinstance(error, RolloutopsError) else self._died
        return None if isinstance(error, RolloutopsError) else done.result()


def _verify_here(verify: Any, task: Task, rollout: Rollout) -> Verdict:
    """One verdict, here and now."""
    clock, cpu = time.perf_counter(), time.thread_time()
    try:
        returned = verify(task, rollout)
    except (Exception, SystemExit) as error:
        verdict = failed(raised(error), seconds=time.perf_counter() - clock)
    else:
        verdict = verdict_of(returned, time.perf_counter() - clock)
    verdict.cpu_seconds = time.thread_time() - cpu
    return verdict


def _prepare(environment: Any) -> None:
    prepare = getattr(environment, "prepare", None)
    if prepare is not None:
        prepare()


def _worker(setup: tuple[Plugin, dict[str, Any]]) -> Any:
    """In a worker process: make the environment, and give the function that verifies one rollout."""
    plugin, settings = setup
    environment = plugin.make(settings)
    _prepare(environment)
    verify = environment.verify
    runner = asyncio.Runner()  # it opens a loop when it is first used

    def run(task: Task, rollout: Rollout) -> Any:
        returned = verify(task, rollout)
        return runner.run(returned) if inspect.iscoroutine(returned) else returned

    def answer(item: tuple[Task, Rollout] | StoredRollout) -> Verdict:
        cpu = process_cpu()
        verdict = _answer(run, item)
        verdict.cpu_seconds = process_cpu() - cpu
        return verdict

    return answer


def _answer(run: Callable[[Task, Rollout], Any], item: tuple[Task, Rollout] | StoredRollout) -> Verdict:
    """One verdict of a worker process; raises MemoryError alone."""
    clock = time.perf_counter()
    try:
        task, rollout = item.read() if isinstance(item, StoredRollout) else item
    except ValueError as error:
        return failed(f"the stored rollout cannot be read: {error}")
    try:
        returned = run(task, rollout)
    except MemoryError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return failed(raised(error), seconds=time.perf_counter() - clock)
    return verdict_of(returned, time.perf_counter() - clock)
