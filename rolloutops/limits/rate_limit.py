"""How fast an endpoint is asked: when the next request may go out, and how many rollouts are in flight.

`Retry-After` holds up the request that was refused. It holds up all of them where the refusal is not one of a few:
where nothing has been answered yet, or where refusals come in a row; and then until a request that was sent after the
first of them is answered. A limit that headers tell is kept; one that is not told is learned from refusals (429), see
`learned_rate.py`. How many rollouts are in flight is fixed, or adapts (`concurrency.py`). An endpoint that is down is
asked once in a while, until it answers again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rolloutops.limits.advertised_limit import AdvertisedLimit
from rolloutops.limits.concurrency import Concurrency, loop_time
from rolloutops.limits.learned_rate import LearnedLimit
from rolloutops.limits.shared_rate import SharedRate
from rolloutops.limits.token_estimate import CHARACTERS, text_length
from rolloutops.types import Limits, ModelCall

DOWN = frozenset({"connection", "unreachable", "server_error", "loading"})
"""Failures that say that the endpoint is down, where nothing else is heard from it."""
DOWN_AFTER = 8
"""Such failures in a row after which it is taken for down."""
PROBE_SECONDS = 30.0
"""The longest wait between two looks at an endpoint that is down, and between refusals that name no time."""
IN_A_ROW = 3
"""Refusals in a row, with nothing let through between them, after which a pause holds up all requests."""
MOSTLY = 0.8
"""Share of refusals that is a row: what was sent to catch up may get through between them."""


@dataclass(slots=True)
class Permit:
    """One request that was let through: when, how much had been sent before it, and the tokens estimated for it.
    server: of a fleet, which is to be asked."""

    at: float
    requests: int
    tokens: float
    estimate: float
    server: int | None = None


@dataclass(slots=True)
class RateLimit:
    """One endpoint's pace, shared by all that ask it. budget: what the user allows a minute. lone: there is no other
    endpoint, so this one is taken for down only when nothing else is heard from it. longest_pause: seconds, of what
    `Retry-After` may ask for; a rollout does not wait for longer than its deadline either."""

    concurrency: Concurrency
    budget: SharedRate | None = None
    clock: Callable[[], float] = loop_time
    lone: bool = True
    longest_pause: float = math.inf
    refusals: int = 0
    _learned: LearnedLimit = field(default_factory=LearnedLimit)
    _requests: AdvertisedLimit = field(default_factory=AdvertisedLimit)
    _tokens: AdvertisedLimit = field(default_factory=AdvertisedLimit)
    _sent: int = 0
    _sent_tokens: float = 0.0
    _output: float = 256.0
    _proven: bool = False
    _refused_until: float = 0.0
    _pauses: int = 0
    _row: int = 0
    _row_began: int = 0
    _down_until: float = 0.0
    _down_kind: str = ""
    _down_in_a_row: int = 0
    _down_since: float = 0.0
    _open: int = 0
    _lifted: asyncio.Future[None] | None = None
    _door: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_down(self) -> bool:
        """Whether the endpoint is taken for down."""
        return self._down_in_a_row >= DOWN_AFTER

    @property
    def hold_reason(self) -> str:
        """The kind of failure that holds requests up: that of an endpoint that is down, else its limit."""
        return self._down_kind if self.is_down else "rate_limited"

    @property
    def open(self) -> int:
        """Requests that are not answered yet."""
        return self._open

    @property
    def _paused_until(self) -> float:
        return max(self._refused_until, self._down_until)

    def another_server(self, permit: Permit, kind: str, moved: int) -> int | None:
        """Another server that a request that failed may go to at once: there is none. See `ReplicaRateLimit`."""
        return None

    def has_another(self, permit: Permit) -> bool:
        """Whether another server may be asked now: there is none. See `ReplicaRateLimit`."""
        return False

    @property
    def is_held_up(self) -> bool:
        """Whether no request may be sent for now."""
        return self.is_down or self.clock() < self._paused_until

    def wait(self) -> float:
        """Seconds until a request may be sent, as far as is known now."""
        if self.budget is not None:  # asking it would spend it
            return max(0.02, self._paused_until - self.clock())
        return self._wait(0.0)

    def at_once(self, call: ModelCall | None = None) -> Permit | None:
        """A ticket, if a request may be sent now."""
        estimate = self._estimate(call)
        return None if self._door.locked() or self._wait(estimate) > 0 else self._let_through(estimate)

    async def admit(self, call: ModelCall | None = None) -> Permit:
        """Wait until a request may be sent, first come, first served."""
        self.concurrency.held_back()
        async with self._door:
            estimate = self._estimate(call)
            while (wait := self._wait(estimate)) > 0:
                await self._sleep(max(wait, 0.001))
            return self._let_through(estimate)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or until a pause is lifted."""
        loop = asyncio.get_running_loop()
        self._lifted = loop.create_future()
        timer = loop.call_later(seconds, _wake, self._lifted)
        try:
            await self._lifted
        finally:
            timer.cancel()

    def answered(self, permit: Permit, prompt: int, output: int, limits: Limits | None) -> None:
        """The endpoint answered: the tokens of the prompt and of the answer."""
        now = self.clock()
        self._open -= 1
        if self.is_down:
            self._down_until = now
        self._down_in_a_row = 0
        if not self._row or permit.requests > self._row_began:
            if self._refused_until > now and self._lifted is not None:
                _wake(self._lifted)
            self._proven, self._row, self._pauses, self._refused_until = True, 0, 0, now
            self.concurrency.keep_empty(0)
        self._learned.answered(permit.requests, now)
        self._output += (output - self._output) / 50
        if permit.estimate:
            self._settle(permit, prompt + output)
        if limits is not None:
            self._hear(permit, limits)

    def failed(self, permit: Permit, kind: str, retry_after: float | None, limits: Limits | None) -> None:
        """The request failed. An endpoint that is down holds up everyone, and so do refusals in a row."""
        now = self.clock()
        self._open -= 1
        if limits is not None:
            self._hear(permit, limits)
        if permit.estimate:
            self._settle(permit, 0)
        if kind == "rate_limited" or retry_after is not None:
            self._hold_up(permit, now, retry_after)
        if kind == "rate_limited":
            self._refuse(permit, now)
        elif kind in DOWN or (kind == "timeout" and not self.lone):
            self._count_down(permit, kind, now)

    def note(self) -> str:
        """What holds requests up, for the line of progress; empty where nothing does."""
        wait = self._paused_until - self.clock()
        if wait > 0.5:
            return f"paused {wait:.0f} s: {'endpoint down' if self.is_down else 'rate limit'}"
        rate = self._requests.per_second or self._learned.rate
        return f"limit {rate:,.1f} requests/s" if rate else ""

    def _wait(self, estimate: float) -> float:
        now = self.clock()
        if now < self._paused_until:
            return self._paused_until - now
        wait = self._requests.wait(now, 1) if self._requests.per_second else self._learned.wait(now)
        if self._tokens.per_second:
            wait = max(wait, self._tokens.wait(now, estimate))
        if wait == 0 and self.budget is not None:
            wait = self.budget.take(estimate)
        return wait

    def _let_through(self, estimate: float) -> Permit:
        now = self.clock()
        if self.is_down:
            self._down_until = now + self._down_wait()  # one looks whether it is back, the others wait
        self._learned.sent(now)
        self._requests.left -= 1
        self._tokens.left -= estimate
        self._open += 1
        self._sent += 1
        self._sent_tokens += estimate
        return Permit(now, self._sent, self._sent_tokens, estimate)

    def _refuse(self, permit: Permit, now: float) -> None:
        self.refusals += 1
        shown = self._learned.refused(permit.requests, now)
        if shown is not False:
            self.concurrency.refused(self._open, again=shown is None)
        elif self._learned.rate is None:
            self.concurrency.keep_empty(self._row)

    def _hold_up(self, permit: Permit, now: float, retry_after: float | None) -> None:
        """Pause for all requests, if the refusal is not one of a few. What was sent after the first of a row and is not
        refused yet counts as let through."""
        if not self._row:
            self._row_began = permit.requests
        self._row += 1
        since = self._sent - self._row_began + 1
        if self._proven and (self._row < IN_A_ROW or self._row < MOSTLY * since):
            return
        if retry_after is None:
            self._pauses += now >= self._refused_until
            retry_after = min(PROBE_SECONDS, 0.25 * 2 ** min(self._pauses, 10))
        self._refused_until = max(self._refused_until, now + min(retry_after, self.longest_pause))

    def _hear(self, permit: Permit, limits: Limits) -> None:
        now, sent, tokens = self.clock(), self._sent - permit.requests, self._sent_tokens - permit.tokens
        self._requests.hear(limits.requests, limits.requests_left, permit.at, now, sent)
        self._tokens.hear(limits.tokens, limits.tokens_left, permit.at, now, tokens)

    def _count_down(self, permit: Permit, kind: str, now: float) -> None:
        """One more sign that the endpoint is down; once it is, only what was sent since tells anything new."""
        if self.is_down and permit.at < self._down_since:
            return
        was_down = self.is_down
        self._down_in_a_row += 1
        self._down_kind = kind
        if kind in ("unreachable", "loading") and not self.lone:
            self._down_in_a_row = max(self._down_in_a_row, DOWN_AFTER)
        if self.is_down:
            self._down_since = self._down_since if was_down else now
            self._down_until = max(self._down_until, now + self._down_wait())

    def _down_wait(self) -> float:
        return min(PROBE_SECONDS, 2.0 ** min(self._down_in_a_row - DOWN_AFTER, 10))

    def _estimate(self, call: ModelCall | None) -> float:
        """Tokens that a call may take; 0 where nobody limits them."""
        if call is None or not (self._tokens.per_second or (self.budget and self.budget.tokens_per_minute)):
            return 0.0
        characters = sum(text_length(str(message.get("content") or "")) for message in call.messages)
        return characters / CHARACTERS + self._output

    def _settle(self, permit: Permit, tokens: int) -> None:
        """Give back what was estimated too much, take what was estimated too little."""
        self._sent_tokens += tokens - permit.estimate
        self._tokens.left -= tokens - permit.estimate
        if self.budget is not None:
            self.budget.settle(permit.estimate, tokens)


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
