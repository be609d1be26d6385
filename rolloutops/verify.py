"""The verify stage: what is unjudged becomes verdicts. Changed verifier code makes everything unjudged again; the old
verdicts stay, to be compared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rolloutops import sql
from rolloutops.environments import Rollout, Task
from rolloutops.journal import Journal, seal_orphans
from rolloutops.jsontext import dump
from rolloutops.judging import Judge, Verdict
from rolloutops.plugins import find
from rolloutops.progress import Meter, report
from rolloutops.recipe import Recipe
from rolloutops.runs import Run
from rolloutops.workspace import Workspace, connect

IN_FLIGHT = 256
"""Rollouts handed to a judge at once; its process pool takes them in batches."""


@dataclass(frozen=True)
class Verifier:
    """A data set's environment, made, with the judge that runs its verify."""

    name: str
    version: str
    environment: Any
    judge_: Judge

    async def judge(self, task: Task, rollout: Rollout) -> Verdict:
        """One verdict; never raises for what the verifier does."""
        return await self.judge_.judge(task, rollout)

    async def close(self) -> None:
        """End the judge's processes."""
        await self.judge_.close()


@dataclass(frozen=True)
class Verified:
    """How a verification ended."""

    unjudged: int
    judged: int
    failed: int


def verifiers(recipe: Recipe) -> dict[str, Verifier]:
    """data set -> verifier, for the data sets that name an environment."""
    made = {}
    for name, dataset in recipe.datasets.items():
        if dataset.environment is not None:
            plugin = find("environment", dataset.environment, recipe.folder)
            environment = plugin.make(dataset.environment_args)
            limits = recipe.verify
            judge = Judge(
                environment, plugin, dataset.environment_args, limits.processes, limits.timeout, limits.memory_mb
            )
            version = plugin.version(dataset.environment_args)
            made[name] = Verifier(dataset.environment, version, environment, judge)
    return made


def verify(workspace: Workspace, recipe: Recipe, run: Run) -> Verified:
    """Judge what is unjudged, and, with retry_errors, what failed to be judged."""
    seal_orphans(workspace)
    return asyncio.run(_verify(workspace, recipe, run))


async def _verify(workspace: Workspace, recipe: Recipe, run: Run) -> Verified:
    judges = verifiers(recipe)
    journal = Journal(workspace, run.run_id)
    try:
        return await _judge(workspace, recipe, run, journal, judges)
    finally:
        for judge in judges.values():
            await judge.close()
        journal.close()


async def judge_unjudged(
    workspace: Workspace, recipe: Recipe, run: Run, journal: Journal, judges: Mapping[str, Verifier]
) -> int:
    """Judge what earlier runs collected and did not live to judge. Returns the number of verdicts."""
    return (await _judge(workspace, recipe, run, journal, judges)).judged


async def _judge(
    workspace: Workspace, recipe: Recipe, run: Run, journal: Journal, judges: Mapping[str, Verifier]
) -> Verified:
    con = connect(workspace, recipe.plan())
    query = "SELECT dataset, attempt_id FROM unjudged"
    if recipe.verify.retry_errors:
        query += (
            " UNION SELECT v.dataset, v.attempt_id FROM verdicts AS v"
            " SEMI JOIN good_verdicts AS g ON g.dataset = v.dataset AND g.verdict_id = v.verdict_id"
            " SEMI JOIN judges AS j ON j.dataset = v.dataset WHERE v.error IS NOT NULL"
        )
    sql.run(con, f"CREATE TABLE due AS {query}")
    wanted = [
        name for name in judges if sql.rows(con, f"SELECT 1 FROM due WHERE dataset = {sql.literal(name)} LIMIT 1")
    ]
    count = sql.rows(con, f"SELECT count(*) FROM due WHERE list_contains({sql.literal(wanted)}, dataset)")[0][0]
    if not wanted or not count:
        return Verified(0, 0, 0)
    meter = Meter("verdicts", count)
    watch = asyncio.create_task(report(meter))
    try:
        for name in wanted:
            await _judge_dataset(con, name, judges[name], run, journal, meter)
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    return Verified(count, meter.done, sum(meter.failures.values()))


async def _judge_dataset(
    con: sql.Connection, name: str, verifier: Verifier, run: Run, journal: Journal, meter: Meter
) -> None:
    async def one(row: dict[str, Any], task: Task, rollout: Rollout) -> None:
        verdict = await verifier.judge(task, rollout)
        record_verdict(run, journal, verifier, row, row["attempt_id"], verdict)
        meter.done += 1
        meter.judged(verdict.reward, verdict.error)

    pending: set[asyncio.Task[None]] = set()
    async for row, task, rollout in _due(con, name):
        pending.add(asyncio.create_task(one(row, task, rollout)))
        if len(pending) >= IN_FLIGHT:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
    await asyncio.gather(*pending)


async def _due(con: sql.Connection, name: str) -> AsyncIterator[tuple[dict[str, Any], Task, Rollout]]:
    """The rollouts of a data set that are due, with what a verifier needs."""
    query = f"""
        SELECT r.task_id, r.policy, r.rollout_index, r.attempt_id, r.row::VARCHAR AS row, r.prompt::VARCHAR AS prompt,
            r.tools::VARCHAR AS tools, r.answer, r.completion::VARCHAR AS completion, r.text, r.finish_reason
        FROM rollouts AS r
        SEMI JOIN due ON due.dataset = r.dataset AND due.attempt_id = r.attempt_id
        WHERE r.dataset = {sql.literal(name)}
    """
    for batch in sql.stream(con, query):
        for row in batch.to_pylist():
            tools = json.loads(row["tools"]) if row["tools"] else None
            task = Task(name, row["task_id"], json.loads(row["row"]), json.loads(row["prompt"]), tools, row["answer"])
            rollout = Rollout(json.loads(row["completion"]), row["text"], row["finish_reason"])
            yield {**row, "dataset": name}, task, rollout


def record_verdict(
    run: Run, journal: Journal, verifier: Verifier, row: Mapping[str, Any], attempt_id: str, verdict: Verdict
) -> None:
    """Append a verdict on an attempt to the journal."""
    journal.append(
        "verdicts",
        {
            "verdict_id": run.next_id(),
            **{name: row[name] for name in ("dataset", "task_id", "policy", "rollout_index")},
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
        },
    )
