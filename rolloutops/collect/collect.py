"""The collect stage: what is owed becomes attempts, and verdicts unless verification is left for later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from rolloutops.collect import event_loop
from rolloutops.collect.given_up import GivenUp, find_losses
from rolloutops.collect.live import live
from rolloutops.collect.pending import Part, PendingRollouts, standing
from rolloutops.collect.recording import Recorder
from rolloutops.collect.verify import VERIFYING, make_verifiers, verify_unverified
from rolloutops.collect.window import Window
from rolloutops.config.engine_jobs import LIMITS
from rolloutops.config.plan import CollectPlan, Plan
from rolloutops.config.redact import tell
from rolloutops.config.secrets import public
from rolloutops.config.settings import Collect
from rolloutops.engines.open_files import most_connections
from rolloutops.errors import UsageError
from rolloutops.formats.strict_json import digest
from rolloutops.formats.task_rows import HOW_SENT
from rolloutops.layout import count
from rolloutops.limits.circuit_breaker import CircuitBreaker
from rolloutops.limits.concurrency import FIRST, MOST, Concurrency, ConcurrencyLimit
from rolloutops.limits.concurrency_sweep import ConcurrencySweep, Point
from rolloutops.limits.progress import Progress
from rolloutops.limits.rate_limit import RateLimit
from rolloutops.limits.replica_rate_limit import AnyRateLimit, ReplicaConcurrency, ReplicaRateLimit
from rolloutops.limits.shared_rate import SharedRate
from rolloutops.limits.spend_limit import SpendLimit, open_shared_spend_limit
from rolloutops.store.jobs import open_jobs
from rolloutops.store.journal import Journal, seal_orphans
from rolloutops.store.runs import Run
from rolloutops.store.waiting import await_lock
from rolloutops.store.workspace import Workspace
from rolloutops.types import Engine

LONGEST_PAUSE = 3600.0
"""Seconds that `Retry-After` may hold up all requests for where rollouts have no deadline."""


@dataclass(frozen=True)
class CollectReport:
    """How a collection ended: rollouts wanted, pending at its start, made by it, given up and pending at its end.

    submitted: rollouts in submitted batch jobs, jobs: how many of these. unrewarded: why some have no reward. points:
    what was measured where it was to be, and why no more. losses: what is given up, by dataset and policy. spent: of
    each spend limit that ended a part of it, the sentence that names the key to raise."""

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

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 3, the same command goes on with what is pending; 2, it cannot before somebody
        raises a spend limit; 4, more is given up than the recipe allows; else 0."""
        if self.submitted or self.left:
            return 2 if self.spent and not self.submitted else 3
        return 4 if any(one.too_much for one in self.losses) else 0


class _Ended(NamedTuple):
    """judged: verdicts on rollouts of earlier runs. spent: why spend limits let no more be collected."""

    judged: int
    spent: list[str]


def collect(workspace: Workspace, plan: Plan, run: Run, tune: bool = False) -> CollectReport:
    """Collect what is owed. tune: only as much of it as it takes to find the best number in flight.

    Raises KeyboardInterrupt after Ctrl-C, when all that had ended is sealed.
    """
    saved = seal_orphans(workspace)
    retry = {key: asked.retry for key, asked in plan.policies.items() if asked.retry}
    ledger = PendingRollouts(workspace, plan.rows, retry, run.run_id)
    owed, wanted = ledger.count("pending_keys"), ledger.count("wanted")
    given_up = ledger.count_given_up()
    meter = Progress("rollouts", owed, done_before=wanted - owed - given_up, given_up=given_up)
    tuning = ConcurrencySweep(meter) if tune else None
    with live(workspace, run.run_id, meter):
        ended = event_loop.run(_collect(workspace, plan, run, ledger, meter, tuning))
    if ledger.streaming:
        tell(
            f"{', '.join(HOW_SENT)} left out of the rows of {count(ledger.streaming, 'task')}, because replies are "
            "read whole"
        )
    now, jobs = standing(ledger.con), len(open_jobs(workspace, con=ledger.con))
    points, why = (tuning.points, tuning.why) if tuning else ((), "")
    losses = find_losses(ledger.con, plan.policies) if now["given_up"] else ()
    return CollectReport(
        *(wanted, owed, meter.done, now["pending"], now["given_up"], ended.judged, saved, dict(meter.failures)),
        *(now["submitted"], jobs, dict(meter.unrewarded), points, why, losses, ended.spent),
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
    ledger: PendingRollouts,
    meter: Progress,
    tuning: ConcurrencySweep | None,
) -> _Ended:
    """Run each engine's windows, or with `tuning` the first one, then judge what was left unjudged."""
    journal = Journal(workspace, run.run_id)
    judges = make_verifiers(plan)
    stopping = asyncio.Event()
    spend_limits: dict[str, SpendLimit] = {}
    spent: dict[str, str] = {}  # by limit: one that ended several windows is told once

    def spend_limit_of(asked: CollectPlan) -> SpendLimit:
        limits = _limits(next(iter(asked.values())))
        if limits not in spend_limits:
            sharing = {key: how for key, how in plan.policies.items() if _limits(how) == limits}
            spend_limits[limits] = open_shared_spend_limit(workspace, sharing, plan.folder)
        return spend_limits[limits]

    async def run_window(engine: Engine, asked: CollectPlan, parts: Sequence[Part], spend_limit: SpendLimit) -> None:
        if meter.done or meter.failures:
            journal.flush()  # an earlier window may have had the same parts
        first = next(iter(asked.values()))
        meter.start_clock()
        budget = _budget(workspace, first)
        with closing(budget) if budget else nullcontext():
            pace = _pace(first, engine, budget, tuning)
            breaker = CircuitBreaker(first.max_failure_rate)
            recorder = Recorder(run, journal, meter, spend_limit)
            window = Window(engine, judges, recorder, pace, breaker, first.grace_seconds)
            if tuning is not None:
                tuning.stop = partial(window.stop, "measured: what is still owed waits for the next run")
            await window.run(ledger, asked, parts, stopping)
        if window.stopped and tuning is None:
            spent[_limits(first)] = window.stopped
        elif window.stopped:
            tell(window.stopped)

    try:
        for job in plan.jobs:
            if job.settings.engine == "batch":
                if tuning is not None:
                    raise UsageError("--tune measures an endpoint that answers at once: the batch engine does not")
                from rolloutops.collect.batch import collect_batch

                for asked in job.windows if not stopping.is_set() else ():
                    batches = job.make_engine()
                    if why := await collect_batch(workspace, plan, run, journal, judges, batches, asked, meter):
                        spent[_limits(next(iter(asked.values())))] = why
                continue
            due = [(asked, parts, spend_limit_of(asked)) for asked in job.windows if (parts := ledger.parts(asked))]
            if not due or stopping.is_set():
                continue
            async with _running(job.make_engine()) as engine:
                for one in due[: 1 if tuning else None]:
                    if not stopping.is_set():
                        await run_window(engine, *one)
            if tuning is not None:
                break
        if stopping.is_set():
            raise KeyboardInterrupt
        journal.flush()
        now = {dataset for (dataset, _), asked in plan.policies.items() if asked.verify == "now"}
        verifying = {dataset: judge for dataset, judge in judges.items() if dataset in now}
        async with await_lock(workspace, *VERIFYING) if verifying else nullcontext():
            ledger.forget()
            judged = await verify_unverified(ledger.con, plan, run, journal, verifying)
            journal.flush()  # before the lock is free: who waited for it looks for what has no verdict
        return _Ended(judged, list(spent.values()))
    finally:
        for judge in judges.values():
            await judge.close()
        journal.close()
        # Whoever begins a counter reads the tables, where all of this run lies now.
        for spend_limit in spend_limits.values():
            spend_limit.close()


def _limits(asked: Collect) -> str:
    """What may be spent, as a key."""
    return json.dumps([getattr(asked, name) for name in LIMITS])


def _pace(
    asked: Collect, engine: Engine, budget: SharedRate | None, tuning: ConcurrencySweep | None = None
) -> AnyRateLimit:
    """One endpoint's pace, or a fleet's: of a fleet, the number asked for is that of all servers together."""
    asked = _fitting(asked, engine)
    width, clock = asked.num_samples_in_parallel, asyncio.get_running_loop().time
    longest = LONGEST_PAUSE if asked.deadline is None else asked.deadline
    own = [
        RateLimit(_level(asked, engine), budget, clock, longest_pause=longest) for _ in getattr(engine, "members", ())
    ]
    level: Concurrency
    if tuning is not None:
        level, tuning.most = tuning, width if isinstance(width, int) else _most(engine)
    elif not own:
        level = _level(asked, engine)
    else:
        level = ReplicaConcurrency(own) if isinstance(width, str) else ConcurrencyLimit(width or 64 * len(own))
    pace = ReplicaRateLimit(own, level) if own else RateLimit(level, budget, clock, longest_pause=longest)
    if tuning is not None:
        tuning.refusals = lambda: pace.refusals
    return pace


def _fitting(asked: Collect, engine: Engine) -> Collect:
    """The same with no more in flight than there may be connections, which is said."""
    members = getattr(engine, "members", ())
    width = asked.num_samples_in_parallel or (64 * len(members) if members else int(getattr(engine, "parallel", 64)))
    if isinstance(width, str) or not getattr(engine, "connects", False) or getattr(engine, "max_connections", 0) > 0:
        return asked
    most, limit = most_connections()
    if most is None or width <= most:
        return asked
    tell(
        f"num_samples_in_parallel is {most}, not {width}: this process may have {limit:,} files open, and each request "
        "in flight needs one; raise the limit with ulimit -n"
    )
    return replace(asked, num_samples_in_parallel=most)


def _most(engine: Engine) -> int:
    """Rollouts in flight at most, where the number is found."""
    most = most_connections()[0] if getattr(engine, "connects", False) else None
    return MOST if most is None else min(MOST, most)


def _level(asked: Collect, engine: Engine) -> ConcurrencyLimit:
    """How many rollouts are in flight: as asked, else what suits the engine."""
    width = asked.num_samples_in_parallel
    if isinstance(width, str):
        most = max(1, _most(engine) // max(1, len(getattr(engine, "members", ()))))
        return ConcurrencyLimit(min(FIRST, most), found=True, most=most)
    return ConcurrencyLimit(width or int(getattr(engine, "parallel", 64)))


def _budget(workspace: Workspace, asked: Collect) -> SharedRate | None:
    """The budget a minute, by endpoint and model, for all processes of the workspace."""
    if asked.requests_per_minute is None and asked.tokens_per_minute is None:
        return None
    name = digest([asked.engine, public(asked.base_url), asked.model])
    return SharedRate(
        workspace.root / "locks", f"budget-{name[:16]}", asked.requests_per_minute, asked.tokens_per_minute
    )
