"""Jobs: batches of requests that a provider answers in its own time, as an append-only log of what happened to each.

    intended -> uploaded -> submitted -> ended
            \\-> dropped (it was never submitted, so nothing was paid)

Each event is a part file of its own, on the disk before the step that follows it is taken. From its intent to its end
a job's rollouts are in flight: nobody owes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from rolloutops.config.redact import redacted_row
from rolloutops.store import schema, sql
from rolloutops.store.workspace import Workspace, connect, look_again, write_part

OPEN = """
SELECT job_id, state, url, endpoint, model, requests, file_id, batch_id
FROM open_jobs ORDER BY job_id
"""


@dataclass(frozen=True)
class Job:
    """A job that has not ended. state: its last event. requests: how many."""

    job_id: str
    state: str
    url: str
    endpoint: str
    model: str
    requests: int
    file_id: str | None = None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One rollout that a job covers, and the number of the try."""

    dataset: str
    task_id: str
    row_hash: str
    part: int
    policy: str
    rollout_index: int
    attempt: int


def request_id(job_id: str, place: int) -> str:
    """The custom id of a job's request, which is the id of the attempt that comes of it. place: in its file, from 0."""
    return f"{job_id}-{place:05d}"


def record(workspace: Workspace, run_id: str, job: Job, event: str, **more: Any) -> Job:
    """Write one event of a job; it is on the disk when this returns. more: further columns of the table. Returns the
    job as it is then."""
    known = {name: getattr(job, name) for name in ("job_id", "url", "endpoint", "model", "file_id", "batch_id")}
    row = {**known, "event": event, "happened_at": datetime.now(UTC), "run_id": run_id, **more}
    write_part(workspace, "jobs", None, f"{job.job_id}-{event}", schema.table_of(schema.JOBS, [redacted_row(row)]))
    return replace(job, state=event, file_id=row["file_id"], batch_id=row["batch_id"])


def open_jobs(workspace: Workspace, url: str | None = None, con: sql.Connection | None = None) -> list[Job]:
    """The jobs that have not ended, oldest first. url: only those of this provider. con: as for `intent`."""
    jobs = [Job(**row) for row in sql.records(_fresh(con, workspace), OPEN)]
    return [job for job in jobs if url in (None, job.url)]


def intent(
    workspace: Workspace, job_id: str, con: sql.Connection | None = None
) -> tuple[Mapping[str, Any], Sequence[Request]]:
    """What a job was asked: {dataset: {policy: ...}} as recorded, and its requests in the order of its file. con: a
    connection with the workspace's views, where there is one."""
    query = f"SELECT asked::VARCHAR, requests FROM jobs WHERE event = 'intended' AND job_id = {sql.literal(job_id)}"
    requested, requests = sql.rows(_fresh(con, workspace), query)[0]
    return json.loads(requested), [Request(**request) for request in requests]


def recorded_requests(
    workspace: Workspace, job_id: str, requests: Sequence[Request], con: sql.Connection | None = None
) -> set[str]:
    """The ids of a job's attempts that are in the tables."""
    datasets = sql.literal(sorted({request.dataset for request in requests}))
    query = (
        f"SELECT attempt_id FROM attempts WHERE list_contains({datasets}, dataset)"
        f" AND starts_with(attempt_id, {sql.literal(job_id + '-')})"
    )
    return {attempt_id for (attempt_id,) in sql.rows(_fresh(con, workspace), query)}


def _fresh(con: sql.Connection | None, workspace: Workspace) -> sql.Connection:
    """A connection that knows the tables that had no file when it was made."""
    if con is None:
        return connect(workspace)
    look_again(con, workspace)
    return con
