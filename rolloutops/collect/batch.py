"""Collection by batches: what is pending becomes jobs, and what a provider answers, hours later, becomes attempts.

A run puts in order what an earlier one left unfinished, collects the jobs that have ended, submits what is pending as
new jobs, and ends (or waits). Money is spent in one place, the request that makes a batch. Before it the job's intent
and its file's id are on the disk, after it the batch's id is. So a run that dies anywhere leaves a job in one of three
states, and the next run knows what to do:

    intended     no batch was asked for: the job is dropped, and its rollouts are pending again
    uploaded     a batch may exist: it is looked up in the provider's list, and made only where it is not there
    submitted    the batch is collected, and what was written of it before is not written again

What a provider never tried is pending again; what it tried and failed, or did not get to in time, is a failed attempt.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import IO, Any

from rolloutops.collect.attempt import PendingRollout
from rolloutops.collect.batch_budget import allowance
from rolloutops.collect.batch_prepare import body_of, tools_of
from rolloutops.collect.batch_results import BatchContext, collect_answers, write_attempts
from rolloutops.collect.pending import PendingRollouts
from rolloutops.collect.verify import Verifier
from rolloutops.config.plan import CollectPlan, Plan
from rolloutops.config.redact import tell
from rolloutops.config.settings import resolved
from rolloutops.engines.batch import ENDED, NO_ROOM, NotNow, Unanswered
from rolloutops.errors import AttemptFailed, EngineError
from rolloutops.formats.refusals import OUT_OF_MONEY
from rolloutops.formats.strict_json import dump
from rolloutops.ingest.media import media_of
from rolloutops.layout import count, verb
from rolloutops.limits.progress import Progress, report
from rolloutops.limits.token_estimate import text_length
from rolloutops.store.jobs import Job, Request, open_jobs, record, request_id
from rolloutops.store.journal import Journal, seal_orphans
from rolloutops.store.runs import Run
from rolloutops.store.workspace import Workspace, connect, try_lock
from rolloutops.types import Batch, BatchClient, Refusal

TRIES = 3
"""How often a batch is asked for that is neither made nor refused."""

NO_MODEL = frozenset({"model_not_found", "mismatched_model", "invalid_model"})
"""Refusals that name a line and mean all of them."""

STORED = ("engine", "model", "endpoint", "responses_create_params", "system_prompt", "keep_response", "verify")
"""The settings that a job's rows are made with when its answers come: those of the day it was submitted."""


@dataclass
class _State:
    """What one run learns on its way. largest: requests that a batch may hold. no_room: the provider's queue was full.
    stop: why nothing more is submitted, in a sentence. spent: as stop, but it is the budget, and may pass."""

    context: BatchContext
    plan: Plan
    collect_plan: CollectPlan
    largest: int
    no_room: bool = False
    stop: str = ""
    spent: str = ""


async def collect_batch(
    workspace: Workspace,
    plan: Plan,
    run: Run,
    journal: Journal,
    verifiers: Mapping[str, Verifier],
    client: BatchClient,
    collect_plan: CollectPlan,
    meter: Progress,
) -> str:
    """Collect the jobs that have ended and submit what is pending; with the client's `wait`, until nothing is under
    way. Returns why a spend limit let no more be submitted, else an empty text.

    Raises EngineError where the provider cannot be reached or refuses; all that was submitted stays known.
    """
    allowance(workspace, collect_plan, plan.folder)  # an unknown price is told before anything is spent
    journal.flush()
    with try_lock(workspace, "batches") as free:
        if not free:
            _say("another process is handling this workspace's batches; skipping them")
            return ""
        seal_orphans(workspace)
        context = BatchContext(workspace, run, journal, verifiers, meter, client, connect(workspace))
        state = _State(context, plan, collect_plan, client.requests_per_batch)
        before = sum(job.requests for job in _open(context))
        meter.pending += before
        meter.done_before -= before
        watch = asyncio.create_task(report(meter))
        await client.start()
        try:
            await _rounds(state, client)
        finally:
            await client.stop()
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
    if state.stop:
        raise EngineError(state.stop)
    return state.spent


async def _rounds(state: _State, client: BatchClient) -> None:
    last = ""
    while True:
        for job in _open(state.context):
            await _look_after(state, job)
        if not state.stop:
            await _submit(state)
        jobs = _open(state.context)
        if not client.wait or not jobs:
            return
        line = f"submitted batch jobs: {len(jobs)}, with {count(sum(job.requests for job in jobs), 'request')}"
        if line != last:
            _say(line)
            last = line
        await asyncio.sleep(client.poll_seconds)


async def _look_after(state: _State, job: Job) -> None:
    """Bring an open job as far as it goes now."""
    context = state.context
    if job.state == "intended":
        _note(context, job, "dropped", message="the run ended before the batch was requested")
    elif job.state == "uploaded":
        await _make(state, job, is_retry=True)
    else:
        batch = await context.client.look(str(job.batch_id))
        if batch.status in ENDED:
            counts, message = await _end(state, job, batch)
            context.journal.flush()
            _note(context, job, "ended", status=batch.status, message=message or None, counts=dump(counts))


async def _end(state: _State, job: Job, batch: Batch) -> tuple[Counter[str], str]:
    """Write the attempts of a job that ended. Returns what became of its requests, and why it was refused."""
    if batch.status != "failed":
        counts, refused = await collect_answers(state.context, job, batch)
        if refused:
            state.stop = f"batch {batch.batch_id}: {refused}. No rollout was given up; fix the cause and rerun"
        state.no_room = False
        odd = {name: count for name, count in counts.items() if name not in ("completed", "failed")}
        if odd:
            _say(f"batch {batch.batch_id}: " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in odd.items()))
        return counts, ""
    counts, why = Counter(), batch.refusals or (Refusal("", "no reason given"),)
    said = f"batch {batch.batch_id} was refused: {why[0]}"
    if any(refusal.code in NO_ROOM for refusal in why):
        state.no_room = True
        state.largest = min(state.largest, max(1, job.requests // 2))
        _say(f"{said}; its requests will be resubmitted in smaller batches once other batches finish")
        return counts, said
    if any(OUT_OF_MONEY.search(refusal.code) for refusal in why):
        state.stop = f"{said}. No rollout was given up; fix the cause and rerun"
        return counts, said
    named = {r.line - 1: r for r in why if r.line is not None and r.code not in NO_MODEL}
    answers: dict[int, AttemptFailed] = {
        place: AttemptFailed("bad_request", f"batch {batch.batch_id}, line {place + 1}: {r}")
        for place, r in named.items()
        if 0 <= place < job.requests
    }
    if answers:
        lost = f"{len(answers):,} of its requests {verb(len(answers), 'are')} given up"
        _say(f"{said}; {lost}, the others are submitted again")
    else:
        state.stop = f"{said}; fix the cause and rerun"
        answers = {place: AttemptFailed("bad_request", said, final=False) for place in range(job.requests)}
    await write_attempts(state.context, job, batch, answers.__getitem__, answers, counts)
    counts["not_tried"] = job.requests - len(answers)
    return +counts, said


async def _make(state: _State, job: Job, is_retry: bool) -> None:
    """Have the provider make a job's batch, once. is_retry: it may be made already."""
    context, why = state.context, ""
    for _ in range(TRIES):
        batch = await _find(context.client, job) if is_retry else None
        if batch is None:
            try:
                batch = await context.client.submit(job.job_id, str(job.file_id), job.endpoint)
            except Unanswered as error:
                is_retry, why = True, str(error)
                continue
            except NotNow as error:
                state.no_room = True
                _say(f"cannot submit a batch right now: {error}")
                return
            except EngineError as error:
                _note(context, job, "dropped", message=str(error))
                raise
        _note(context, job, "submitted", batch_id=batch.batch_id)
        return
    raise EngineError(f"{context.client.url} did not confirm the new batch ({why}); rerun the command")


async def _find(client: BatchClient, job: Job) -> Batch | None:
    """The job's batch, if the provider lists it, now or when a request that was on its way has had time to arrive."""
    batch = await client.find(job.job_id, str(job.file_id))
    if batch is None and client.settle_seconds > 0:
        _say(f"job {job.job_id} may have been submitted: looking again in {client.settle_seconds:g} s")
        await asyncio.sleep(client.settle_seconds)
        batch = await client.find(job.job_id, str(job.file_id))
    return batch


@dataclass
class _Draft:
    """A job that is being written: its file and what it covers. locks: of the parts that it draws from. tokens, cost:
    what it is expected to spend."""

    job_id: str
    file: IO[bytes]
    size: int = 0
    tokens: float = 0.0
    cost: float = 0.0
    requests: list[Request] = field(default_factory=list)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    locks: list[Callable[[], None]] = field(default_factory=list)


async def _submit(state: _State) -> None:
    """Submit what is pending, as jobs as large as they may be; where there was no room, one job when no other is
    left."""
    context, one_only = state.context, state.no_room
    if state.no_room and _open(context):
        return
    state.no_room, state.spent = False, ""
    context.journal.flush()
    pending = await asyncio.to_thread(
        PendingRollouts,
        context.workspace,
        state.plan.rows,
        run_id=context.run.run_id,
        media=partial(media_of, state.plan),
    )
    budget = await asyncio.to_thread(allowance, context.workspace, state.collect_plan, state.plan.folder)
    busy, draft = 0, _new_draft(context)
    try:
        for part in pending.parts(state.collect_plan):
            taken = await asyncio.to_thread(pending.take, part, state.collect_plan, whole=True)
            if taken is None or taken.with_others:
                busy += 1
            if taken is None:
                continue
            draft.locks.append(taken.release)
            for item in (rollout for batch in taken.batches for rollout in batch):
                body = await body_of(context, item)
                if body is None:
                    continue
                if (
                    len(draft.requests) >= state.largest
                    or draft.size + len(body) + 200 > context.client.bytes_per_batch
                ):
                    await _send(state, draft)
                    draft = _new_draft(context, keep=draft.locks)
                    if state.no_room or one_only:
                        return
                expected = budget.takes(item, text_length(body.decode()))
                if expected is None:
                    await _send(state, draft)
                    state.spent = budget.why()
                    return
                draft.tokens, draft.cost = draft.tokens + expected[0], draft.cost + expected[1]
                _add(context, draft, item, body)
        await _send(state, draft)
    finally:
        for release in draft.locks:
            release()
        draft.file.close()
        if busy:
            _say(
                f"{count(busy, 'part')} {verb(busy, 'are')} locked by another process: run the command again "
                "for their rollouts"
            )


def _new_draft(context: BatchContext, keep: list[Callable[[], None]] | None = None) -> _Draft:
    """An empty job. keep: locks of the draft before; only the last part's rollouts are not all in a job yet."""
    locks = keep or []
    while len(locks) > 1:
        locks.pop(0)()
    return _Draft(context.run.next_id(), tempfile.TemporaryFile(dir=context.workspace.root), locks=locks)


def _add(context: BatchContext, draft: _Draft, pending: PendingRollout, body: bytes) -> None:
    line = context.client.line(request_id(draft.job_id, len(draft.requests)), body)
    draft.file.write(line)
    draft.size += len(line)
    task = pending.task
    draft.requests.append(
        Request(
            task.dataset,
            task.task_id,
            pending.row_hash,
            pending.part,
            pending.policy,
            pending.rollout_index,
            pending.attempt,
        )
    )
    policies = draft.policies.setdefault(task.dataset, {})
    if pending.policy not in policies:
        kept = {name: value for name, value in resolved(pending.settings).items() if name in STORED}
        policies[pending.policy] = {"collect": kept, "tools": tools_of(context, task.dataset)}


async def _send(state: _State, draft: _Draft) -> None:
    """Submit a draft, unless it is empty: intent, file, batch."""
    context, client = state.context, state.context.client
    if not draft.requests:
        return
    job = Job(draft.job_id, "intended", client.url, client.endpoint, client.model, len(draft.requests))
    requests = [asdict(request) for request in draft.requests]
    expected = dump({"expected_tokens": round(draft.tokens), "expected_cost": draft.cost})
    _note(context, job, "intended", asked=dump(draft.policies), requests=requests, counts=expected)
    draft.file.seek(0)
    try:
        file_id = await client.upload(draft.file, f"rolloutops-{draft.job_id}.jsonl")
    except EngineError as error:
        _note(context, job, "dropped", message=str(error))
        raise
    finally:
        draft.file.close()
    job = _note(context, job, "uploaded", file_id=file_id)
    await _make(state, job, is_retry=False)


def _note(context: BatchContext, job: Job, event: str, **more: Any) -> Job:
    return record(context.workspace, context.run.run_id, job, event, **more)


def _open(context: BatchContext) -> list[Job]:
    return open_jobs(context.workspace, context.client.url, context.con)


def _say(line: str) -> None:
    tell(line)
