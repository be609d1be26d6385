"""Answers 403: of the prompt, or of the key?

A firewall refuses the one prompt that holds SQL; a key that may not use the model is refused whatever it asks. Only
what comes after tells them apart. So a rollout that was answered 403 waits, unwritten: once a rollout has come whose
first request was sent later, the key was good, and the refusal is final. Where twenty come in a row with no success
between them (`limits/circuit_breaker.py`) the run ends, and all that wait stay owed.
"""

from __future__ import annotations

import time

from rolloutops.collect.attempt import Attempt
from rolloutops.collect.recording import settle, write
from rolloutops.collect.window_state import Forbidden, Window
from rolloutops.errors import EngineError


def hold(flight: Window, ended: Attempt) -> None:
    """Keep a refusal until it is known whose it is."""
    flight.forbidden.append(Forbidden(ended.owed, ended.row(), time.time()))
    flight.settled.set()


def all_wait(flight: Window) -> bool:
    """Whether nothing is left of the parts taken so far but refusals that wait."""
    return sum(flight.remaining.values()) == len(flight.forbidden)


def judge_forbidden(flight: Window, whole: bool) -> None:
    """Write what still waits when nothing else is left. whole: nothing was left to do; else the flight ends early.

    In a whole one the refusals were some among successes. One that ends early leaves owed what came after the last
    success, and one that an error ends all of them. Raises EngineError where nothing but refusals came.
    """
    waiting, flight.forbidden = flight.forbidden, []
    for one in waiting:
        known = flight.health.proven and (whole or one.at < flight.success_at)
        _write(flight, one, final=known and flight.died is None)
    if waiting and whole and not flight.health.proven:
        raise EngineError(flight.health.why_forbidden())


def give_up_forbidden(flight: Window, started: float) -> None:
    """A rollout has come whose first request was sent at `started`: what was refused before is given up."""
    flight.success_at = time.time()
    if flight.died is not None:
        return
    known = [one for one in flight.forbidden if one.at <= started]
    for one in known:
        _write(flight, one, final=True)
    if known:
        flight.forbidden = [one for one in flight.forbidden if one.at > started]


def _write(flight: Window, one: Forbidden, final: bool) -> None:
    write(flight, one.owed, {**one.row, "final": final})
    if final:
        settle(flight, one.owed)
