"""What is pending, part by part: the anti-join of wanted and done, and the locks under which parts are worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.collect.attempt import PendingRollout, asks_to_stream, effective_params, of_repeat
from rolloutops.collect.claims import Claims, Key
from rolloutops.collect.task_texts import TaskReader
from rolloutops.config.plan import CollectPlan
from rolloutops.errors import FAILURES
from rolloutops.formats.media import has_local_media
from rolloutops.formats.strict_json import dump
from rolloutops.ingest.media import MediaFolder
from rolloutops.limits.progress import WorkerName
from rolloutops.store import sql
from rolloutops.store.parts import new_files, see_attempts
from rolloutops.store.workspace import Workspace, connect, look_again, try_lock
from rolloutops.types import Task

APART = 10
"""Other rollouts that are asked for before each one that was answered 403: twenty of those in a row end a run."""
FREE = [kind for kind, failure in FAILURES.items() if not failure.counted]
"""Failures that are no tries."""


SHARES = 8
"""What is left is taken in no fewer shares than this."""
BATCH_BYTES = 16_000_000
"""Bytes of tasks that are read at once: their texts are in memory, and what they are parsed into."""
SINCE = "dataset, part, task_id, row_hash, policy, rollout_index, attempt, error, final"
"""What is read of attempts that other processes have written since."""


@dataclass(frozen=True)
class Part:
    """One partition of a dataset with work in it."""

    dataset: str
    number: int
    pending: int


class Taken(NamedTuple):
    """Rollouts that were taken of a part: how many; themselves, in batches that are read when they are needed; what
    gives them back. left: how many nobody works on; with_others: on how many other processes work."""

    rollouts: int
    batches: Iterator[list[PendingRollout]]
    release: Callable[[], None]
    left: int
    with_others: int


class _PendingRow(NamedTuple):
    """A pending rollout as keys. position: of its task in the part's file."""

    position: int
    task_id: str
    row_hash: str
    policy: str
    rollout_index: int
    attempt: int
    tries: int
    refused: bool

    @property
    def key(self) -> Key:
        return Key(self.task_id, self.policy, self.rollout_index)


@dataclass
class _OpenPart:
    """A part of which something is not taken: the rows of that. is_old: others have written since they were read."""

    rows: list[_PendingRow]
    tasks: TaskReader | None = None
    is_old: bool = False


def standing(con: sql.Connection) -> dict[str, int]:
    """Status (submitted, pending, given_up) -> how many of the rollouts that the plan asks for are in it."""
    found = dict(sql.rows(con, "SELECT status, count(*) FROM unfinished GROUP BY status"))
    return {status: found.get(status, 0) for status in ("submitted", "pending", "given_up")}


class PendingRollouts:
    """The keys that were pending when this was made, and what has been written since, by whomever.

    The anti-join runs once, over keys. What is taken of a part is claimed under the part's lock, after a look at the
    attempt files that appeared in between, so that several processes on one workspace share the work and repeat none of
    it. con: its connection, with the workspace's views. streaming: the tasks taken whose rows ask for replies in a
    stream.
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
        run_id: the run that takes the parts: what it has not taken yet, it has not written.
        media: (dataset, origin) of a task -> where its local media are."""
        self.workspace, self._run_id, self._media = workspace, run_id, media
        self.streaming = 0
        self._claims = Claims(workspace, run_id)
        self._claims.sweep()
        self._seen = see_attempts(workspace.root)
        self._open: dict[Part, _OpenPart] = {}
        self._not_taken = 0  # of the parts, here
        self.con = connect(workspace, plan)
        # No more than a part cannot tell by itself: all keys of the workspace are in memory.
        kept = "dataset, part, task_id, policy, rollout_index, attempt, tries"
        kept += ", coalesce(last_error = 'forbidden', false) AS refused"
        sql.run(self.con, f"CREATE TABLE pending_keys AS SELECT {kept} FROM pending")
        sql.run(self.con, f"CREATE TABLE made_since AS SELECT {SINCE} FROM attempts LIMIT 0")
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
        sql.run(self.con, "DROP TABLE pending_keys; DROP TABLE made_since")
        look_again(self.con, self.workspace)

    def count(self, view: str) -> int:
        """Rows of pending_keys, or of a view, over all datasets."""
        return int(sql.rows(self.con, f"SELECT count(*) FROM {view}")[0][0])

    def parts(self, collect_plan: CollectPlan, worker: WorkerName | None = None) -> list[Part]:
        """The parts with work for these datasets and policies, datasets in the order given; after them those in which
        all was answered 403 before. worker: one of several begins each dataset at a place of its own: they meet when
        little is left, instead of at each part, which all but one would find taken."""
        pairs = ", ".join(f"({sql.literal(dataset)}, {sql.literal(policy)})" for dataset, policy in collect_plan)
        order = sql.literal(list(dict.fromkeys(dataset for dataset, _ in collect_plan)))
        query = f"""
            SELECT bool_and(refused) AS all_refused, dataset, part, count(*)
            FROM pending_keys
            WHERE (dataset, policy) IN ({pairs})
            GROUP BY dataset, part
            ORDER BY all_refused, list_position({order}, dataset), part
        """
        found: list[Part] = []
        for _, rows in groupby(sql.rows(self.con, query), key=lambda row: row[:2]):
            parts = [Part(*row[1:]) for row in rows]
            first = (worker.number - 1) * len(parts) // worker.of if worker else 0
            found += parts[first:] + parts[:first]
        return found

    def begin(self, parts: Sequence[Part]) -> None:
        """Begin to take these parts, for one plan."""
        self._open.clear()
        self._not_taken = sum(part.pending for part in parts)

    def _share(self, left: int) -> int:
        """How many rollouts to take next: the less nobody works on, the less, so that processes which are late get some
        too. left: what nobody works on of the part."""
        return max(1, max(left, self._not_taken - self._claims.rollouts_of_others()) // SHARES)

    def have_moved(self) -> bool:
        """Whether another process has claimed or given back anything since the last call, or is no more."""
        return self._claims.have_changed()

    def take(self, part: Part, collect_plan: CollectPlan, whole: bool = False) -> Taken | None:
        """Claim a share of what nobody works on of a part, or all of it; None while another process holds the part's
        lock. Repeats of one task are adjacent, so that they share their prefill."""
        with try_lock(self.workspace, f"{part.dataset}.{part.number}") as free:
            if not free:
                return None
            claimed = self._claims.of_others(part.dataset, part.number)
            self._read_new_files()  # after the claims: what was given back in between is in a file
            opened = self._opened(part, collect_plan)
            busy = [row for row in opened.rows if row.key in claimed] if claimed else []
            left = [row for row in opened.rows if row.key not in claimed] if busy else opened.rows
            share = len(left) if whole else self._share(len(left))
            chosen, left = left[:share], left[share:]
            keys = [row.key for row in chosen]
            release = self._claims.claim(part.dataset, part.number, keys) if keys else _nothing
            opened.rows = left + busy
        self._not_taken -= len(chosen)
        tasks = opened.tasks or TaskReader(self._task_file(part))
        opened.tasks = tasks if left else None
        if not opened.rows:
            del self._open[part]
        return Taken(len(chosen), self._batches(part, chosen, tasks, collect_plan), release, len(left), len(busy))

    def _opened(self, part: Part, collect_plan: CollectPlan) -> _OpenPart:
        """A part's rows that are pending and not taken here."""
        opened = self._open.get(part)
        if opened is None:
            opened = self._open[part] = _OpenPart(self._rows(part, collect_plan))
        elif opened.is_old:
            keys = {row.key for row in opened.rows}
            opened.rows = [row for row in self._rows(part, collect_plan) if row.key in keys]
            opened.is_old = False
        return opened

    def finished(self, parts: Sequence[Part]) -> list[Part]:
        """Those of some parts of one dataset of which others had made every rollout when their files were last read.
        A part with failures among what others wrote is none of them: `take` knows which of these are tried again."""
        place, tasks = self._place(parts)
        query = f"""
            SELECT DISTINCT o.part
            FROM pending_keys AS o
            JOIN (SELECT part, task_id, row_hash FROM {tasks}) AS t USING (part, task_id)
            ANTI JOIN (FROM made_since WHERE error IS NULL) AS m
                USING (dataset, part, task_id, row_hash, policy, rollout_index)
            WHERE {place}
        """
        left = {number for (number,) in sql.rows(self.con.cursor(), query)}
        return [part for part in parts if part.number not in left]

    def _rows(self, part: Part, collect_plan: CollectPlan) -> list[_PendingRow]:
        """What was pending of a part when this was made and is so still, in the order in which it is asked."""
        columns = ", ".join(_PendingRow._fields)
        query = f"SELECT {columns} FROM ({self._since(part)}) ORDER BY position, policy, rollout_index"
        con = self.con.cursor()
        rows = [_PendingRow(*row) for row in sql.rows(con, query)]
        con.close()
        most = {policy: how.max_attempts for (dataset, policy), how in collect_plan.items() if dataset == part.dataset}
        return _spread([row for row in rows if row.tries < most.get(row.policy, 0)])

    def _since(self, part: Part) -> str:
        """The query for what was pending of a part when this was made and is so still."""
        place, tasks = self._place([part])
        return f"""
            WITH since AS (
                SELECT o.task_id, m.row_hash, o.policy, o.rollout_index,
                    bool_or(m.error IS NULL OR (m.final AND m.attempt >= o.attempt)) AS settled,
                    max(m.attempt) AS last_attempt,
                    count(DISTINCT m.attempt) FILTER (
                        WHERE m.attempt >= o.attempt AND NOT list_contains({sql.literal(FREE)}, m.error)
                    ) AS tries
                FROM made_since AS m
                JOIN pending_keys AS o USING (dataset, part, task_id, policy, rollout_index)
                WHERE {place}
                GROUP BY ALL
            )
            SELECT t.file_row_number AS position, task_id, row_hash, policy, rollout_index,
                greatest(o.attempt, coalesce(s.last_attempt + 1, 0)) AS attempt,
                o.tries + coalesce(s.tries, 0) AS tries, o.refused
            FROM pending_keys AS o
            JOIN {tasks} AS t USING (part, task_id)
            LEFT JOIN since AS s USING (task_id, row_hash, policy, rollout_index)
            WHERE {place} AND NOT coalesce(s.settled, false)
        """

    def _place(self, parts: Sequence[Part]) -> tuple[str, str]:
        """SQL for some parts of one dataset: the condition on their keys, o; their tasks."""
        numbers = ", ".join(str(part.number) for part in parts)
        files = sql.literal([str(self._task_file(part)) for part in parts])
        place = f"o.dataset = {sql.literal(parts[0].dataset)} AND o.part IN ({numbers})"
        return place, f"read_parquet({files}, file_row_number = true)"

    def _read_new_files(self) -> None:
        """Read the keys of the attempts that other processes have written since, each file once."""
        now = see_attempts(self.workspace.root)
        new = new_files(self._seen, now, self._run_id)
        self._seen = now
        if new:
            con = self.con.cursor()
            sql.run(con, f"CREATE TEMP TABLE new_attempts AS SELECT {SINCE} FROM read_parquet({sql.literal(new)})")
            sql.run(con, "INSERT INTO made_since FROM new_attempts")
            places = set(sql.rows(con, "SELECT DISTINCT dataset, part FROM new_attempts"))
            sql.run(con, "DROP TABLE new_attempts")
            con.close()
            for part, opened in self._open.items():
                opened.is_old |= (part.dataset, part.number) in places

    def _batches(
        self, part: Part, rows: Sequence[_PendingRow], tasks: TaskReader, collect_plan: CollectPlan
    ) -> Iterator[list[PendingRollout]]:
        """The rollouts of these rows, with their tasks: so many at once that the tasks' texts are not too long."""
        plain = {
            policy: effective_params({}, how.responses_create_params)
            for (dataset, policy), how in collect_plan.items()
            if dataset == part.dataset
        }
        requests = {policy: dump(params) for policy, params in plain.items()}
        batch: list[PendingRollout] = []
        task, position, folder, characters, size = None, -1, None, 0, 0
        for row in rows:
            if task is None or row.position != position:
                if size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
                (own_row, length), (prompt, more), (tools, _), answer, origin = tasks.take(row.position)
                task, characters = Task(part.dataset, row.task_id, own_row, prompt, tools, answer), length + more
                folder, position = self._folder(task, origin), row.position
                self.streaming += asks_to_stream(task.row)
                size += characters
            how, params, request = collect_plan[(part.dataset, row.policy)], plain[row.policy], requests[row.policy]
            if "responses_create_params" in task.row:
                params = effective_params(task.row, how.responses_create_params)
                request = dump(params)
            own = of_repeat(params, row.rollout_index)
            request = request if own is params else dump(own)
            place = (part.number, row.policy, row.rollout_index, row.attempt)
            batch.append(
                PendingRollout(
                    *(task, row.row_hash, *place, how, own, request, row.tries), media=folder, characters=characters
                )
            )
        if batch:
            yield batch

    def _folder(self, task: Task, origin: str) -> MediaFolder | None:
        return self._media(task.dataset, origin) if self._media and has_local_media(task.prompt) else None

    def _task_file(self, part: Part) -> Path:
        return self.workspace.root / "tasks" / part.dataset / f"part-{part.number:05d}.parquet"


def _spread(rows: list[_PendingRow]) -> list[_PendingRow]:
    """Rows of a part, those that were answered 403 in an earlier run each behind APART others, as far as there are so
    many: else each run would begin with the same ones, and end."""
    refused = [row for row in rows if row.refused]
    if not refused:
        return rows
    others = [row for row in rows if not row.refused]
    spread: list[_PendingRow] = []
    for start in range(0, len(others), APART):
        spread += others[start : start + APART]
        spread += [refused.pop(0)] if refused else []
    return spread + refused


def _nothing() -> None:
    """Give nothing back."""
