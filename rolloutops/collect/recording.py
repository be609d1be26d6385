"""Landing: what has ended becomes rows, and is judged.

Rollouts that land in one turn of the event loop are written in a row, which takes less time than one now and then; then
the next ones are sent, and then those that landed are judged. A verdict that takes time is awaited outside of the
window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rolloutops.collect.attempt import Attempt, PendingRollout
from rolloutops.collect.verify import RemoteVerifier, Verifier, record_verdict
from rolloutops.collect.window_state import Window, spawn
from rolloutops.environments.verdict import Verdict, verdict_of
from rolloutops.store.failpoints import failpoint
from rolloutops.types import Rollout

BRIEF = 0.001
"""Seconds of a verdict after which the event loop has a turn, to read and send."""

Unjudged = tuple[PendingRollout, Mapping[str, Any], Rollout, Verifier]
"""A rollout, its row, and who judges it."""


async def landed(flight: Window, ended: Attempt, verifier: Verifier | None) -> None:
    """A rollout has come. When this returns it is written, together with all that came in the same turn of the event
    loop, so that a kill costs each worker one rollout at most; it is judged after the workers have sent what is next.
    """
    flight.health.attempted(None, None)
    flight.landed.append((ended, verifier))
    if len(flight.landed) == 1:
        spawn(flight, _keep(flight))
    await asyncio.sleep(0)  # in which `_keep` comes first
    if flight.judging.locked():
        async with flight.judging:  # the judges are behind
            pass


async def _keep(flight: Window) -> None:
    unjudged = write_landed(flight)
    await asyncio.sleep(0)
    await _judge_all(flight, unjudged)


def write_landed(flight: Window) -> list[Unjudged]:
    """Write the rollouts that have landed, with the verdicts that came with them. Returns those to be judged."""
    unjudged: list[Unjudged] = []
    came, flight.landed = flight.landed, []
    for ended, verifier in came:
        owed, row, whole = ended.owed, ended.row(), ended.trace.whole
        write(flight, owed, row)
        if whole is not None and whole.returned is not None:
            told = verdict_of(whole.returned, 0.0)
            record_verdict(flight.run, flight.journal, RemoteVerifier(whole.verifier), row, row["attempt_id"], told)
            flight.meter.judged(told.reward, told.error)
        if verifier is None or owed.asked.verify != "now":
            settle(flight, owed)
        else:
            unjudged.append((owed, row, ended.rollout(), verifier))
    flight.journal.write()  # a verifier may end the process
    failpoint("attempt-before-verdict")
    return unjudged


async def _judge_all(flight: Window, unjudged: Sequence[Unjudged]) -> None:
    for owed, row, rollout, verifier in unjudged:
        verdict = verifier.at_once(owed.task, rollout)
        if verdict is None:
            spawn(flight, _judge(flight, owed, row, rollout, verifier))
            continue
        _judged(flight, owed, row, verifier, verdict)
        if verdict.seconds > BRIEF:
            await asyncio.sleep(0)


async def _judge(
    flight: Window, owed: PendingRollout, row: Mapping[str, Any], rollout: Rollout, verifier: Verifier
) -> None:
    async with flight.judging:
        _judged(flight, owed, row, verifier, await verifier.judge(owed.task, rollout))


def _judged(flight: Window, owed: PendingRollout, row: Mapping[str, Any], verifier: Verifier, verdict: Verdict) -> None:
    """Write a verdict."""
    record_verdict(flight.run, flight.journal, verifier, row, row["attempt_id"], verdict)
    flight.meter.judged(verdict.reward, verdict.error)
    flight.spend_limit.judged(verdict.metrics, verdict.details)
    settle(flight, owed)


def write(flight: Window, owed: PendingRollout, row: dict[str, Any]) -> None:
    """An attempt into the journal, and into the counts. row: gets its names."""
    row["attempt_id"], row["run_id"] = flight.run.next_id(), flight.run.run_id
    flight.journal.append("attempts", row)
    flight.meter.attempted(row)
    flight.spend_limit.paid(row, owed.params.get("service_tier"), owed.task.prompt)


def settle(flight: Window, owed: PendingRollout) -> None:
    """A rollout is done or given up. After the last one of a part the part is unlocked, once all is sealed."""
    part = (owed.task.dataset, owed.part)
    flight.remaining[part] -= 1
    if flight.remaining[part] == 0:
        del flight.remaining[part]
        flight.journal.when_sealed(flight.release.pop(part))
        flight.settled.set()
    elif flight.forbidden:  # what is left of the part may be nothing but these
        flight.settled.set()
