"""What is pending, part by part: the anti-join of wanted and done, and the locks under which parts are worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rolloutops.collect.attempt import PendingRollout, asks_to_stream, effective_params, of_repeat
from rolloutops.config.plan import CollectPlan
from rolloutops.errors import FAILURES
from rolloutops.formats.media import has_local_media
from rolloutops.formats.strict_json import dump, read
from rolloutops.ingest.media import MediaFolder
from rolloutops.store import sql
from rolloutops.store.journal import seal_orphans
from rolloutops.store.parts import find_fresh, see_attempts
from rolloutops.store.workspace import Workspace, connect, look_again, try_lock
from rolloutops.types import Task

APART = 10
"""Other rollouts that are asked for before each one that was answered 403: twenty of those in a row end a run."""
FREE = [kind for kind, failure in FAILURES.items() if not failure.counted]
"""Failures that are no tries."""


@dataclass(frozen=True)
class Part:
    """One partition of a dataset with work in it."""

    dataset: str
    number: int
    pending: int


def standing(con: sql.Connection) -> dict[str, int]:
    """Status (submitted, pending, given_up) -> how many of the rollouts that the plan asks for are in it."""
    found = dict(sql.rows(con, "SELECT status, count(*) FROM unfinished GROUP BY status"))
    return {status: found.get(status, 0) for status in ("submitted", "pending", "given_up")}


class PendingRollouts:
    """The keys that were pending when this was made, and what has been written since, by whomever.

    The anti-join runs once, over keys; each part is then taken under its lock and compared with the attempt files that
    appeared in between, so that two processes on one workspace share the work and repeat none of it. con: its
    connection, with the workspace's views. streaming: the tasks taken whose rows ask for replies in a stream.
    """

    def __init__(
        self,
        workspace: Workspace,
        plan: Sequence[Mapping[str, Any]],
        retry: Mapping[tuple[str, str], Sequence[str]] | None = None,
        run_id: str = "",
        media: Callable[[str, str], MediaFolder] | None = None,
    ) -> None:
        """retry: (dataset, policy) -> failures for which what was given up is pending again, its tries counted anew.
        run_id: the run that takes the parts: of a part that it has not taken yet, it has written nothing.
        media: (dataset, origin) of a task -> where its local media are."""
        self.workspace, self._run_id, self._media = workspace, run_id, media
        self.streaming = 0
        self._seen = see_attempts(workspace.root)
        self.con = connect(workspace, plan)
        # No more than a part cannot tell by itself: all keys of the workspace are in memory.
        kept = "dataset, part, task_id, policy, rollout_index, attempt, tries"
        kept += ", coalesce(last_error = 'forbidden', false) AS refused"
        sql.run(self.con, f"CREATE TABLE pending_keys AS SELECT {kept} FROM pending")
        for (dataset, policy), kinds in (retry or {}).items():
            sql.run(
                self.con,
                f"""
                INSERT INTO pending_keys SELECT {kept} FROM (SELECT * REPLACE (0 AS tries) FROM given_up)
                WHERE dataset = {sql.literal(dataset)} AND policy = {sql.literal(policy)}
                    AND list_contains({sql.literal(list(kinds))}, last_error)
                """,
            )

    def count_given_up(self) -> int:
        """Rollouts that are given up and not to be retried. Where nothing failed, nothing is looked for."""
        if not self.count("attempts WHERE error IS NOT NULL"):
            return 0
        return self.count("given_up ANTI JOIN pending_keys USING (dataset, task_id, policy, rollout_index)")

    def forget(self) -> None:
        """Free the memory that the keys take, and let the views see all that was written since."""
        sql.run(self.con, "DROP TABLE pending_keys")
        look_again(self.con, self.workspace)

    def count(self, view: str) -> int:
        """Rows of pending_keys, or of a view, over all datasets."""
        return int(sql.rows(self.con, f"SELECT count(*) FROM {view}")[0][0])

    def parts(self, collect_plan: CollectPlan) -> list[Part]:
        """The parts with work for these datasets and policies, datasets in the order given; after them those in which
        all was answered 403 before."""
        pairs = ", ".join(f"({sql.literal(dataset)}, {sql.literal(policy)})" for dataset, policy in collect_plan)
        order = sql.literal(list(dict.fromkeys(dataset for dataset, _ in collect_plan)))
        query = f"""
            SELECT dataset, part, count(*)
            FROM pending_keys
            WHERE (dataset, policy) IN ({pairs})
            GROUP BY dataset, part
            ORDER BY bool_and(refused), list_position({order}, dataset), part
        """
        return [Part(*row) for row in sql.rows(self.con, query)]

    def take(self, part: Part, collect_plan: CollectPlan) -> tuple[list[PendingRollout], Callable[[], None]] | None:
        """Lock a part and read what is still pending of it; None where another process works on it.

        The second item gives the lock back. Repeats of one task are adjacent, so that they share their prefill.
        """
        with ExitStack() as stack:
            if not stack.enter_context(try_lock(self.workspace, f"{part.dataset}.{part.number}")):
                return None
            seal_orphans(self.workspace)
            return self._read(part, collect_plan), stack.pop_all().close

    def _read(self, part: Part, collect_plan: CollectPlan) -> list[PendingRollout]:
        con = self.con.cursor()
        fresh = find_fresh(self.workspace.root, self._seen, self._run_id)
        still = f"""
            SELECT o.task_id, t.row_hash, o.policy, o.rollout_index, o.attempt, o.tries, t.line,
                t.row::VARCHAR AS row, t.prompt::VARCHAR AS prompt, t.tools::VARCHAR AS tools, t.answer, t.origin,
                o.refused
            FROM pending_keys AS o
            JOIN read_parquet({sql.literal(self._task_file(part))}) AS t ON t.task_id = o.task_id
            WHERE o.dataset = {sql.literal(part.dataset)} AND o.part = {part.number}
        """
        if fresh:
            still = f"""
            WITH keys AS ({still}),
            since AS (
                -- A file that was merged since holds attempts that were there before: those have lower numbers.
                SELECT s.task_id, s.row_hash, s.policy, s.rollout_index, bool_or(s.error IS NULL OR s.final) AS settled,
                    max(s.attempt) AS last_attempt,
                    count(*) FILTER (WHERE NOT list_contains({sql.literal(FREE)}, s.error)) AS tries
                FROM read_parquet({sql.literal(fresh)}) AS s
                JOIN keys AS k USING (task_id, row_hash, policy, rollout_index)
                WHERE s.dataset = {sql.literal(part.dataset)} AND s.attempt >= k.attempt
                GROUP BY ALL
            )
            SELECT keys.* REPLACE (
                keys.tries + coalesce(since.tries, 0) AS tries,
                greatest(keys.attempt, coalesce(since.last_attempt + 1, 0)) AS attempt
            )
            FROM keys LEFT JOIN since USING (task_id, row_hash, policy, rollout_index)
            WHERE NOT coalesce(since.settled, false)
            """
        query = f"SELECT * EXCLUDE (line) FROM ({still}) ORDER BY line, task_id, policy, rollout_index"
        found = _spread(sql.rows(con, query))
        con.close()
        pending = list(_pending_rollouts(part, found, collect_plan, self._media))
        self.streaming += len({one.task.task_id for one in pending if asks_to_stream(one.task.row)})
        return pending

    def _task_file(self, part: Part) -> str:
        return str(self.workspace.root / "tasks" / part.dataset / f"part-{part.number:05d}.parquet")


def _spread(rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """Rows of a part, those that were answered 403 in an earlier run each behind APART others, as far as there are so
    many: else each run would begin with the same ones, and end."""
    refused = [row for row in rows if row[-1]]
    if not refused:
        return rows
    others = [row for row in rows if not row[-1]]
    spread: list[tuple[Any, ...]] = []
    for start in range(0, len(others), APART):
        spread += others[start : start + APART]
        spread += [refused.pop(0)] if refused else []
    return spread + refused


def _pending_rollouts(
    part: Part,
    rows: Sequence[tuple[Any, ...]],
    collect_plan: CollectPlan,
    media: Callable[[str, str], MediaFolder] | None,
) -> Iterator[PendingRollout]:
    task: Task | None = None
    folder: MediaFolder | None = None
    plain = {
        policy: effective_params({}, how.responses_create_params)
        for (dataset, policy), how in collect_plan.items()
        if dataset == part.dataset
    }
    plain_requests = {policy: dump(params) for policy, params in plain.items()}
    for task_id, row_hash, policy, rollout_index, attempt, tries, row, prompt, tools, answer, origin, _ in rows:
        how = collect_plan.get((part.dataset, policy))
        if how is None or tries >= how.max_attempts:
            continue
        if task is None or task.task_id != task_id:
            offered = read(tools) if tools else None
            task = Task(part.dataset, task_id, read(row), read(prompt), offered, answer)
            folder = media(part.dataset, origin) if media and has_local_media(task.prompt) else None
        params, request = plain[policy], plain_requests[policy]
        if "responses_create_params" in task.row:
            params = effective_params(task.row, how.responses_create_params)
            request = dump(params)
        own = of_repeat(params, rollout_index)
        request = request if own is params else dump(own)
        place = (part.number, policy, rollout_index, attempt)
        yield PendingRollout(
            task, row_hash, *place, how, own, request, tries, media=folder, characters=len(row) + len(prompt)
        )
