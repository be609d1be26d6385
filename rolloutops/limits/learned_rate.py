"""The rate that an endpoint allows, learned from its refusals (429).

Some endpoints refuse one request in a hundred at any rate: an overloaded replica behind a load balancer, a proxy that
sheds load. Slowing down for them gains nothing. So a refusal alone lowers no rate; what counts is the share of requests
that are refused, and whether it falls when fewer are sent:

1. **Many refusals, close together** are overload. The evidence for it is a sum (Page's CUSUM), which begins anew where
   it falls to 0: a refusal adds log(OVERLOAD / stray), 2.1 where 1 % are stray; a request between two refusals takes
   away OVERLOAD - stray, 0.07. At ENOUGH the rate is lowered to what was let through: 1 % at random brings that about
   once in 3,000 requests or more, a limit that refuses a third of them within some 10.
2. **A share of TRIAL_FROM or more that lasts** is put to the test: for a while 15 % fewer are sent. Where the
   share falls to a third, it depends on the rate, and the lower rate is kept; else it is stray, and the next trial
   waits twice as long.
3. **A rate that was lowered by a fifth and is refused much as often as before**, more than above a limit, is forgotten.
4. **One refusal a little above a learned rate** ends the look at more, where next to no refusals are stray.

What refusals that led to nothing were, of all requests, is the stray share (`stray`).

What was lowered by mistake costs little, because it is lowered to what got through, and because a rate that is not
refused is raised faster and faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MOMENT = 1.0
"""Seconds over which a rate is measured at least."""
HOLD = (4.0, 8.0)
"""Seconds, least and most, for which a rate that proved right is kept before more is tried."""
GROWTH = 0.02
"""How much faster per second a learned rate is tried at first; it doubles each second."""
CATCH_UP = 0.05
"""Seconds' worth of requests that may be sent at once, to catch up: timers ring about a millisecond late."""
OVERLOAD = 0.08
"""The share of refusals that means overload, or three times the stray share, if that is more."""
ENOUGH = (6.3, 9.5)
"""Evidence, as a logarithm, at which the endpoint counts as overloaded; the second where stray refusals are MANY, or
no limit is known."""
DOUBT = 0.2
"""Share of that evidence at which the rate is not raised for now."""
MANY = 0.015
"""A stray share from which on more evidence is asked for."""
FEW = 0.01
"""A stray share below which one refusal ends a look at more than the learned rate."""
CLOSE = 1.25
"""Of the learned rate: up to so much the look is ended by one refusal; above it the rate is learned anew."""
OBVIOUS = 0.3
"""A share of refusals that is hardly stray."""
STRAY = (0.003, 0.03)
"""The share of refusals that any endpoint may have: the least that is assumed, and what is assumed at first."""
MEMORY = 300
"""Requests over which the stray share is averaged."""
TRIAL_FROM = 0.025
"""The share of refusals from which on a trial pays."""
FIRST_REST = 800
"""Answers until the first trial: refusals come sooner than answers, so their share is too high at first."""
TRIAL_RATE = 0.85
"""Of the present rate, during a trial."""
LOWER = 0.8
"""Of an earlier rate, where a limit would refuse much less."""
STRIKES = 2
"""So often in a row such a rate must be refused as before, to be forgotten."""
REST = 8
"""So many times a trial's answers are awaited until the next one; twice as many after each that showed nothing."""
TRIAL_REFUSALS = 10
"""Refusals that a trial would see if they did not depend on the rate. At most a third of them: they do."""


@dataclass(slots=True)
class LearnedLimit:
    """A rate of requests learned from refusals; None where none is known.

    A limiter that refuses is out of allowance. Between two such moments it let through what it was given meanwhile, so
    what was sent between them, by the time between them, is its rate; or less, if it could not save up all of it. The
    rate is kept for a while, then carefully exceeded, so that a limit that was raised is found.

    since: when the present period began, in which `let_through` requests were; _before: the number of the last request
    before it. Requests are told apart by number and not by time: several go out in one tick of a loop's clock, which
    uvloop's is a millisecond long. stray: the share of refusals that does not depend on the rate.
    """

    rate: float | None = None
    since: float = -1.0
    let_through: int = 0
    stray: float = STRAY[1]
    _calm: float = STRAY[1]
    _evidence: float = 0.0
    _sent: int = 0
    _before: int = 0
    _last_refused: int = 0
    _close_from: int = 0
    _close_refused: int = 0
    _refused: int = 0
    _used: float = 0.0
    _hold: float = 0.0
    _credit: float = 0.0
    _stamp: float = 0.0
    _answered: int = 0
    _burst: Burst | None = None
    _marks: tuple[tuple[float, int], tuple[float, int]] = ((0.0, 0), (0.0, 0))
    _anchor: tuple[float, float] = (0.0, 0.0)
    _strikes: int = 0
    _stretch: Stretch = field(default_factory=lambda: Stretch())
    _trial: Trial | None = None
    _rest: int = FIRST_REST
    _patience: int = 1

    def wait(self, now: float) -> float:
        """Seconds until the next request may be sent."""
        if self.rate is None:
            return 0.0
        rate, passed = self._present(), now - self._stamp
        most = max(1.0, rate * CATCH_UP)
        saved = self._credit + rate * passed
        self._credit, self._stamp = min(most, saved), now
        if saved < most + 0.1 and not self._in_doubt and self._trial is None:
            self._used += passed
        return max(0.0, (1 - self._credit) / rate)

    def sent(self, now: float) -> None:
        """A request goes out. It counts as let through until it is refused."""
        if self.since < 0:
            self.since = now
            self._marks = ((now, 0), (now, 0))
        if now - self._marks[1][0] >= MOMENT:
            self._marks = (self._marks[1], (now, self._sent))
        self._sent += 1
        self.let_through += 1
        self._credit -= 1

    def answered(self, number: int, now: float) -> None:
        """The request of that number, from 1, was answered."""
        self._answered += number > self._before
        if self._trial is not None and number > self._before:
            self._trial.answered += 1
            if self._trial.answered >= self._trial.enough:
                self._end_trial(self._trial)
        elif self._trial is None and self._stretch.ended(now, False):
            self._consider_trial(now)

    def refused(self, number: int, now: float) -> bool | None:
        """The request of that number, from 1, was refused. Returns whether that shows that too many are sent; None if
        that was known already."""
        if number <= self._before:
            self._recount(number)
            return None
        self.let_through -= 1
        self._weigh(number)
        if self._trial is not None:
            self._trial.refused += 1
        elif self._stretch.ended(now, True):
            self._consider_trial(now)
        if self._evidence < self._enough:
            self._step_back()
            return False
        self._lower(now)
        return True

    def _weigh(self, number: int) -> None:
        """Add a refusal to the evidence. Those sent since the last one, and not refused yet, count as let through."""
        between = max(0, number - self._last_refused - 1)
        self._evidence -= between * (self._overload() - self._calm)
        if self._evidence <= 0:  # what was refused by then was stray
            share = self._close_refused / max(1, number - self._close_from)
            self.stray += (share - self.stray) * (1 - (1 - 1 / MEMORY) ** (number - self._close_from))
            self._evidence, self._close_from, self._close_refused = 0.0, number, 0
            self._calm = max(STRAY[0], self.stray)
        self._evidence += math.log(self._overload() / self._calm)
        self._close_refused += 1
        self._refused += 1
        self._last_refused = max(self._last_refused, number)

    def _step_back(self) -> None:
        """Go back to the learned rate at the first refusal above it, where next to none are stray."""
        if self.rate is not None and self._calm < FEW and self.rate < self._present() < CLOSE * self.rate:
            self._used, self._hold = 0.0, self._longer_hold()
            self._close_refused -= 1  # the look brought it about: it is not stray

    def _longer_hold(self) -> float:
        """Seconds for which a rate that proved right once more is kept."""
        return min(HOLD[1], max(HOLD[0], self._hold * 2))

    @property
    def _in_doubt(self) -> bool:
        """Whether refusals of late may be the first ones of an overload."""
        since = (self._sent - self._last_refused) * (self._overload() - self._calm)
        return self._evidence - since > DOUBT * self._enough

    @property
    def _enough(self) -> float:
        """The evidence at which the endpoint counts as overloaded."""
        return ENOUGH[self.rate is None or self._calm >= MANY]

    def _overload(self) -> float:
        """The share of refusals that means overload."""
        return max(OVERLOAD, 3 * self._calm)

    def _present(self) -> float:
        """The rate at which requests go out: what was learned, and more after it was used for long unrefused."""
        assert self.rate is not None
        return self.rate * (1 + GROWTH * (2 ** min(max(0.0, self._used - self._hold), 16.0) - 1))

    def _lower(self, now: float) -> None:
        """Lower the rate to what was let through; or forget it, if lowering it does not help."""
        burst = Burst(self._before, now - self.since, self.let_through, self._answered, self._close_from)
        burst.refused, burst.last = self._close_refused, self._last_refused
        if self.rate is None:
            present, found, self._hold = burst.present, burst.rate, 0.0
            self._burst = burst
        else:
            at, before = self._marks[0]
            span = max(burst.span, 0.01)
            present = min(self._present(), (self._sent - before) / max(now - at, 0.01))
            found = min(present, max(self.let_through, 1) / span / (1 - min(self._calm, 0.5)))
            if found < 0.75 * present:  # allowance was wasted for lack of demand, so the average is too low
                found = math.sqrt(found * present)
            known = abs(found - self.rate) < 0.15 * self.rate
            self._hold = self._longer_hold() if known else 0.0
            self._burst = None
        share = self._refused / (self._refused + self.let_through)
        if self._does_not_help(present, share):
            self.rate, self.stray, self._burst = None, share, None
        else:
            self.rate = found
        self._trial = None
        self._start(now)

    def _does_not_help(self, present: float, share: float) -> bool:
        """Whether the share of refusals is much as it was, though the rate was lowered. present: the rate by now."""
        rate, before = self._anchor
        lowered = present <= LOWER * rate
        of_a_limit = 1 - (1 - before) * rate / present if lowered else 0.0  # it lets through as many as before
        if not max(before, before + of_a_limit) / 2 <= share <= 2 * before:
            self._anchor, self._strikes = (present, share), 0
            return False
        self._strikes += lowered
        return self._strikes >= STRIKES

    def _start(self, now: float) -> None:
        """Begin a period."""
        self.since, self._before, self.let_through, self._answered = now, self._sent, 0, 0
        self._used, self._credit, self._stamp = 0.0, 0.0, now
        self._evidence, self._close_refused, self._refused, self._stretch = 0.0, 0, 0, Stretch()
        self._last_refused = self._close_from = self._sent
        self._calm = max(STRAY[0], self.stray)
        self._see_burst()

    def _see_burst(self) -> None:
        """Forget what counted as stray where an endpoint's first refusals, still unexplained, were so many."""
        if self._burst is not None and self._burst.share >= OBVIOUS:
            self.stray, self._calm = 0.0, STRAY[0]

    def _recount(self, number: int) -> None:
        """A refusal of the burst that the last period ended with comes late: it was not let through after all."""
        burst = self._burst
        if burst is None or self.rate is None or number <= burst.before or self._used:
            return
        burst.let_through -= 1
        burst.refused, burst.last = burst.refused + 1, max(burst.last, number)
        self.rate = min(self.rate, burst.rate)
        self._see_burst()

    def _consider_trial(self, now: float) -> None:
        """Send less for a while, if refusals have been many for long; a stretch of them has just ended."""
        stretch, self._stretch = self._stretch, Stretch(now)
        self._rest -= stretch.answered
        share = stretch.refused / (stretch.refused + stretch.answered)
        if self.rate is None and share >= TRIAL_FROM and self._rest <= 0 and stretch.since >= 0 and now > stretch.since:
            per_second = (stretch.refused + stretch.answered) / (now - stretch.since)
            self._trial = Trial(share, per_second, math.ceil(TRIAL_REFUSALS / share))
            self.rate = TRIAL_RATE * per_second
            self._start(now)

    def _end_trial(self, trial: Trial) -> None:
        """Keep the lower rate if it was refused a third as often, else forget it and rest."""
        self._trial = None
        if trial.refused <= trial.share * trial.answered / 3:
            self.rate = (1 - trial.share) * trial.per_second
            self._patience = 1
        else:
            self.rate, self._rest = None, REST * self._patience * trial.enough
            self._patience *= 2


@dataclass(slots=True)
class Burst:
    """What a period without a known rate ended with, in seconds and requests. before: the number of the last request
    before it, first: of the one whose refusal began the evidence, last: of the last one refused."""

    before: int
    span: float
    let_through: int
    answered: int
    first: int
    last: int = 0
    refused: int = 0

    @property
    def share(self) -> float:
        """Of refusals since the first one, which is left out because the count began with it."""
        return min(1.0, (self.refused - 1) / max(self.last - self.first, 1))

    @property
    def sent(self) -> int:
        """Requests, refused ones included."""
        return self.let_through + self.refused

    @property
    def present(self) -> float:
        """Requests per second."""
        return max(self.sent / max(self.span, MOMENT), self.answered / max(self.span, 0.001))

    @property
    def rate(self) -> float:
        """What was let through per second. In less than a MOMENT that may be what a limiter had saved up, unless
        answers came between the refusals."""
        quick = (1 - self.share) * self.answered / max(self.span, 0.001)
        return max(max(self.let_through, 1) / max(self.span, MOMENT), quick)


@dataclass(slots=True)
class Stretch:
    """Answers and refusals of late, by which the share of refusals is judged. since: its first."""

    since: float = -1.0
    answered: int = 0
    refused: int = 0

    def ended(self, now: float, refused: bool) -> bool:
        """Count an answer or a refusal. Returns whether the stretch is long enough."""
        if self.since < 0:
            self.since = now
        self.refused += refused
        self.answered += not refused
        return self.answered >= TRIAL_REFUSALS / TRIAL_FROM


@dataclass(slots=True)
class Trial:
    """A trial of a lower rate. share, per_second: of refusals and requests before it. enough: answers that end it."""

    share: float
    per_second: float
    enough: int
    answered: int = 0
    refused: int = 0
