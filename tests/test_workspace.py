"""Workspaces: parts that are whole or not there, journals that survive a kill, views and the check of their sums."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rolloutops.config.resources import shipped
from rolloutops.ingest.task_columns import TaskColumns
from rolloutops.store import journal as journals
from rolloutops.store import schema, sql
from rolloutops.store.base_views import VIEWS, duckdb_type
from rolloutops.store.definitions import make_all
from rolloutops.store.journal import Journal, seal_orphans
from rolloutops.store.rows import AttemptRow, VerdictRow
from rolloutops.store.workspace import Workspace, connect, open_workspace, patterns, sweep, try_lock, write_part

PLAN = [{"dataset": "d", "policy": "p", "num_repeats": 2, "row_limit": None, "max_attempts": 2}]
INVARIANT = sql.read(shipped("sql") / "checks" / "invariant.sql")
SUMS = sql.read(shipped("sql") / "checks" / "sums.sql")
KEY = ("task_id", "rollout_index")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty one."""
    return open_workspace(tmp_path / "w", create=True)


def attempt(number: int, **more: Any) -> dict[str, Any]:
    """A row of attempts; a good one of task `number`, unless told otherwise."""
    row = {"dataset": "d", "task_id": str(number), "row_hash": "h0", "policy": "p", "rollout_index": 0, "attempt": 1}
    named = {"attempt_id": f"run-{number:08d}", "run_id": "run", "part": 0, "final": True, "text": f"text {number} é"}
    return {**row, **named, "completion": '[{"role":"assistant","content":"x"}]', **more}


def task(number: int, **more: Any) -> dict[str, Any]:
    """A row of tasks."""
    row = {"dataset": "d", "task_id": str(number), "row_hash": "h0", "version": 0, "removed": False, "part": 0}
    return {**row, "line": number + 1, "row": "{}", "prompt": "[]", "prompt_hash": str(number), **more}


def put(workspace: Workspace, table: str, name: str, *rows: dict[str, Any]) -> Path:
    """Rows as a part of a table."""
    return write_part(workspace, table, "d", name, schema.table_of(schema.TABLES[table], list(rows)))


def rows(workspace: Workspace, query: str) -> list[tuple[Any, ...]]:
    """A query over the views, under PLAN."""
    return sql.rows(connect(workspace, PLAN, threads=1), query)


# Parts --------------------------------------------------------------------------------------------------------------


def test_a_reader_never_sees_a_file_that_is_being_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace, "attempts", "a", attempt(1))
    half, go_on = threading.Event(), threading.Event()

    def torn(table: Any, where: BinaryIO, **options: Any) -> None:
        where.write(b"PAR1 and then")
        where.flush()
        half.set()
        go_on.wait(10)
        where.seek(0)
        write_table(table, where, **options)

    write_table = pq.write_table
    monkeypatch.setattr(pq, "write_table", torn)
    writer = threading.Thread(target=put, args=(workspace, "attempts", "b", attempt(2)))
    writer.start()
    assert half.wait(10)
    sweep(workspace)  # which leaves what a living writer holds
    seen = [rows(workspace, "SELECT count(*) FROM attempts")[0][0]]
    seen.append(ds.dataset(workspace.root / "attempts", format="parquet").count_rows())
    seen.append(len(list((workspace.root / "attempts").glob("*/*.parquet"))))
    go_on.set()
    writer.join()
    assert seen == [1, 1, 1]
    assert rows(workspace, "SELECT count(*) FROM attempts") == [(2,)]
    assert not list(workspace.root.rglob("*.tmp"))


def test_a_write_that_fails_leaves_nothing_and_what_was_there_stays(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = put(workspace, "attempts", "a", attempt(1))
    before = part.read_bytes()

    def torn(table: Any, where: BinaryIO, **options: Any) -> None:
        where.write(b"PAR1 and then")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", torn)
    with pytest.raises(OSError, match="No space left"):
        put(workspace, "attempts", "a", attempt(2))
    assert [path for path in workspace.root.rglob("*") if path.is_file()] == [part]
    assert part.read_bytes() == before


def test_an_empty_workspace_has_every_view(workspace: Workspace) -> None:
    con = connect(workspace, PLAN)
    make_all(con)
    views = [name for (name,) in sql.rows(con, "SELECT view_name FROM duckdb_views() WHERE NOT internal")]
    assert {"tasks", "attempts", "verdicts", "runs", "rollouts", "pending", "given_up", "unverified"} <= set(views)
    for view in views:
        assert sql.rows(con, f"SELECT count(*) FROM {view}") == [(1 if view == "plan" else 0,)]
    assert sql.rows(con, INVARIANT) == []
    assert not any(patterns(workspace).values())
    for name, table in schema.TABLES.items():
        types = sql.columns(con, f"SELECT * FROM {VIEWS[name]}")
        bare = {column: kind.replace('"', "") for column, kind in types.items()}
        assert bare == {field.name: duckdb_type(field.type) for field in table}, "as the files will have them"


def test_parts_of_an_earlier_version_lack_columns(workspace: Workspace) -> None:
    put(workspace, "tasks", "part-00000", task(1), task(2))
    old = put(workspace, "attempts", "a-old", attempt(1, model="m"))
    pq.write_table(pq.read_table(old).drop_columns(["service_tier", "tool_names"]), old)
    reported = (
        "SELECT a.task_id, a.model, a.service_tier, a.tool_names FROM rollouts JOIN attempts AS a USING (attempt_id)"
    )
    assert sql.rows(connect(workspace, PLAN), reported) == [("1", "m", None, None)]
    put(workspace, "attempts", "b-new", attempt(2, model="m", service_tier="flex", tool_names=["add"]))
    assert sorted(sql.rows(connect(workspace, PLAN), reported)) == [("1", "m", None, None), ("2", "m", "flex", ["add"])]
    kinds = sql.columns(connect(workspace, PLAN), "FROM attempts")
    assert list(kinds) == schema.ATTEMPTS.names
    assert kinds["tool_names"] == "VARCHAR[]"


def test_a_lock_is_held_by_one(workspace: Workspace) -> None:
    with try_lock(workspace, "d.0") as mine, try_lock(workspace, "d.1") as other, try_lock(workspace, "d.0") as again:
        assert (mine, other, again) == (True, True, False)
    with try_lock(workspace, "d.0") as free:
        assert free


# The journal --------------------------------------------------------------------------------------------------------


def killed(workspace: Workspace, count: int) -> bytes:
    """The journal of a writer that was killed after so many attempts and verdicts."""
    writer = Journal(workspace, "run")
    for number in range(count):
        writer.append("attempts", attempt(number))
        verdict = {"verdict_id": f"v{number}", "attempt_id": f"run-{number:08d}", "verifier": "v", "reward": 0.5}
        key = {name: attempt(number)[name] for name in ("dataset", "task_id", "policy", "rollout_index")}
        writer.append("verdicts", {**key, **verdict, "metrics": [("length", 3.0)]})
    (path,) = (workspace.root / "journals").iterdir()
    data = path.read_bytes()
    writer.close()
    shutil.rmtree(workspace.root / "attempts" / "d", ignore_errors=True)
    shutil.rmtree(workspace.root / "verdicts" / "d", ignore_errors=True)
    return data


def parts(workspace: Workspace) -> dict[str, bytes]:
    """The sealed files and what is in them."""
    return {str(path.relative_to(workspace.root)): path.read_bytes() for path in workspace.root.rglob("*.parquet")}


def test_a_torn_tail_costs_the_torn_line_alone(workspace: Workspace) -> None:
    data = killed(workspace, 20)
    journal = workspace.root / "journals" / "run-0000.jsonl"
    rng = random.Random(20261121)
    for cut in [0, 1, len(data) - 1, len(data), *rng.sample(range(len(data)), 46)]:
        tail = b"\0" * 100 if cut % 2 else b""  # as a power cut may leave it
        journal.write_bytes(data[:cut] + tail)
        *lines, last = data[:cut].split(b"\n")
        if last.endswith(b"}}") and not tail:  # which lacks its line end alone
            lines.append(last)
        assert seal_orphans(workspace) == len(lines)
        kept = sum(line.startswith(b'{"attempts"') for line in lines)
        assert rows(workspace, "SELECT count(*), count(DISTINCT attempt_id) FROM attempts") == [(kept, kept)]
        assert not journal.exists()
        for path in parts(workspace):
            (workspace.root / path).unlink()


def test_what_comes_back_is_what_was_written(workspace: Workspace) -> None:
    turn = {"prompt_token_ids": [1], "generation_token_ids": [2]}
    odd = attempt(1, text='"\n\t\u2028 é 🙂 \x00 NaN', token_turns=[turn])
    writer = Journal(workspace, "run")
    writer.append("attempts", odd)
    writer.close()
    assert rows(workspace, "SELECT text, token_turns FROM attempts") == [
        (odd["text"], [{**turn, "generation_log_probs": None}])
    ]


def test_sealing_twice_gives_the_same_files(workspace: Workspace) -> None:
    """A kill between the writing of the parts and the removal of the journal."""
    data = killed(workspace, 50)
    journal = workspace.root / "journals" / "run-0000.jsonl"
    journal.write_bytes(data)
    assert seal_orphans(workspace) == 100
    once = parts(workspace)
    assert len(once) == 2
    journal.write_bytes(data)
    assert seal_orphans(workspace) == 100
    assert parts(workspace) == once
    journal.write_bytes(data)
    (workspace.root / "verdicts" / "d" / "run-0000.parquet").unlink()  # a kill between the two parts
    seal_orphans(workspace)
    assert parts(workspace) == once


def test_a_writer_and_the_sealing_of_its_orphan_make_the_same_files(workspace: Workspace) -> None:
    data = killed(workspace, 30)
    (workspace.root / "journals" / "run-0000.jsonl").write_bytes(data)
    seal_orphans(workspace)
    orphan = parts(workspace)
    writer = Journal(open_workspace(workspace.root / "again", create=True), "run")
    for line in data.splitlines():
        ((table, row),) = json.loads(line).items()
        writer.append(table, row)
    writer.close()
    assert parts(writer.workspace) == {path: data for path, data in orphan.items() if not path.startswith("again")}


def test_the_journal_of_a_living_writer_is_left_alone(workspace: Workspace) -> None:
    writer = Journal(workspace, "run")
    writer.append("attempts", attempt(1))
    assert seal_orphans(workspace) == 0
    writer.append("attempts", attempt(2))
    assert rows(workspace, "SELECT count(*) FROM attempts") == [(0,)]
    writer.close()
    assert rows(workspace, "SELECT count(*) FROM attempts") == [(2,)]
    assert list((workspace.root / "journals").iterdir()) == []


def test_a_journal_taken_for_an_orphan_before_it_is_locked_loses_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process seals orphans in the moment between the making of a journal and its locking."""
    lock, others = journals.lock_file, iter([True])

    def late(fd: int) -> bool:
        if next(others, False):
            seal_orphans(workspace)
        return lock(fd)

    monkeypatch.setattr(journals, "lock_file", late)
    writer = Journal(workspace, "run")
    writer.append("attempts", attempt(1))
    writer.close()
    assert rows(workspace, "SELECT count(*) FROM attempts") == [(1,)]


def test_flushes_are_parts_and_what_waits_for_them_is_called_after(workspace: Workspace) -> None:
    writer = Journal(workspace, "run", flush_rows=10)
    seen: list[int] = []
    for number in range(25):
        writer.append("attempts", attempt(number))
    writer.when_sealed(lambda: seen.append(rows(workspace, "SELECT count(*) FROM attempts")[0][0]))
    writer.close()
    assert seen == [25]
    files = sorted((workspace.root / "attempts" / "d").iterdir())
    assert [pq.read_metadata(path).num_rows for path in files] == [10, 10, 5]


# The views ----------------------------------------------------------------------------------------------------------


def faults(workspace: Workspace, *extra: str, plan: list[dict[str, Any]] = PLAN) -> list[tuple[Any, ...]]:
    """What the invariant check finds; the sums agree where that is nothing. extra: statements that spoil the views
    first."""
    con = connect(workspace, plan, threads=1)
    for statement in extra:
        sql.run(con, statement)
    found = [row[: len(KEY) + 2] for row in sql.rows(con, INVARIANT)]
    assert sql.rows(con, SUMS) == [(not found,)]
    return found


def test_the_check_is_quiet_about_what_is_legal(workspace: Workspace) -> None:
    put(workspace, "tasks", "part-00000", *(task(n) for n in range(4)))
    put(workspace, "tasks", "removed", task(3, version=1, removed=True))
    put(workspace, "tasks", "part-00001", task(0, version=1, row_hash="h1"))
    done_twice = [attempt(1, attempt_id="a"), attempt(1, attempt_id="b")]
    failed = [attempt(2, attempt_id=i, error="timeout", final=False, attempt=n) for n, i in ((1, "c"), (2, "d"))]
    unwanted = [attempt(1, attempt_id="e", rollout_index=7), attempt(1, attempt_id="f", policy="other")]
    outdated = [attempt(0, attempt_id="g"), attempt(3, attempt_id="h")]
    put(workspace, "attempts", "a", *done_twice, *failed, *unwanted, *outdated)
    assert faults(workspace) == []
    states = dict(rows(workspace, "SELECT status, count(*) FROM wanted_states GROUP BY status"))
    assert states == {"done": 1, "pending": 4, "given_up": 1}


PLANTED = {
    "a key is wanted twice": ("wanted", "FROM kept.wanted UNION ALL (FROM kept.wanted LIMIT 1)"),
    "a rollout is there twice": ("rollouts", "FROM kept.rollouts UNION ALL FROM kept.rollouts"),
    "a rollout is lost": ("rollouts", "FROM kept.rollouts WHERE false"),
    "a key is forgotten": ("pending", "FROM kept.pending WHERE rollout_index = 0"),
    "what is done is pending": (
        "pending",
        "FROM kept.pending UNION ALL SELECT * EXCLUDE (status, state) FROM kept.done",
    ),
    "what nobody wants is pending": ("pending", "SELECT * REPLACE ('x' AS task_id) FROM kept.pending"),
    "what is pending is given up": ("given_up", "FROM kept.given_up UNION ALL FROM kept.pending"),
}


@pytest.mark.parametrize(("view", "query"), PLANTED.values(), ids=PLANTED)
def test_the_check_finds_each_planted_fault(workspace: Workspace, view: str, query: str) -> None:
    put(workspace, "tasks", "part-00000", *(task(n) for n in range(3)))
    gone = [attempt(2, attempt_id=f"x{n}", error="timeout", final=False, attempt=n) for n in (1, 2)]
    put(workspace, "attempts", "a", attempt(1), *gone)
    keep = ["CREATE SCHEMA kept", "CREATE TABLE kept.done AS FROM wanted_states WHERE status = 'done'"]
    keep += [f"CREATE TABLE kept.{name} AS FROM {name}" for name in ("wanted", "rollouts", "pending", "given_up")]
    assert faults(workspace, *keep) == []
    assert faults(workspace, *keep, f"CREATE OR REPLACE VIEW {view} AS {query}") != []


def test_the_check_finds_faults_in_the_files(workspace: Workspace) -> None:
    """What no writer of ours writes, but a hand may: one id in two rows of files that differ. A copy counts once."""
    put(workspace, "tasks", "part-00000", *(task(n) for n in range(3)))
    put(workspace, "attempts", "a", attempt(1), attempt(2))
    assert faults(workspace) == []
    source = workspace.root / "attempts" / "d" / "a.parquet"
    shutil.copy(source, source.with_name("a-copy.parquet"))
    shutil.copy(workspace.root / "tasks" / "d" / "part-00000.parquet", workspace.root / "tasks" / "d" / "copy.parquet")
    assert faults(workspace) == [], "a file under two names is one file"
    put(workspace, "attempts", "b", attempt(1))
    assert faults(workspace) == [], "nor does a file count whose rows all are in another one"
    put(workspace, "attempts", "b", attempt(1), attempt(0))
    assert faults(workspace) != [], "an attempt is there twice under one id"
    source.with_name("b.parquet").unlink()
    put(workspace, "tasks", "part-00001", task(1))
    assert faults(workspace) != [], "a task is there twice in one version"
    (workspace.root / "tasks" / "d" / "part-00001.parquet").unlink()
    assert faults(workspace, plan=[*PLAN, *PLAN]) != [], "the plan asks for a key twice"


ENDS = st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 3), st.sampled_from(["good", "bad", "final"]))
"""An attempt's task, which edit of it was tried, which repeat it is, and how it ended."""


class Life(RuleBasedStateMachine):
    """A small workspace lives: tasks come, change, go and return; attempts end well or badly; parts are deleted.

    Beside it runs a model of plain Python, and the views must agree with it after each step.
    """

    folders: pytest.TempPathFactory

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, tuple[str, int, bool]] = {}
        self.attempts: dict[str, list[dict[str, Any]]] = {}
        self.made = 0

    @initialize(repeats=st.integers(1, 3), limit=st.none() | st.integers(1, 3), tries=st.integers(1, 3))
    def begin(self, repeats: int, limit: int | None, tries: int) -> None:
        self.workspace = open_workspace(self.folders.mktemp("life"), create=True)
        self.plan = [{**PLAN[0], "num_repeats": repeats, "row_limit": limit, "max_attempts": tries}]
        self.repeats, self.limit, self.tries = repeats, limit, tries

    def name(self) -> str:
        self.made += 1
        return f"{self.made:06d}"

    @rule(number=st.integers(0, 4), edit=st.integers(0, 1))
    def task_comes_or_changes(self, number: int, edit: int) -> None:
        key, row_hash = str(number), f"h{edit}"
        old = self.tasks.get(key)
        if old is None or old[2] or old[0] != row_hash:
            version = old[1] + 1 if old else 0
            put(self.workspace, "tasks", self.name(), task(number, row_hash=row_hash, version=version))
            self.tasks[key] = (row_hash, version, False)

    @precondition(lambda self: any(not gone for _, _, gone in self.tasks.values()))
    @rule(data=st.data())
    def task_goes(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(k for k, (_, _, gone) in self.tasks.items() if not gone)))
        row_hash, version, _ = self.tasks[key]
        put(self.workspace, "tasks", self.name(), task(int(key), row_hash=row_hash, version=version + 1, removed=True))
        self.tasks[key] = (row_hash, version + 1, True)

    @rule(ends=st.lists(ENDS, min_size=1, max_size=6))
    def attempts_end(self, ends: list[tuple[int, int, int, str]]) -> None:
        name, reported = self.name(), []
        for place, (number, edit, index, how) in enumerate(ends):
            failed = {} if how == "good" else {"error": "timeout", "final": how == "final"}
            own = {"row_hash": f"h{edit}", "rollout_index": index, "attempt_id": f"{name}-{place}"}
            reported.append(attempt(number, **own, **failed))
        writer = Journal(self.workspace, name)
        for row in reported:
            writer.append("attempts", row)
        writer.close()
        self.attempts[f"{name}-0000"] = reported

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def a_part_is_deleted(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.attempts)))
        (self.workspace.root / "attempts" / "d" / f"{name}.parquet").unlink()
        del self.attempts[name]

    def expected(self) -> Iterator[tuple[str, int, str]]:
        """(task, repeat, state) of each wanted rollout, by the words of the design."""
        alive = sorted((int(key), row_hash) for key, (row_hash, _, gone) in self.tasks.items() if not gone)
        tried = [row for part in self.attempts.values() for row in part]
        for number, row_hash in alive[: self.limit]:
            for index in range(self.repeats):
                key = (str(number), row_hash, index)
                own = [row for row in tried if (row["task_id"], row["row_hash"], row["rollout_index"]) == key]
                refused = any("error" in row and row["final"] for row in own)
                done = any("error" not in row for row in own)
                state = "done" if done else "given_up" if refused or len(own) >= self.tries else "pending"
                yield str(number), index, state

    @invariant()
    def the_views_agree(self) -> None:
        con = connect(self.workspace, self.plan, threads=1)
        states = sql.rows(con, "SELECT task_id, rollout_index, status FROM wanted_states")
        assert sorted(states) == sorted(self.expected())
        assert sql.rows(con, INVARIANT) == []
        assert sql.rows(con, SUMS) == [(True,)]
        con.close()


def test_any_life_of_a_workspace_adds_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    class Placed(Life):
        folders = tmp_path_factory

    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    limits = settings(max_examples=10, stateful_step_count=10, deadline=None, suppress_health_check=slow)
    run_state_machine_as_test(Placed, settings=limits)


def test_the_rows_that_are_written_have_the_columns_of_their_tables() -> None:
    assert set(AttemptRow.__annotations__) == set(schema.ATTEMPTS.names)
    assert set(VerdictRow.__annotations__) == set(schema.VERDICTS.names)
    assert set(TaskColumns.__annotations__) < set(schema.TASKS.names)
