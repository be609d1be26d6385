"""Verdicts of a pure environment: equal rollouts of a task are verified once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rolloutops.environments.stored_rollout import StoredRollout
from rolloutops.environments.verdict import Verdict
from rolloutops.types import Rollout, Task

CACHED = 65_536
"""Verdicts that are kept for equal rollouts, the latest used."""


class VerdictCache:
    """The verdicts of equal rollouts, those under way among them."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, asyncio.Future[Verdict]] = OrderedDict()

    def once(
        self, item: tuple[Task, Rollout] | StoredRollout, start: Callable[[], Verdict | asyncio.Future[Verdict]]
    ) -> Verdict | asyncio.Future[Verdict]:
        """Return the verdict of an equal rollout where one is known, else start a new one."""
        key = _key(item)
        if key is None:
            return start()
        if key in self._known:
            self._known.move_to_end(key)
            return _copy(self._known[key])
        started = start()
        if not isinstance(started, Verdict):
            self._known[key] = started
            started.add_done_callback(lambda done: self._forget(key, done))
            if len(self._known) > CACHED:
                self._known.popitem(last=False)
        return started

    def _forget(self, key: bytes, done: asyncio.Future[Verdict]) -> None:
        """A failure may have been the machine's: the next equal rollout is verified again."""
        if done.cancelled() or done.exception() or done.result().error:
            self._known.pop(key, None)


def _key(item: tuple[Task, Rollout] | StoredRollout) -> bytes | None:
    """A hash of all that verify sees; None for what orjson cannot write, which is then verified each time."""
    import orjson

    seen: Any = item
    if not isinstance(item, StoredRollout):
        task, rollout = item
        seen = [
            [task.dataset, task.task_id, task.row, task.prompt, task.tools, task.answer],
            [rollout.completion, rollout.text, rollout.finish_reason],
        ]
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
