"""Several servers of one model, as one engine: each call goes to one of them.

Which one a rollout's call goes to says `limits/replica_rate_limit.py`, which knows who is up and how much each has to
do. A call that names none, such as a judge's, goes to the server that has the fewest open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rolloutops.errors import EngineError
from rolloutops.layout import count, verb
from rolloutops.types import ModelAnswer, ModelCall


@dataclass(slots=True)
class Replicas:
    """An engine for each server, two at least; they differ in their address alone."""

    connects: ClassVar[bool] = True
    members: Sequence[Any]
    _open: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._open = [0] * len(self.members)

    async def start(self) -> None:
        """Open each server's session."""
        for member in self.members:
            await member.start()

    async def stop(self) -> None:
        """Close them all."""
        for member in self.members:
            await member.stop()

    async def ready(self) -> str:
        """Which servers answer, for `check`. Raises EngineError where one of them does not: a fleet that begins
        without a server is smaller than it was meant to be."""
        reported = await asyncio.gather(*(member.ready() for member in self.members), return_exceptions=True)
        dead = [str(one) for one in reported if isinstance(one, EngineError)]
        for one in reported:
            if isinstance(one, BaseException) and not isinstance(one, EngineError):
                raise one
        if dead:
            raise EngineError(f"{len(dead)} of {len(reported)} servers do not answer: {'; '.join(dead)}")
        return f"{count(len(reported), 'server')} {verb(len(reported), 'answer')}"

    async def answer(self, call: ModelCall) -> ModelAnswer:
        """One request to one server; its failures as the server's own engine raises them."""
        at = self._open.index(min(self._open)) if call.server is None else call.server
        self._open[at] += 1
        try:
            answer: ModelAnswer = await self.members[at].answer(call)
            return answer
        finally:
            self._open[at] -= 1
