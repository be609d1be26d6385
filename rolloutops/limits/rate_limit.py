"""How fast an endpoint is asked: when the next request may go out, and how many rollouts are in flight.

A pause holds for all requests: an endpoint that says `Retry-After` to one means everyone. A limit that headers tell is
kept; one that is not told is learned from refusals (429), see `Learned`. How many rollouts are in flight is fixed, or
found (`level.py`). An endpoint that is down is asked once in a while, until it answers again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rolloutops.limits.concurrency import Concurrency, loop_time
from rolloutops.limits.shared_rate import SharedRate
from rolloutops.types import Limits, ModelCall

DOWN = frozenset({"connection", "unreachable", "server_error"})
"""Failures that say that the endpoint is down, where nothing else is heard from it."""
DOWN_AFTER = 8
"""Such failures in a row after which it is taken for down."""
PROBE_SECONDS = 30.0
"""The longest wait between two looks at an endpoint that is down, and between refusals that name no time."""
MOMENT = 1.0
"""Seconds over which a rate is measured at least."""
HOLD = (4.0, 15.0)
"""Seconds, least and most, for which a rate that proved right is kept before more is tried."""
GROWTH = 0.02
"""How much faster per second a learned rate is tried at first; it doubles each second."""
CLOSE = 2
"""Refusals in a row of requests that were to catch up, after which the endpoint is taken for one that allows no two
close to each other."""
CHARACTERS = 4
"""of a prompt that make a token, until the answer says how many it was."""


@dataclass(slots=True)
class Permit:
    """One request that was let through: when, how much had been sent before it, and the tokens estimated for it.
    server: of a fleet, which is to be asked."""

    at: float
    requests: int
    tokens: float
    estimate: float
    close: bool = False
    server: int | None = None


@dataclass(slots=True)
class AdvertisedLimit:
    """A limit that the endpoint's headers tell: so much a minute, and how much is left of it, carried forward."""

    per_second: float = 0.0
    left: float = 0.0
    most: float = 0.0
    stamp: float = 0.0
    heard: float = -1.0

    def hear(self, per_minute: float | None, left: float | None, sent_at: float, now: float, since: float) -> None:
        """Take in the headers of an answer to a request of `sent_at`; `since` has been sent after it."""
        if per_minute is None or left is None or sent_at < self.heard:
            return
        self.wait(now, 0)  # brings `left` to now
        first, self.per_second, self.heard, self.stamp = not self.per_second, per_minute / 60, sent_at, now
        self.most = max(self.most, left + 1)
        least, most = left - since, min(self.most, left + self.per_second * (now - sent_at) - since)
        if first or self.left > most:
            self.left = most
        elif self.left < least:  # or this request overtook others on its way: believed only bit by bit
            self.left += (least - self.left) / 16

    def wait(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be sent. One more is kept in hand: requests overtake each other on their way."""
        if not self.per_second:
            return 0.0
        self.left = min(self.most, self.left + self.per_second * (now - self.stamp))
        self.stamp = now
        return max(0.0, (min(amount + 1, self.most) - self.left) / self.per_second)


@dataclass(slots=True)
class LearnedLimit:
    """A rate of requests learned from refusals. close: refusals in a row of requests that were to catch up.

    A limiter that refuses is out of allowance. Between two such moments it let through what it was given meanwhile, so
    what was sent between them, by the time between them, is its rate; or less, if it could not save up all of it. The
    rate is kept for a while, then carefully exceeded, so that a limit that was raised is found.

    A limiter that saves up nothing refuses the second of two that are close to each other. It is known by that; from
    then on nothing is sent to catch up, and a refusal says that the rate was exceeded just then.
    """

    rate: float | None = None
    since: float = 0.0
    let_through: int = 0
    used: float = 0.0
    hold: float = 0.0
    credit: float = 0.0
    stamp: float = 0.0
    last: float = -1.0
    close: int = 0

    def refused(self, now: float, close: bool) -> None:
        """A new refusal, not one of a burst that is known already. close: of a request that was to catch up."""
        self.close = self.close + 1 if close or self.close >= CLOSE else 0
        span = max(now - self.since, MOMENT)
        found = max(self.let_through, 1) / span
        if self.rate is None:
            self.hold = 0.0
        else:
            tried = self._tried()
            if self.close >= CLOSE:  # nothing can be saved up: the refusal came as soon as the limit was exceeded
                found = 0.97 * tried
            elif found < 0.75 * tried:  # allowance was wasted, so the average says too little
                found = math.sqrt(found * tried)
            known = abs(found - self.rate) < 0.15 * self.rate
            self.hold = min(HOLD[1], max(HOLD[0], self.hold * 2)) if known else 0.0
        self.rate = found
        self.since, self.let_through, self.used, self.credit, self.stamp = now, 0, 0.0, 0.0, now

    def wait(self, now: float) -> float:
        """Seconds until the next request may be sent."""
        if self.rate is None:
            return 0.0
        rate, passed = self._tried(), now - self.stamp
        most = 1.0 + (0.0 if self.close >= CLOSE or not self.let_through else self.rate * 0.05)
        saved = self.credit + rate * passed
        self.credit = min(most, saved)
        self.used += passed * (saved < most + 0.1)
        self.stamp = now
        return max(0.0, (1 - self.credit) / rate)

    def sent(self, now: float) -> bool:
        """A request goes out. Returns whether it is closer to the one before than the rate has it, to catch up."""
        close = self.rate is not None and now - self.last < 0.95 / self._tried()
        self.let_through += 1
        self.credit -= 1
        self.last = now
        return close

    def _tried(self) -> float:
        """The rate at which requests go out: what was learned, and more after it was used for long unrefused."""
        assert self.rate is not None
        return self.rate * (1 + GROWTH * (2 ** min(max(0.0, self.used - self.hold), 16.0) - 1))


@dataclass(slots=True)
class RateLimit:
    """One endpoint's pace, shared by all that ask it. budget: what the user allows a minute. lone: there is no other
    endpoint, so this one is taken for down only when nothing else is heard from it."""

    level: Concurrency
    budget: SharedRate | None = None
    clock: Callable[[], float] = loop_time
    lone: bool = True
    refusals: int = 0
    _learned: LearnedLimit = field(default_factory=LearnedLimit)
    _requests: AdvertisedLimit = field(default_factory=AdvertisedLimit)
    _tokens: AdvertisedLimit = field(default_factory=AdvertisedLimit)
    _sent: int = 0
    _sent_tokens: float = 0.0
    _output: float = 256.0
    _paused_until: float = 0.0
    _refused_in_a_row: int = 0
    _down_in_a_row: int = 0
    _down_since: float = 0.0
    _open: int = 0
    _door: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_down(self) -> bool:
        """Whether the endpoint is taken for down."""
        return self._down_in_a_row >= DOWN_AFTER

    @property
    def open(self) -> int:
        """Requests that are not answered yet."""
        return self._open

    def elsewhere(self, ticket: Permit, kind: str, moved: int) -> int | None:
        """Another server that a request that failed may go to at once: there is none. See `Fleet`."""
        return None

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
        self.level.held_back()
        async with self._door:
            estimate = self._estimate(call)
            while (wait := self._wait(estimate)) > 0:
                await asyncio.sleep(max(wait, 0.001))
            return self._let_through(estimate)

    def answered(self, ticket: Permit, prompt: int, output: int, limits: Limits | None) -> None:
        """The endpoint answered: the tokens of the prompt and of the answer."""
        self._open -= 1
        if self.is_down:
            self._paused_until = self.clock()
        self._refused_in_a_row = self._down_in_a_row = 0
        self._output += (output - self._output) / 50
        if ticket.estimate:
            self._settle(ticket, prompt + output)
        if limits is not None:
            self._hear(ticket, limits)

    def failed(self, ticket: Permit, kind: str, retry_after: float | None, limits: Limits | None) -> None:
        """The request failed. A refusal, or an endpoint that is down, holds up everyone."""
        now = self.clock()
        self._open -= 1
        if limits is not None:
            self._hear(ticket, limits)
        if ticket.estimate:
            self._settle(ticket, 0)
        if retry_after is not None:
            self._paused_until = max(self._paused_until, now + retry_after)
        if kind == "rate_limited":
            self._refuse(ticket, now, retry_after)
        elif kind in DOWN or (kind == "timeout" and not self.lone):
            self._count_down(ticket, kind, now)

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
        if self._sent == 0:
            self._learned.since = now
        if self.is_down:
            self._paused_until = now + self._down_wait()  # one looks whether it is back, the others wait
        close = self._learned.sent(now)
        self._requests.left -= 1
        self._tokens.left -= estimate
        self._open += 1
        self._sent += 1
        self._sent_tokens += estimate
        return Permit(now, self._sent, self._sent_tokens, estimate, close)

    def _refuse(self, ticket: Permit, now: float, retry_after: float | None) -> None:
        self.refusals += 1
        if ticket.at < self._learned.since:  # sent before the last refusal was known
            self.level.refused(self._open, again=True)
            return
        self._learned.let_through -= 1
        self._refused_in_a_row += 1
        if retry_after is None:
            wait = min(PROBE_SECONDS, 0.25 * 2 ** min(self._refused_in_a_row, 10))
            self._paused_until = max(self._paused_until, now + wait)
        self._learned.refused(now, ticket.close)
        self.level.refused(self._open)

    def _hear(self, ticket: Permit, limits: Limits) -> None:
        now, sent, tokens = self.clock(), self._sent - ticket.requests, self._sent_tokens - ticket.tokens
        self._requests.hear(limits.requests, limits.requests_left, ticket.at, now, sent)
        self._tokens.hear(limits.tokens, limits.tokens_left, ticket.at, now, tokens)

    def _count_down(self, ticket: Permit, kind: str, now: float) -> None:
        """One more sign that the endpoint is down; once it is, only what was sent since tells anything new."""
        if self.is_down and ticket.at < self._down_since:
            return
        was_down = self.is_down
        self._down_in_a_row += 1
        if kind == "unreachable" and not self.lone:
            self._down_in_a_row = max(self._down_in_a_row, DOWN_AFTER)
        if self.is_down:
            self._down_since = self._down_since if was_down else now
            self._paused_until = max(self._paused_until, now + self._down_wait())

    def _down_wait(self) -> float:
        return min(PROBE_SECONDS, 2.0 ** min(self._down_in_a_row - DOWN_AFTER, 10))

    def _estimate(self, call: ModelCall | None) -> float:
        """Tokens that a call may take; 0 where nobody limits them."""
        if call is None or not (self._tokens.per_second or (self.budget and self.budget.tokens_per_minute)):
            return 0.0
        characters = sum(len(str(message.get("content") or "")) for message in call.messages)
        return characters / CHARACTERS + self._output

    def _settle(self, ticket: Permit, tokens: int) -> None:
        """Give back what was estimated too much, take what was estimated too little."""
        self._sent_tokens += tokens - ticket.estimate
        self._tokens.left -= tokens - ticket.estimate
        if self.budget is not None:
            self.budget.settle(ticket.estimate, tokens)
