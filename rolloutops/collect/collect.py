"""The collect stage: what is pending becomes attempts, and verdicts unless verification is left for later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from rolloutops.collect import event_loop
from rolloutops.collect.given_up import GivenUp, find_losses
from rolloutops.collect.live import live
from rolloutops.collect.pending import Part, PendingRollouts, standing
from rolloutops.collect.recording import Recorder
from rolloutops.collect.share import Share, together
from rolloutops.collect.verify import VERIFYING, make_verifiers, verify_unverified
from rolloutops.collect.window import Window
from rolloutops.config.engine_jobs import LIMITS
from rolloutops.config.plan import CollectPlan, Plan
from rolloutops.config.redact import tell
from rolloutops.config.secrets import public
from rolloutops.config.settings import Collect
from rolloutops.engines.open_files import most_connections
from rolloutops.errors import UsageError
from rolloutops.formats.columns import HOW_SENT
from rolloutops.formats.strict_json import digest
from rolloutops.ingest.media import media_of
from rolloutops.layout import count
from rolloutops.limits.circuit_breaker import CircuitBreaker
from rolloutops.limits.concurrency import FIRST, MOST, Concurrency, ConcurrencyLimit
from rolloutops.limits.concurrency_sweep import ConcurrencySweep, Point
from rolloutops.limits.progress import Progress, WorkerName
from rolloutops.limits.rate_limit import RateLimit
from rolloutops.limits.replica_rate_limit import AnyRateLimit, ReplicaConcurrency, ReplicaRateLimit
from rolloutops.limits.shared_rate import SharedRate
from rolloutops.limits.spend_limit import SpendLimit, open_shared_spend_limit
from rolloutops.limits.stop_time import StopTime
from rolloutops.store import sql
from rolloutops.store.jobs import open_jobs
from rolloutops.store.journal import Journal, seal_orphans
from rolloutops.store.runs import Run
from rolloutops.store.waiting import await_lock
from rolloutops.store.workspace import Workspace, connect
from rolloutops.types import Engine

LONGEST_PAUSE = 3600.0
"""Seconds that `Retry-After` may hold up all requests for where rollouts have no deadline."""


@dataclass(frozen=True)
class CollectReport:
    """How a collection ended: rollouts wanted, pending at its start, made by it, given up and pending at its end.

    submitted: rollouts in submitted batch jobs, jobs: how many of these. unrewarded: why some have no reward. points:
    what was measured where it was to be, and why no more. losses: what is given up, by dataset and policy. spent: of
    each spend limit that ended a part of it, the sentence that names the key to raise. refused: rollouts that
    were kept though the endpoint refused a message of the model, by finish reason; refusals: the first one's words."""

    wanted: int
    pending: int
    done: int
    left: int
    given_up: int
    verified: int
    saved: int
    failures: Mapping[str, int]
    submitted: int = 0
    jobs: int = 0
    unrewarded: Mapping[str, int] = field(default_factory=dict)
    points: Sequence[Point] = ()
    why: str = ""
    losses: Sequence[GivenUp] = ()
    spent: Sequence[str] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 3, the same command goes on with what is pending; 2, it cannot before somebody
        raises a spend limit; 4, more is given up than the recipe allows; else 0."""
        if self.submitted or self.left:
            return 2 if self.spent and not self.submitted else 3
        return 4 if any(one.too_much for one in self.losses) else 0


class _Ended(NamedTuple):
    """verified: verdicts on rollouts of earlier runs. spent: why spend limits let no more be collected."""

    verified: int
    spent: list[str]


def collect(
    workspace: Workspace, plan: Plan, run: Run, tune: bool = False, stop_time: StopTime | None = None
) -> CollectReport:
    """Collect what is pending. tune: only as much of it as it takes to find the best number in flight. stop_time: when
    the command has to have ended.

    Raises KeyboardInterrupt after Ctrl-C, when all that had ended is sealed.
    """
    saved = seal_orphans(workspace)
    pending = _pending_rollouts(workspace, plan, run.run_id)
    before = _count(pending)
    meter = _meter(before)
    tuning = ConcurrencySweep(meter) if tune else None
    with live(workspace, run.run_id, meter):
        ended = event_loop.run(_collect(workspace, plan, run, pending, meter, tuning, stop_time))
    _tell_of_streams(pending)
    share = Share.of(meter, saved, ended.verified, ended.spent)
    report = _report(workspace, plan, pending.con, before, share)
    return replace(report, points=tuning.points, why=tuning.why) if tuning else report


def collect_share(
    workspace: Workspace, plan: Plan, run: Run, worker: WorkerName, stop_time: StopTime | None = None
) -> Share:
    """Collect what is pending, as one of several processes: another one writes the line and the report of all.

    Raises KeyboardInterrupt after Ctrl-C, when all that had ended is sealed.
    """
    saved = seal_orphans(workspace)
    pending = _pending_rollouts(workspace, plan, run.run_id)
    meter = _meter(_count(pending))
    meter.worker = worker
    with live(workspace, run.run_id, meter):
        ended = event_loop.run(_collect(workspace, plan, run, pending, meter, None, stop_time))
    _tell_of_streams(pending)
    return Share.of(meter, saved, ended.verified, ended.spent)


def collect_in_processes(
    workspace: Workspace, plan: Plan, work: Callable[[Progress], Sequence[Mapping[str, Any]]]
) -> CollectReport:
    """Collect what is pending in processes that `work` starts and waits for. work: takes the meter of all of them,
    returns the share of each; where nothing is pending it is not called."""
    saved = seal_orphans(workspace)
    before = _count(_pending_rollouts(workspace, plan, ""))
    share = together(work(_meter(before)) if before.pending else ())
    con = connect(workspace, plan.rows)
    after = standing(con)
    done = before.wanted - before.given_up - before.pending
    now_done = before.wanted - sum(after.values())
    share = replace(share, saved=share.saved + saved, done=max(0, now_done - done))
    return _report(workspace, plan, con, before, share)


class _Count(NamedTuple):
    """Rollouts at the start of a collection."""

    wanted: int
    pending: int
    given_up: int


def _pending_rollouts(workspace: Workspace, plan: Plan, run_id: str) -> PendingRollouts:
    retry = {key: settings.retry for key, settings in plan.policies.items() if settings.retry}
    return PendingRollouts(workspace, plan.rows, retry, run_id, partial(media_of, plan))


def _count(pending: PendingRollouts) -> _Count:
    return _Count(pending.count("wanted"), pending.count("pending_keys"), pending.count_given_up())


def _meter(before: _Count) -> Progress:
    done = before.wanted - before.pending - before.given_up
    return Progress("rollouts", before.pending, done_before=done, given_up=before.given_up)


def _tell_of_streams(pending: PendingRollouts) -> None:
    if pending.streaming:
        tell(
            f"{', '.join(HOW_SENT)} left out of the rows of {count(pending.streaming, 'task')}, because replies are "
            "read whole"
        )


def _report(workspace: Workspace, plan: Plan, con: sql.Connection, before: _Count, share: Share) -> CollectReport:
    """Say where the collection stands after a share of it. con: with the views as they are now."""
    now, jobs = standing(con), len(open_jobs(workspace, con=con))
    losses = find_losses(con, plan.policies) if now["given_up"] else ()
    return CollectReport(
        *(before.wanted, before.pending, share.done, now["pending"], now["given_up"], share.verified, share.saved),
        *(share.failures, now["submitted"], jobs, share.unrewarded),
        losses=losses,
        spent=share.spent,
        refused=share.refused,
        refusals=share.refusals,
    )


@asynccontextmanager
async def _running(engine: Engine) -> AsyncIterator[Engine]:
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def _collect(
    workspace: Workspace,
    plan: Plan,
    run: Run,
    pending: PendingRollouts,
    meter: Progress,
    tuning: ConcurrencySweep | None,
    stop_time: StopTime | None = None,
) -> _Ended:
    """Run each engine's windows, or with `tuning` the first one, then verify what was left unverified."""
    journal = Journal(workspace, run.run_id)
    verifiers = make_verifiers(plan)
    stopping = asyncio.Event()
    spend_limits: dict[str, SpendLimit] = {}
    spent: dict[str, str] = {}  # by limit: one that ended several windows is told once

    def spend_limit_of(collect_plan: CollectPlan) -> SpendLimit:
        limits = _limits(next(iter(collect_plan.values())))
        if limits not in spend_limits:
            sharing = {key: how for key, how in plan.policies.items() if _limits(how) == limits}
            spend_limits[limits] = open_shared_spend_limit(workspace, sharing, plan.folder)
            spend_limits[limits].processes = meter.worker.of if meter.worker else 1
        return spend_limits[limits]

    async def run_window(
        engine: Engine, collect_plan: CollectPlan, parts: Sequence[Part], spend_limit: SpendLimit
    ) -> None:
        if meter.done or meter.failures:
            journal.flush()  # an earlier window may have had the same parts
        first = next(iter(collect_plan.values()))
        meter.start_clock()
        budget = _budget(workspace, first)
        with closing(budget) if budget else nullcontext():
            settings = first if meter.worker is None else _shared(first, engine, parts, meter.worker.of)
            pace = _pace(settings, engine, budget, tuning)
            breaker = CircuitBreaker(first.max_failure_rate)
            recorder = Recorder(run, journal, meter, spend_limit)
            window = Window(engine, verifiers, recorder, pace, breaker, first.grace_seconds, stop_time)
            if tuning is not None:
                tuning.stop = partial(window.stop, "measured; the other rollouts stay pending")
            await window.run(pending, collect_plan, parts, stopping)
        if window.stopped and tuning is None:
            spent[_limits(first)] = window.stopped
        elif window.stopped:
            tell(window.stopped)

    def ending() -> bool:
        return stopping.is_set() or (stop_time is not None and stop_time.is_due())

    try:
        for job in plan.jobs:
            if job.in_batches:
                if tuning is not None:
                    raise UsageError("--tune does not work with the batch engine, which does not answer at once")
                from rolloutops.collect.batch import collect_batch

                for part in job.windows if not ending() else ():
                    client = job.make_batch_client()
                    if why := await collect_batch(workspace, plan, run, journal, verifiers, client, part, meter):
                        spent[_limits(next(iter(part.values())))] = why
                continue
            due = [
                (part, parts, spend_limit_of(part))
                for part in job.windows
                if (parts := pending.parts(part, meter.worker))
            ]
            if not due or ending():
                continue
            async with _running(job.make_engine()) as engine:
                for one in due[: 1 if tuning else None]:
                    if not ending():
                        await run_window(engine, *one)
            if tuning is not None:
                break
        if stopping.is_set():
            raise KeyboardInterrupt
        journal.flush()
        if ending():  # what is not verified is verified by the next command
            pending.forget()
            return _Ended(0, list(spent.values()))
        now = {dataset for (dataset, _), settings in plan.policies.items() if settings.verify == "now"}
        verifying = {dataset: verifier for dataset, verifier in verifiers.items() if dataset in now}
        async with await_lock(workspace, *VERIFYING) if verifying else nullcontext():
            pending.forget()
            verified = await verify_unverified(pending.con, plan, run, journal, verifying)
            journal.flush()  # before the lock is free: who waited for it looks for what has no verdict
        return _Ended(verified, list(spent.values()))
    finally:
        for verifier in verifiers.values():
            await verifier.close()
        journal.close()
        # Whoever begins a counter reads the tables, where all of this run lies now.
        for spend_limit in spend_limits.values():
            spend_limit.close()


def _limits(settings: Collect) -> str:
    """What may be spent, as a key."""
    return json.dumps([getattr(settings, name) for name in LIMITS])


def _pace(
    settings: Collect, engine: Engine, budget: SharedRate | None, tuning: ConcurrencySweep | None = None
) -> AnyRateLimit:
    """One endpoint's pace, or a fleet's: of a fleet, the number asked for is that of all servers together."""
    settings = _fitting(settings, engine)
    count, clock = settings.num_samples_in_parallel, asyncio.get_running_loop().time
    longest = LONGEST_PAUSE if settings.deadline is None else settings.deadline
    own = [
        RateLimit(_concurrency(settings, engine), budget, clock, longest_pause=longest)
        for _ in getattr(engine, "members", ())
    ]
    concurrency: Concurrency
    if tuning is not None:
        concurrency, tuning.most = tuning, count if isinstance(count, int) else _most(engine)
    elif not own:
        concurrency = _concurrency(settings, engine)
    else:
        concurrency = ReplicaConcurrency(own) if isinstance(count, str) else ConcurrencyLimit(count or 64 * len(own))
    pace = ReplicaRateLimit(own, concurrency) if own else RateLimit(concurrency, budget, clock, longest_pause=longest)
    if tuning is not None:
        tuning.refusals = lambda: pace.refusals
    return pace


def _shared(settings: Collect, engine: Engine, parts: Sequence[Part], workers: int) -> Collect:
    """The same with no more in flight than one worker's share of what is pending, so that each has some."""
    count, most = _in_flight(settings, engine), -(-sum(part.pending for part in parts) // workers)
    return settings if isinstance(count, str) or count <= most else replace(settings, num_samples_in_parallel=most)


def _in_flight(settings: Collect, engine: Engine) -> int | str:
    """How many rollouts to have in flight: as asked, else what suits the engine."""
    members = getattr(engine, "members", ())
    return settings.num_samples_in_parallel or (64 * len(members) if members else int(getattr(engine, "parallel", 64)))


def _fitting(settings: Collect, engine: Engine) -> Collect:
    """The same with no more in flight than there may be connections, which is said."""
    count = _in_flight(settings, engine)
    if isinstance(count, str) or not getattr(engine, "connects", False) or getattr(engine, "max_connections", 0) > 0:
        return settings
    most, limit = most_connections()
    if most is None or count <= most:
        return settings
    tell(
        f"num_samples_in_parallel is {most}, not {count}: this process may have {limit:,} files open, and each request "
        "in flight needs one; raise the limit with ulimit -n"
    )
    return replace(settings, num_samples_in_parallel=most)


def _most(engine: Engine) -> int:
    """Rollouts in flight at most, where the number is found."""
    most = most_connections()[0] if getattr(engine, "connects", False) else None
    return MOST if most is None else min(MOST, most)


def _concurrency(settings: Collect, engine: Engine) -> ConcurrencyLimit:
    """How many rollouts are in flight: as asked, else what suits the engine."""
    count = settings.num_samples_in_parallel
    if isinstance(count, str):
        most = max(1, _most(engine) // max(1, len(getattr(engine, "members", ()))))
        return ConcurrencyLimit(min(FIRST, most), adapts=True, most=most)
    return ConcurrencyLimit(count or int(getattr(engine, "parallel", 64)))


def _budget(workspace: Workspace, settings: Collect) -> SharedRate | None:
    """The budget a minute, by endpoint and model, for all processes of the workspace."""
    if settings.requests_per_minute is None and settings.tokens_per_minute is None:
        return None
    name = digest([settings.engine, public(settings.base_url), settings.model])
    return SharedRate(
        workspace.root / "locks", f"budget-{name[:16]}", settings.requests_per_minute, settings.tokens_per_minute
    )
