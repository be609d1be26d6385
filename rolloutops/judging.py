"""Judging: an environment's verify, run so that whatever it does becomes a verdict.

Where it runs is the environment's choice. A plain verify runs here, in microseconds; a coroutine is awaited with a time
limit; one that computes (`cpu_bound`) runs in worker processes that can be stopped. A verifier that raises, hangs,
takes all memory or ends its process has failed for this one rollout: an error in the verdict, never a reward of 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
import numbers
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from rolloutops.environments import Rollout, Task
from rolloutops.plugins import Plugin
from rolloutops.pool import Pool

CACHED = 65_536
"""Verdicts that are kept for equal rollouts, the latest used."""
WINDOW = 1024
"""Rollouts that `judge_many` has in flight."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier made of a rollout.

    reward: None where it failed. metrics: every finite number and truth value that it returned, `reward` among them.
    details: everything that it returned, as JSON can hold it. error: None, `verifier_error` or `verifier_timeout`.
    seconds: how long verify ran. cached: taken from an equal rollout's verdict.
    """

    reward: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    error_message: str | None = None
    seconds: float = 0.0
    cached: bool = False


class Judge:
    """Judges rollouts of one environment.

    environment: as made by `plugin` with `settings`; workers make their own. processes: workers for environments that
    compute (default: the cores; 0: none, then nothing can stop a verifier). timeout: seconds for one verdict, but for
    a plain verify, which cannot be interrupted. memory_mb: what a worker may take; None is no limit.
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
        self.environment, self.timeout = environment, timeout
        self._verify = environment.verify
        cpu_bound = getattr(environment, "cpu_bound", False) if processes != 0 else False
        self._pooled = cpu_bound if callable(cpu_bound) else None  # of a task
        self._always_pooled = cpu_bound is True
        self._async = inspect.iscoroutinefunction(self._verify)
        self._plain = not (self._pooled or self._always_pooled or self._async)
        memory = None if memory_mb is None else memory_mb * 2**20
        self._pool = Pool("rolloutops.judging:_worker", (plugin, dict(settings)), _stopped, processes, timeout, memory)
        self._cache: OrderedDict[bytes, asyncio.Future[Verdict]] | None = None
        if getattr(environment, "pure", False):
            self._cache = OrderedDict()
        if not self._always_pooled:
            _prepare(environment)

    async def judge(self, task: Task, rollout: Rollout) -> Verdict:
        """One verdict. Raises RolloutopsError where no worker process can be started, and nothing else."""
        if self._plain:
            return _judged(self._verify, task, rollout)
        verdict = self._start(task, rollout)
        return verdict if isinstance(verdict, Verdict) else await asyncio.shield(verdict)

    async def judge_many(self, pairs: Iterable[tuple[Task, Rollout]]) -> AsyncIterator[Verdict]:
        """The verdicts of many rollouts, in their order. `pairs` is read as it is needed, WINDOW ahead."""
        window: deque[Verdict | asyncio.Future[Verdict]] = deque()
        for n, (task, rollout) in enumerate(pairs, 1):
            window.append(self._start(task, rollout))
            if n % 64 == 0:
                await asyncio.sleep(0)  # verdicts made here must not keep other work of this event loop waiting
            while window and (len(window) >= WINDOW or isinstance(window[0], Verdict) or window[0].done()):
                verdict = window.popleft()
                yield verdict if isinstance(verdict, Verdict) else await verdict
        for verdict in window:
            yield verdict if isinstance(verdict, Verdict) else await verdict

    async def close(self) -> None:
        """End the worker processes."""
        await self._pool.close()

    def _start(self, task: Task, rollout: Rollout) -> Verdict | asyncio.Future[Verdict]:
        """A verdict, or its future where it takes time; that of an equal rollout where there is one."""
        pooled = self._always_pooled or (self._pooled is not None and self._pooled(task))
        if not pooled and not self._async:
            # Not looked up in the cache: that takes longer than most plain verifiers.
            return _judged(self._verify, task, rollout)
        key = _key(task, rollout) if self._cache is not None else None
        if key is not None and self._cache is not None and key in self._cache:
            self._cache.move_to_end(key)
            return _copy(self._cache[key])
        started = self._submit(task, rollout) if pooled else asyncio.ensure_future(self._awaited(task, rollout))
        if key is not None and self._cache is not None and not isinstance(started, Verdict):
            self._cache[key] = started
            started.add_done_callback(lambda done: self._forget(key, done))
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return started

    def _submit(self, task: Task, rollout: Rollout) -> Verdict | asyncio.Future[Verdict]:
        try:
            return self._pool.submit((task, rollout))
        except (TypeError, AttributeError, ValueError) as error:  # pickle's ways to say no
            return _failed(f"the rollout cannot be sent to a worker process: {error}")

    async def _awaited(self, task: Task, rollout: Rollout) -> Verdict:
        clock = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout):
                returned = await self._verify(task, rollout)
        except TimeoutError as error:
            if time.perf_counter() - clock < self.timeout:  # the verifier's own
                return _failed(_raised(error), seconds=time.perf_counter() - clock)
            return _stopped("timeout", f"no verdict within {self.timeout:g} s", time.perf_counter() - clock)
        except Exception as error:
            return _failed(_raised(error), seconds=time.perf_counter() - clock)
        return _verdict(returned, time.perf_counter() - clock)

    def _forget(self, key: bytes, done: asyncio.Future[Verdict]) -> None:
        """A failure may have been the machine's: the next equal rollout is judged anew."""
        if self._cache is not None and (done.cancelled() or done.exception() or done.result().error):
            self._cache.pop(key, None)


def _judged(verify: Any, task: Task, rollout: Rollout) -> Verdict:
    """One verdict, here and now."""
    clock = time.perf_counter()
    try:
        returned = verify(task, rollout)
    except (Exception, SystemExit) as error:
        return _failed(_raised(error), seconds=time.perf_counter() - clock)
    return _verdict(returned, time.perf_counter() - clock)


def _verdict(returned: Any, seconds: float) -> Verdict:
    """A verdict of what verify returned: a number, or a dict with `reward`."""
    details = returned if isinstance(returned, Mapping) else {"reward": returned}
    if "reward" not in details:
        return _failed(f"verify returned no 'reward', only {', '.join(map(str, details)) or 'an empty dict'}", seconds)
    plain: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    for name, value in details.items():
        kind = type(value)
        if kind is not str and kind is not float and kind is not bool and kind is not int and value is not None:
            value = _json(value)
            kind = type(value)
        if kind is float or kind is bool or kind is int:
            number = _number(value)
            if number is not None:
                metrics[str(name)] = number
            elif kind is float:
                value = None  # JSON has no NaN
        plain[str(name)] = value
    if "reward" not in metrics:
        what = f"{details['reward']!r:.80}"
        return _failed(f"verify must return a finite number, or a dict with one under 'reward', not {what}", seconds)
    return Verdict(metrics["reward"], metrics, plain, seconds=seconds)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _json(value: Any) -> Any:
    """A value as JSON can hold it; scalars of numpy and torch become numbers, what JSON has no form for its text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, numbers.Real | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(item) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _json(value.item())
    return str(value)


def _failed(message: str, seconds: float = 0.0) -> Verdict:
    return Verdict(None, error="verifier_error", error_message=message[:2048], seconds=seconds)


def _stopped(kind: str, message: str, seconds: float) -> Verdict:
    """The verdict on a rollout whose verifier was stopped from outside."""
    error = "verifier_timeout" if kind == "timeout" else "verifier_error"
    return Verdict(None, error=error, error_message=message, seconds=seconds)


def _raised(error: BaseException) -> str:
    return f"verify raised {type(error).__name__}: {error}"


def _prepare(environment: Any) -> None:
    prepare = getattr(environment, "prepare", None)
    if prepare is not None:
        prepare()


def _worker(setup: tuple[Plugin, dict[str, Any]]) -> Any:
    """In a worker process: make the environment, and give the function that judges one rollout."""
    plugin, settings = setup
    environment = plugin.make(settings)
    _prepare(environment)
    verify = environment.verify
    if inspect.iscoroutinefunction(verify):
        runner = asyncio.Runner()

        def run(task: Task, rollout: Rollout) -> Any:
            return runner.run(verify(task, rollout))
    else:
        run = verify

    def answer(item: tuple[Task, Rollout]) -> Verdict:
        clock = time.perf_counter()
        try:
            returned = run(*item)
        except MemoryError:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return _failed(_raised(error), seconds=time.perf_counter() - clock)
        return _verdict(returned, time.perf_counter() - clock)

    return answer


def _key(task: Task, rollout: Rollout) -> bytes | None:
    """A hash of all that verify sees; None for what orjson cannot write, which is then judged each time."""
    import orjson

    seen = (
        [task.dataset, task.task_id, task.row, task.prompt, task.tools, task.answer],
        [rollout.completion, rollout.text, rollout.finish_reason],
    )
    try:
        return hashlib.blake2b(orjson.dumps(seen), digest_size=16).digest()
    except TypeError:
        return None


def _copy(known: asyncio.Future[Verdict]) -> Verdict | asyncio.Future[Verdict]:
    """The verdict of an equal rollout, or a future that gets it."""
    if known.done():
        return replace(known.result(), cached=True)
    copied: asyncio.Future[Verdict] = known.get_loop().create_future()

    def settle(done: asyncio.Future[Verdict]) -> None:
        if copied.done():
            return
        if done.cancelled():
            copied.cancel()
        elif error := done.exception():
            copied.set_exception(error)
        else:
            copied.set_result(replace(done.result(), cached=True))

    known.add_done_callback(settle)
    return copied
