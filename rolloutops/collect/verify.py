"""The verify stage: what is unverified becomes verdicts. Changed verifier code makes everything unverified again; the
old verdicts stay, to be compared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rolloutops.collect import event_loop
from rolloutops.collect.live import live
from rolloutops.collect.outdated import Outdated, outdated
from rolloutops.collect.unverified import Unverified, find_unverified
from rolloutops.config.plan import Plan
from rolloutops.config.redact import tell
from rolloutops.environments.hooks import refuse_misspelt_hooks
from rolloutops.environments.stored_rollout import StoredRollout
from rolloutops.environments.verdict import Verdict
from rolloutops.environments.verification import VerifierRunner
from rolloutops.errors import UsageError
from rolloutops.formats.strict_json import dump
from rolloutops.layout import count
from rolloutops.limits.progress import Progress, WorkerName, report
from rolloutops.steps.step import measure
from rolloutops.store import sql
from rolloutops.store.journal import Journal, seal_orphans
from rolloutops.store.rows import AttemptRow, RolloutKey, VerdictRow
from rolloutops.store.runs import Run
from rolloutops.store.waiting import await_lock, wait_for_lock
from rolloutops.store.workspace import Workspace, connect
from rolloutops.types import Rollout, Task


@dataclass(frozen=True)
class Verifier:
    """A dataset's environment, made, with the runner of its verify. verifies: false where people do, and it only
    offers tools."""

    name: str
    version: str
    environment: Any
    runner: VerifierRunner
    verifies: bool = True

    def at_once(self, task: Task, rollout: Rollout) -> Verdict | None:
        """A verdict, where it takes no waiting for a process or another server."""
        return self.runner.at_once(task, rollout)

    async def verify(self, task: Task, rollout: Rollout) -> Verdict:
        """One verdict; never raises for what the verifier does."""
        return await self.runner.verify(task, rollout)

    async def close(self) -> None:
        """End the judge's processes."""
        await self.runner.close()


@dataclass(frozen=True)
class RemoteVerifier:
    """A verifier that verified where the rollout was made. What version of its code that was, nobody told."""

    name: str
    version: None = None


class DueVerdict(NamedTuple):
    """A rollout that is to be verified: what names it, and its attempt."""

    key: RolloutKey
    attempt_id: str


@dataclass(frozen=True)
class VerifyReport:
    """How a verification ended. waiting: rollouts of verifiers that spend and verify again only on command. rest: what
    has no reward, also after it."""

    unverified: int
    verified: int
    failed: int
    waiting: int = 0
    rest: Unverified = field(default_factory=Unverified)


VERIFYING = ("verify", "verifies the rollouts of this workspace")
"""The lock under which rollouts are verified, and what is said of the command that holds it."""


def make_verifiers(plan: Plan) -> dict[str, Verifier]:
    """Make the verifier of each dataset that names an environment: dataset -> verifier."""
    made = {}
    limits = plan.verify
    for dataset, verifier in plan.verifiers.items():
        (name, version, _), plugin, args = verifier.present, verifier.plugin, dict(verifier.args)
        if limits.unsafe_code and "unsafe_code" in plugin.takes():
            args["unsafe_code"] = True  # where it runs is not part of the verifier's version
        environment = plugin.make(args)
        refuse_misspelt_hooks(name, environment)
        runner = VerifierRunner(environment, plugin, args, limits.processes, limits.timeout, limits.memory_mb)
        made[dataset] = Verifier(name, version, environment, runner, dataset not in plan.scored_by_people)
    return made


def verify(workspace: Workspace, plan: Plan, run: Run, on_command: bool = True) -> VerifyReport:
    """Verify what is unverified, and, with retry_errors, what failed to be verified.

    on_command: also what verifiers that spend have verified in an earlier version.
    Raises UsageError where `against` matches no verdict.
    """
    seal_orphans(workspace)
    if plan.verify.against is not None:
        _refuse_unknown_version(workspace, plan.verify.against)
    return event_loop.run(_verify(workspace, plan, run, on_command))


def verify_share(workspace: Workspace, plan: Plan, run: Run, worker: WorkerName) -> VerifyReport:
    """Verify a worker's share of what is unverified; who started it holds the lock, and has said what there is."""
    seal_orphans(workspace)
    return event_loop.run(_verify_share(workspace, plan, run, worker))


def verify_in_processes(
    workspace: Workspace, plan: Plan, work: Callable[[Progress], Sequence[Mapping[str, Any]]]
) -> VerifyReport:
    """Verify what is unverified in processes that `work` starts and waits for. work: takes the meter of all of them,
    returns what each did; where nothing is unverified it is not called."""
    seal_orphans(workspace)
    if plan.verify.against is not None:
        _refuse_unknown_version(workspace, plan.verify.against)
    with wait_for_lock(workspace, *VERIFYING):
        con = connect(workspace, plan.rows)
        tell(*map(_again, _late(con, plan, plan.verifiers)))
        due = sum(_find_due(con, plan, plan.verifiers).values())
        ends = work(Progress("verdicts", due)) if due else ()
    verified, failed = (sum(int(end[name]) for end in ends) for name in ("done", "failed"))
    return VerifyReport(due, verified, failed, rest=find_unverified(connect(workspace, plan.rows), plan))


def agreement(workspace: Workspace, plan: Plan) -> tuple[list[str], list[tuple[Any, ...]]]:
    """How far the present verdicts agree with those of the version `against`: metrics/agreement, columns and rows."""
    con = connect(workspace, plan.rows)
    return measure(con, "metrics/agreement", plan.folder, {"against": plan.verify.against})


def _refuse_unknown_version(workspace: Workspace, against: str) -> None:
    found = sql.rows(
        connect(workspace),
        "SELECT verifier_version, verifier, count(*) FROM verdicts WHERE verifier_version IS NOT NULL"
        " GROUP BY ALL ORDER BY max(verdict_id) DESC",
    )
    if not any(version.startswith(against) for version, _, _ in found):
        known = ", ".join(
            f"{version} ({verifier}, {count(verdicts, 'verdict')})" for version, verifier, verdicts in found
        )
        raise UsageError(f"no verdicts with verifier version {against!r}; available, newest first: {known or 'none'}")


async def _verify(workspace: Workspace, plan: Plan, run: Run, on_command: bool) -> VerifyReport:
    verifiers = make_verifiers(plan)
    async with await_lock(workspace, *VERIFYING):
        journal = Journal(workspace, run.run_id)
        try:
            con = connect(workspace, plan.rows)
            late = _late(con, plan, verifiers)
            # What waits in a command `run` is told by its collection, and by what refuses to measure or build.
            waiting = [] if on_command else [one for one in late if one.spends]
            tell(*(_again(one) for one in late if one not in waiting))
            done = await _verify_rollouts(con, plan, run, journal, verifiers, waiting)
        finally:
            for verifier in verifiers.values():
                await verifier.close()
            journal.close()  # before the lock is free: who waited for it looks for what has no verdict
    return replace(done, rest=find_unverified(connect(workspace, plan.rows), plan))


async def _verify_share(workspace: Workspace, plan: Plan, run: Run, worker: WorkerName) -> VerifyReport:
    verifiers = make_verifiers(plan)
    journal = Journal(workspace, run.run_id)
    try:
        return await _verify_rollouts(connect(workspace, plan.rows), plan, run, journal, verifiers, (), worker)
    finally:
        for verifier in verifiers.values():
            await verifier.close()
        journal.close()


async def verify_unverified(
    con: sql.Connection, plan: Plan, run: Run, journal: Journal, verifiers: Mapping[str, Verifier]
) -> int:
    """Verify what earlier runs collected and did not live to verify, and what a verifier verified in an earlier
    version, unless it spends. Returns the number of verdicts.

    con: with the workspace's views as they stand now."""
    late = _late(con, plan, verifiers)
    waiting = [one for one in late if one.spends]
    waits = "run the command verify for them, because verification costs money"
    tell(*(f"{one.changed()}: {waits}" if one in waiting else _again(one) for one in late))
    return (await _verify_rollouts(con, plan, run, journal, verifiers, waiting)).verified


def _late(con: sql.Connection, plan: Plan, verifiers: Mapping[str, Any]) -> list[Outdated]:
    return [one for one in outdated(con, plan) if one.dataset in verifiers]


def _again(late: Outdated) -> str:
    return f"{late.changed()}: they are verified again"


async def _verify_rollouts(
    con: sql.Connection,
    plan: Plan,
    run: Run,
    journal: Journal,
    verifiers: Mapping[str, Verifier],
    waiting: Sequence[Outdated],
    worker: WorkerName | None = None,
) -> VerifyReport:
    """Verify what is due. waiting: datasets whose outdated rollouts are left alone. worker: only its share."""
    wanted = _find_due(con, plan, verifiers, waiting, worker)
    if not wanted:
        return VerifyReport(0, 0, 0, sum(one.rollouts for one in waiting))
    meter = Progress("verdicts", sum(wanted.values()), worker=worker)
    with live(journal.workspace, run.run_id, meter):
        watch = asyncio.create_task(report(meter))
        try:
            for name, count in wanted.items():
                async for ended in verifiers[name].runner.verify_all(_due(con, name), count):
                    for due, verdict in ended:
                        record_verdict(run, journal, verifiers[name], due.key, due.attempt_id, verdict)
                        meter.done += 1
                        meter.count_verdict(verdict.reward, verdict.error)
                    journal.check()
                    if run.refused is not None:
                        raise run.refused
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
    return VerifyReport(meter.pending, meter.done, sum(meter.unrewarded.values()), sum(one.rollouts for one in waiting))


def _find_due(
    con: sql.Connection,
    plan: Plan,
    verifiers: Mapping[str, Any],
    waiting: Sequence[Outdated] = (),
    worker: WorkerName | None = None,
) -> dict[str, int]:
    """Make the table `due` of the rollouts that are to be verified: dataset -> how many they are. worker: only its
    share, which is the same on every machine."""
    query = "SELECT dataset, attempt_id FROM unverified"
    if waiting:
        names = sql.literal([one.dataset for one in waiting])
        query += f" EXCEPT SELECT dataset, attempt_id FROM outdated WHERE list_contains({names}, dataset)"
    if plan.verify.retry_errors:
        query += (
            " UNION SELECT v.dataset, v.attempt_id FROM verdicts AS v"
            " SEMI JOIN good_verdicts AS g ON g.dataset = v.dataset AND g.verdict_id = v.verdict_id"
            " SEMI JOIN dataset_verifiers AS j ON j.dataset = v.dataset WHERE v.error IS NOT NULL"
        )
    sql.run(con, f"CREATE TABLE due AS {query}")
    if worker is not None:
        sql.run(con, f"DELETE FROM due WHERE md5_number_lower(attempt_id) % {worker.of} <> {worker.number - 1}")
    counts = dict(sql.rows(con, "SELECT dataset, count(*) FROM due GROUP BY dataset"))
    others = {*plan.pins, *plan.scored_by_people}
    return {name: counts[name] for name in verifiers if name in counts and name not in others}


def _due(con: sql.Connection, name: str) -> Iterator[tuple[DueVerdict, StoredRollout]]:
    """The rollouts of a dataset that are due: the keys of a verdict, and what a verifier needs."""
    query = f"""
        SELECT r.task_id, r.policy, r.rollout_index, r.attempt_id, r.row::VARCHAR, r.prompt::VARCHAR,
            r.tools::VARCHAR, r.answer, r.completion::VARCHAR, r.text, r.finish_reason
        FROM rollouts AS r
        SEMI JOIN due ON due.dataset = r.dataset AND due.attempt_id = r.attempt_id
        WHERE r.dataset = {sql.literal(name)}
    """
    for batch in sql.stream(con, query, sql.PAYLOAD_ROWS):
        for task_id, policy, index, attempt_id, *payload in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            key: RolloutKey = {"dataset": name, "task_id": task_id, "policy": policy, "rollout_index": index}
            yield DueVerdict(key, attempt_id), StoredRollout(name, task_id, *payload)


def record_verdict(
    run: Run,
    journal: Journal,
    verifier: Verifier | RemoteVerifier,
    key: RolloutKey | AttemptRow,
    attempt_id: str,
    verdict: Verdict,
) -> None:
    """Append a verdict on an attempt to the journal."""
    row: VerdictRow = {
        "verdict_id": run.next_id(),
        "dataset": key["dataset"],
        "task_id": key["task_id"],
        "policy": key["policy"],
        "rollout_index": key["rollout_index"],
        "attempt_id": attempt_id,
        "verifier": verifier.name,
        "verifier_version": verifier.version,
        "reward": verdict.reward,
        "metrics": list(verdict.metrics.items()),
        "details": dump(verdict.details),
        "error": verdict.error,
        "error_message": verdict.error_message,
        "seconds": verdict.seconds,
        "cached": verdict.cached,
        "run_id": run.run_id,
        "cpu_seconds": verdict.cpu_seconds,
    }
    journal.append("verdicts", row)
