"""What steps read: `selection.rollouts`, every rollout without its payload, and over it the view `selected`.

`selected` is bound anew before each step, to the keys that the step before it kept. The payload columns that the step
names are joined then.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from glob import escape, glob

from rolloutops.config.resources import shipped
from rolloutops.errors import StepError
from rolloutops.steps.step import Step
from rolloutops.store import sql
from rolloutops.store.parsed import files_of_view, statement

ALL = "rollouts"
"""The name of the selection that holds every rollout."""

LARGEST = 8
"""Part files of a table that are looked at for long rows: those that are largest."""

KEYS = ("dataset", "task_id", "policy", "rollout_index")


SAME_TEXT = """
-- Answers whose last texts differ are told apart by these; only those with one text are read in full.
UPDATE selection.rollouts AS s
SET completion_hash = hash(a.completion::VARCHAR)
FROM attempts AS a
WHERE a.dataset = s.dataset AND a.attempt_id = s.attempt_id AND s.completion_hash IN (
    SELECT completion_hash FROM selection.rollouts GROUP BY completion_hash HAVING count(*) > 1
);"""

LOGGED = "(SELECT * EXCLUDE (verdict_id) FROM logged)"
"""What the view `rollouts` is made of: the same rows where none is there twice, which is known once they are read."""

TWICE = f"SELECT count(*) > count(DISTINCT hash({', '.join(KEYS)})) FROM selection.rollouts"
"""Whether a rollout is there twice; two of one hash only cost a second reading."""

ATTEMPT_PAYLOAD = {
    **{name: f"a.{name}" for name in ("text", "completion", "request", "response", "token_turns")},
    **{"text_length": "length(a.text)", "text_hash": "hash(a.text)", "completion_hash": "hash(a.completion::VARCHAR)"},
}
TASK_PAYLOAD = {"prompt": "coalesce(a.prompt, t.prompt)", "tools": "coalesce(a.tools, t.tools)", "row": "t.row"}
VERDICT_PAYLOAD = {"metrics": "d.metrics", "details": "d.details"}
ONE_ANSWER = {
    "prompt": "without_prefill(coalesce(a.prompt, t.prompt), a.completion)",
    "completion": "with_prefill(coalesce(a.prompt, t.prompt), a.completion)",
    "text": "text_with_prefill(coalesce(a.prompt, t.prompt), a.completion, a.text)",
}
"""What a build reads instead: an answer that continues the prompt's last message is one message with it."""
PAYLOAD = (*ATTEMPT_PAYLOAD, *TASK_PAYLOAD, *VERDICT_PAYLOAD)
"""Columns of `rollouts` that `selected` has where a step names them: the large ones, joined when they are read."""

OF_PAIRS = ("prompt", "tools", "completion", "text")
"""Payload that the view `pairs` is made of."""

MEASURED = ("text_length", "completion_hash")
"""What is made of payload and compares answers."""
SMALL = ("metrics", *MEASURED)
"""Payload that is read once for all steps where one of them needs it."""


LISTED_TASKS = """
CREATE OR REPLACE VIEW tasks AS
SELECT t.* EXCLUDE (removed, prompts, rows) REPLACE (t.prompts[1] AS prompt, t.rows[1] AS row)
FROM (SELECT *, [prompt] AS prompts, [row] AS rows FROM task_log) AS t
ANTI JOIN edited_tasks AS e ON e.dataset = t.dataset AND e.task_id = t.task_id AND e.version > t.version
WHERE NOT t.removed
"""
"""The view `tasks` as long as texts are long: DuckDB puts the small chunks of a join or filter together, 2,048 rows of
any length, unless a list is among their columns."""

LONG_ROW = 64 << 10
"""Bytes of a text of which 2,048 are more than should be in memory a few times."""


def prepare(con: sql.Connection, columns: Collection[str] = ()) -> None:
    """Read every rollout's key and small columns once, into `selection.rollouts`.

    columns: those of SMALL that it has too; completion_hash is that of the last text where no other rollout has it.
    """
    sql.run(con, f"CREATE SCHEMA IF NOT EXISTS selection;\n{_table(columns, LOGGED)}")
    if sql.rows(con, TWICE)[0][0]:
        sql.run(con, _table(columns, "rollouts"))
    if "completion_hash" in columns:
        sql.run(con, SAME_TEXT)


def preparation(columns: Collection[str]) -> str:
    """What `prepare` runs, for any DuckDB shell and any log."""
    same = SAME_TEXT if "completion_hash" in columns else ""
    return f"CREATE SCHEMA IF NOT EXISTS selection;\n{_table(columns, 'rollouts')}{same}"


def _table(columns: Collection[str], source: str) -> str:
    left_out = ", ".join(column for column in PAYLOAD if column not in columns)
    said = " REPLACE (text_hash AS completion_hash)" if "completion_hash" in columns else ""
    return f"CREATE OR REPLACE TABLE selection.rollouts AS SELECT * EXCLUDE ({left_out}){said} FROM {source};"


def prepared(con: sql.Connection) -> bool:
    """Whether `prepare` ran on this connection."""
    found = "SELECT 1 FROM duckdb_tables() WHERE schema_name = 'selection' AND table_name = 'rollouts'"
    return bool(sql.rows(con, found))


def bind(con: sql.Connection, name: str, payload: Iterable[str] = PAYLOAD, kind: str = "") -> None:
    """Make the view `selected` of a selection, with these payload columns, for a step of a kind."""
    sql.run(con, f"CREATE OR REPLACE VIEW selected AS\n{selected_query(con, name, payload, kind)}")


def bind_step(con: sql.Connection, start: str, step: Step, kind: str, where: str) -> None:
    """Make the views that a step reads: `selected` of the selection that it starts from, and `pairs` if it declares it.

    Raises StepError where it reads pairs, and what it starts from has none.
    """
    bind(con, start, payload_of(step, kind), kind)
    if "pairs" in step.reads:
        if "pair" not in sql.columns(con, "FROM selected"):
            raise StepError(f"{where} {step.name} reads pairs: put a pair step before it, or name one with from")
        sql.run(con, pairs_view())


def binding(con: sql.Connection, start: str, step: Step, kind: str) -> str:
    """What `bind_step` runs, for any DuckDB shell."""
    selected = f"CREATE OR REPLACE VIEW selected AS\n{selected_query(con, start, payload_of(step, kind), kind)};"
    return "\n".join([selected, *([pairs_view()] if "pairs" in step.reads else [])])


@cache
def pairs_view() -> str:
    """The statement that makes the view `pairs` of `selected`."""
    return statement((shipped("sql") / "pairs.sql").read_text(encoding="utf-8")) + ";"


def selected_query(con: sql.Connection, name: str, payload: Iterable[str], kind: str = "") -> str:
    """The query behind `selected`, for a step of a kind. Only the tables that the payload columns need are joined.

    The payload is joined by attempt, and not through the view `rollouts`, which would find each good attempt anew; and
    after the keys, so that those who are not selected are left out by the first join that meets it.
    """
    columns, source = "s.*, 0 AS copy", "selection.rollouts AS s"
    if name != ALL:
        table = table_of(name)
        own = [column for column in sql.columns(con, f"FROM {table}") if column not in KEYS]
        reward = " REPLACE (k.reward AS reward)" if "reward" in own else ""
        columns = ", ".join([f"s.*{reward}", *(f"k.{quoted(column)}" for column in own if column != "reward")])
        source = f"{table} AS k\nJOIN selection.rollouts AS s USING ({', '.join(KEYS)})"
    there = sql.columns(con, "FROM selection.rollouts")
    wanted = [column for column in PAYLOAD if column in set(payload) and column not in there]
    if not wanted:
        return f"SELECT {columns}\nFROM {source}"
    read = {**ATTEMPT_PAYLOAD, **TASK_PAYLOAD, **VERDICT_PAYLOAD, **(ONE_ANSWER if kind == "build" else {})}
    joined = "kept AS s"
    if any(column in ATTEMPT_PAYLOAD or column in TASK_PAYLOAD for column in wanted):
        joined = f"attempts AS a\nJOIN {joined} ON a.dataset = s.dataset AND a.attempt_id = s.attempt_id"
    if any(column in TASK_PAYLOAD or (kind == "build" and column in ONE_ANSWER) for column in wanted):
        on = "ON t.dataset = s.dataset AND t.task_id = s.task_id"
        tasks_first = kind == "build" and long_rows(con) == "tasks"
        joined = f"tasks AS t\nJOIN ({joined}) {on}" if tasks_first else f"{joined}\nLEFT JOIN tasks AS t {on}"
    if any(column in VERDICT_PAYLOAD for column in wanted):
        details = f"SELECT dataset, attempt_id, {', '.join(VERDICT_PAYLOAD)} FROM rollouts"
        joined += f"\nLEFT JOIN ({details}) AS d ON d.dataset = s.dataset AND d.attempt_id = s.attempt_id"
    made = ", ".join(f"{read[column]} AS {column}" for column in wanted)
    return f"""WITH kept AS MATERIALIZED (
SELECT {columns}, [s.rollout_index] AS listed -- with a list DuckDB leaves chunks of a few long rows as they are
FROM {source}
)
SELECT s.* EXCLUDE (listed) REPLACE (s.listed[1] AS rollout_index), {made}
FROM {joined}"""


@contextmanager
def few_rows(con: sql.Connection, ships: bool) -> Iterator[None]:
    """Within it a query holds as few rows as it can, where texts are long no more than those of a row group.

    ships: of a shipped step, whose joins have their long side on the left; those of a custom one may have any order.
    """
    long = ships and long_rows(con) != ""
    with sql.streaming(con, as_written=long):
        plain = sql.rows(con, "SELECT sql FROM duckdb_views() WHERE view_name = 'tasks'") if long else []
        if plain:
            sql.run(con, LISTED_TASKS)
        try:
            yield
        finally:
            if plain:
                sql.run(con, plain[0][0].replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))


def long_rows(con: sql.Connection) -> str:
    """The table whose texts are so long that a join should read it a row group at a time: tasks, attempts, or none.

    DuckDB works on 2,048 rows at once, but where a row group has fewer; and the side of a join that is not read that
    way is in memory whole.
    """
    sizes = {
        table: _bytes_of_row(con, view, column)
        for table, view, column in (("tasks", "task_log", "prompt"), ("attempts", "attempts", "completion"))
    }
    longest = max(sizes, key=lambda table: sizes[table])
    return longest if sizes[longest] >= LONG_ROW else ""


def _bytes_of_row(con: sql.Connection, view: str, column: str) -> int:
    """How long a column's values are in the row group of a table where they are longest, on average."""
    sql.columns(con, f"FROM {view}")  # a view is made when it is first named
    made = sql.rows(con, f"SELECT sql FROM duckdb_views() WHERE view_name = {sql.literal(view)} AND NOT internal")
    patterns = files_of_view(made[0][0]) if made and "read_parquet" in made[0][0] else []
    files = sorted({file for pattern in patterns for file in glob(pattern)}, key=os.path.getsize)[-LARGEST:]
    if not files:
        return 0
    named = sql.literal([escape(file) for file in files])
    size = f"SELECT max(total_uncompressed_size // row_group_num_rows) FROM parquet_metadata({named})"
    found = sql.rows(con, f"{size} WHERE path_in_schema = {sql.literal(column)} AND row_group_num_rows > 0")
    return found[0][0] or 0


def payload_of(step: Step, kind: str) -> list[str]:
    """The payload columns that a step reads: those that it names, and all where a custom one takes rows whole.

    The rows of a filter, reward, mix or pair step are stored as keys, so a `*` of theirs reads no payload.
    """
    if not step.ships and (step.names.rows or (kind == "build" and step.names.star)):
        return list(PAYLOAD)
    named = {*step.names.columns, *(OF_PAIRS if "pairs" in step.reads else ())}
    return [column for column in PAYLOAD if column in named]


def table_of(name: str) -> str:
    """The table that holds what a step kept."""
    return f"selection.{quoted(f'step {name}')}"


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
