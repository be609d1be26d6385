"""The pace of a fleet: several servers of one model, each with its own rate limit, concurrency and circuit.

A request goes to the server that has the least to do for its size; a conversation stays with its server, which has the
beginning of it in its prefix cache. A server that is down is left out and looked at now and then, with growing pauses,
until it answers again. What it had not begun, or was the first to break off, goes to another one within the same
attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from rolloutops.limits.concurrency import Concurrency
from rolloutops.limits.rate_limit import Permit, RateLimit
from rolloutops.types import Limits, ModelCall


@dataclass(slots=True)
class ReplicaConcurrency:
    """The concurrency of a fleet whose servers each find their own: their sum. Servers that are down do not count."""

    paces: Sequence[RateLimit]
    adapts: bool = True

    @property
    def now(self) -> int:
        """Rollouts that may be in flight."""
        up = [pace.concurrency.now for pace in self.paces if not pace.is_down]
        return sum(up) or sum(pace.concurrency.now for pace in self.paces)

    def held_back(self) -> None:
        """Each server's own concurrency limit is told, here and below, by its own pace."""

    def started(self) -> None: ...

    def ended(self, in_flight: int, timed_out: bool = False) -> None: ...

    def refused(self, open_requests: int, again: bool = False) -> None: ...

    def keep_empty(self, places: int) -> None: ...


@dataclass(slots=True)
class ReplicaRateLimit:
    """The paces of a fleet's servers as one. concurrency: how many rollouts may be in flight on all of them together.
    served: requests that each server answered. moved: requests that went from a server that was down to another."""

    paces: Sequence[RateLimit]
    concurrency: Concurrency
    moved: int = 0
    served: list[int] = field(init=False)
    _door: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.served = [0] * len(self.paces)
        for pace in self.paces:
            pace.lone = False

    def at_once(self, call: ModelCall | None = None) -> Permit | None:
        """A ticket, if a request may be sent to one of the servers now."""
        return None if self._door.locked() else self._permit(call)

    async def admit(self, call: ModelCall | None = None) -> Permit:
        """Wait until a request may be sent, first come, first served."""
        for pace in self.paces:
            pace.concurrency.held_back()
        async with self._door:
            while (permit := self._permit(call)) is None:
                await asyncio.sleep(min(0.5, max(0.001, min(pace.wait() for pace in self.paces))))
            return permit

    def answered(self, permit: Permit, prompt: int, output: int, limits: Limits | None) -> None:
        """The server answered."""
        pace = self._of(permit)
        self.served[permit.server or 0] += 1
        pace.concurrency.ended(pace.open)
        pace.answered(permit, prompt, output, limits)

    def failed(self, permit: Permit, kind: str, retry_after: float | None, limits: Limits | None) -> None:
        """The request failed."""
        pace = self._of(permit)
        pace.concurrency.ended(pace.open, timed_out=kind == "timeout")
        pace.failed(permit, kind, retry_after, limits)

    def another_server(self, permit: Permit, kind: str, moved: int) -> int | None:
        """Another server that a request that failed may go to within the same attempt. moved: how often it did so.

        What a server never got says nothing about the request. One that was broken off may be to blame, so it is
        tried on one more server; the second time it is a failed attempt.
        """
        if not (kind in ("unreachable", "loading") or (kind == "connection" and moved == 0)):
            return None
        others = (n for n in self._in_turn(None) if n != permit.server and not self.paces[n].is_down)
        other = next(others, None)
        self.moved += other is not None
        return other

    def has_another(self, permit: Permit) -> bool:
        """Whether a server other than the one of a refused request may be asked now: then only that server's own
        requests wait as long as it said."""
        return any(n != permit.server and not pace.is_held_up for n, pace in enumerate(self.paces))

    @property
    def refusals(self) -> int:
        """Answers 429."""
        return sum(pace.refusals for pace in self.paces)

    @property
    def hold_reason(self) -> str:
        """The kind of failure that holds requests up: a limit, unless all servers are down."""
        return next((pace.hold_reason for pace in self.paces if not pace.is_down), self.paces[0].hold_reason)

    def note(self) -> str:
        """Who is down, and what holds requests up, for the line of progress."""
        down = sum(pace.is_down for pace in self.paces)
        said = [f"{down} of {len(self.paces)} servers down"] if down else []
        held = next((note for pace in self.paces if not pace.is_down and (note := pace.note())), "")
        return ", ".join(filter(None, [*said, held]))

    def _permit(self, call: ModelCall | None) -> Permit | None:
        for server in self._in_turn(call):
            pace = self.paces[server]
            permit = pace.at_once(call)
            if permit is not None:
                permit.server = server
                pace.concurrency.started()
                return permit
        return None

    def _in_turn(self, call: ModelCall | None) -> list[int]:
        """The servers in the order in which a call would have them: its own, then those with least to do."""
        paces, served = self.paces, self.served
        order = sorted(range(len(paces)), key=lambda n: (paces[n].open / paces[n].concurrency.now, served[n]))
        own = call.server if call is not None else None
        return order if own is None or paces[own].is_down else [own, *(n for n in order if n != own)]

    def _of(self, permit: Permit) -> RateLimit:
        return self.paces[permit.server or 0]


AnyRateLimit: TypeAlias = RateLimit | ReplicaRateLimit
"""One endpoint's pace, or a fleet's."""
