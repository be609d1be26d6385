"""What came back for a job becomes attempts and verdicts: a file of answers read into rows, whatever its order.

A row's attempt_id is the custom id that its request had, so that what an earlier run wrote before it died is not
written again.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import orjson

from rolloutops.collect.agent import attempt
from rolloutops.collect.attempt import Attempt, PendingRollout, effective_params, of_repeat
from rolloutops.collect.verify import Verifier, record_verdict
from rolloutops.config.settings import Collect
from rolloutops.engines.batch import NotThere
from rolloutops.errors import AttemptFailed
from rolloutops.formats.strict_json import dump
from rolloutops.layout import count, verb
from rolloutops.limits.progress import Progress
from rolloutops.store import sql
from rolloutops.store.jobs import Job, Request, intent, recorded_requests, request_id
from rolloutops.store.journal import Journal
from rolloutops.store.rows import AttemptRow
from rolloutops.store.runs import Run
from rolloutops.store.workspace import Workspace
from rolloutops.types import Batch, BatchClient, ModelAnswer, ModelCall, Task

AT_ONCE = 500
"""Rollouts whose tasks and answers are in memory at the same time."""


@dataclass(frozen=True)
class BatchContext:
    """What collecting a job takes: where to write, who verifies, whom to ask. con: knows the workspace's views."""

    workspace: Workspace
    run: Run
    journal: Journal
    verifiers: Mapping[str, Verifier]
    meter: Progress
    client: BatchClient
    con: sql.Connection


@dataclass(frozen=True, slots=True)
class Offers:
    """An environment that offers its tools and runs none: the first answer ends the rollout."""

    tools: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _StoredAnswer:
    """What stands for the model where its answer is there already."""

    given: ModelAnswer | AttemptFailed

    async def answer(self, call: ModelCall) -> ModelAnswer:
        if isinstance(self.given, AttemptFailed):
            raise self.given
        return self.given


AnswerOf = Callable[[int], ModelAnswer | AttemptFailed]
"""What became of a request, by its place in the file of requests."""


async def collect_answers(context: BatchContext, job: Job, batch: Batch) -> tuple[Counter[str], str]:
    """Write an attempt for each request of a batch that ended. Returns counts of what is odd about its files, and why
    the key or the account is to blame, where answers say so; those rollouts stay pending.

    Lines may come in any order. Of two with one custom id the first counts. A request without a line is a failed
    attempt, which is pending again.
    """
    counts: Counter[str] = Counter()
    of_the_run: list[str] = []
    with tempfile.TemporaryFile(dir=context.workspace.root) as file:
        for name in batch.files:
            try:
                await context.client.download(name, file)
                file.write(b"\n")
            except NotThere:
                counts["files_gone"] += 1
        lines = _places_of_lines(file, job, counts)

        def answer_of(place: int) -> ModelAnswer | AttemptFailed:
            if place not in lines:
                kind = "timeout" if batch.status == "expired" else "bad_response"
                return AttemptFailed(
                    kind, f"batch {batch.batch_id} has status {batch.status} and no line for this request"
                )
            file.seek(lines[place])
            try:
                return context.client.read(file.readline(), job.endpoint)
            except AttemptFailed as failed:
                # Of refusals alone nobody knows whether they are for the prompts or for the key.
                if failed.kind == "unauthorized" or (failed.kind == "forbidden" and not batch.completed):
                    failed.final = False
                    of_the_run.append(failed.message)
                return failed

        counts["missing"] = job.requests - len(lines)
        await write_attempts(context, job, batch, answer_of, range(job.requests), counts)
    if not of_the_run:
        return +counts, ""
    many = len(of_the_run)
    return +counts, f"{count(many, 'request')} {verb(many, 'were')} refused, the last one with: {of_the_run[-1]}"


async def write_attempts(
    context: BatchContext,
    job: Job,
    batch: Batch,
    answer: AnswerOf,
    places: Collection[int],
    counts: Counter[str],
) -> None:
    """Write the attempts and verdicts of some requests of a job, but for those that are written already."""
    policies, requests = intent(context.workspace, job.job_id, context.con)
    before = recorded_requests(context.workspace, job.job_id, requests, context.con)
    parts: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for place in places:
        if request_id(job.job_id, place) not in before:
            parts[requests[place].dataset, requests[place].part].append(place)

    async def one(place: int, task: Task) -> None:
        request = requests[place]
        how = policies[request.dataset][request.policy]
        answered = await _attempt(request, task, Collect(**how["collect"]), how["tools"], answer(place))
        row: AttemptRow = {
            **answered.row(),
            "attempt_id": request_id(job.job_id, place),
            "run_id": context.run.run_id,
            "started_at": int(batch.created_at * 1e6),
            "seconds": batch.ended_at - batch.created_at,
            "model_seconds": batch.ended_at - batch.created_at,
        }
        context.journal.append("attempts", row)
        context.journal.check()
        context.meter.attempted(row)
        counts["failed" if row.get("error") else "completed"] += 1
        verifier = context.verifiers.get(request.dataset)
        now = how["collect"].get("verify", "now") == "now"
        if answered.failure is None and verifier is not None and verifier.verifies and now:
            verdict = await verifier.verify(task, answered.rollout())
            record_verdict(context.run, context.journal, verifier, row, row["attempt_id"], verdict)
            context.meter.count_verdict(verdict.reward, verdict.error)

    for (dataset, number), within in sorted(parts.items()):
        for start in range(0, len(within), AT_ONCE):
            some = within[start : start + AT_ONCE]
            tasks = _tasks(context, dataset, number, [requests[place] for place in some])
            keyed = [(place, tasks.get((requests[place].task_id, requests[place].row_hash))) for place in some]
            await asyncio.gather(*(one(place, task) for place, task in keyed if task is not None))
            counts["tasks_gone"] += sum(task is None for _, task in keyed)


async def _attempt(
    request: Request,
    task: Task,
    settings: Collect,
    tools: Sequence[dict[str, Any]],
    answer: ModelAnswer | AttemptFailed,
) -> Attempt:
    """The attempt, as made by the loop that makes all, out of an answer that is there already."""
    params = of_repeat(effective_params(task.row, settings.responses_create_params), request.rollout_index)
    place = (request.row_hash, request.part, request.policy, request.rollout_index, request.attempt)
    pending = PendingRollout(task, *place, settings, params, dump(params))
    return await attempt(pending, _StoredAnswer(answer), Offers(tools))


def _places_of_lines(file: IO[bytes], job: Job, counts: Counter[str]) -> dict[int, int]:
    """place of a request -> where its line begins in the file of answers."""
    places: dict[int, int] = {}
    at = file.seek(0)
    while line := file.readline():
        here, at = at, at + len(line)
        if not line.strip():
            continue
        try:
            name = str(orjson.loads(line)["custom_id"])
        except (orjson.JSONDecodeError, TypeError, KeyError):
            counts["unreadable_lines"] += 1
            continue
        place = name.removeprefix(f"{job.job_id}-")
        if place == name or not place.isdecimal() or int(place) >= job.requests:
            counts["unknown_lines"] += 1
        elif int(place) in places:
            counts["duplicate_lines"] += 1
        else:
            places[int(place)] = here
    return places


def _tasks(context: BatchContext, dataset: str, part: int, requests: Sequence[Request]) -> dict[tuple[str, str], Task]:
    """(task_id, row_hash) -> the task as it was when it was asked."""
    path = context.workspace.root / "tasks" / dataset / f"part-{part:05d}.parquet"
    if not path.is_file():
        return {}
    hashes = sql.literal(sorted({request.row_hash for request in requests}))
    found = sql.rows(
        context.con,
        f"""
        SELECT task_id, row_hash, row::VARCHAR, prompt::VARCHAR, tools::VARCHAR, answer
        FROM read_parquet({sql.literal(str(path))})
        WHERE list_contains({hashes}, row_hash)
        """,
    )
    return {
        (task_id, row_hash): Task(
            dataset, task_id, json.loads(row), json.loads(prompt), json.loads(tools) if tools else None, answer
        )
        for task_id, row_hash, row, prompt, tools, answer in found
    }
