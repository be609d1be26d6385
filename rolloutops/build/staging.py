"""The lines of a build before they are written: made once by its step, split, ordered and checked.

Their texts are in a Parquet file, in any order and in small row groups, so that lines of any length pass through memory
a few at a time. What else there is of a line is in a table, in the order of the files to come. Both are seen as three
views; two more tables say which rollouts are behind them:

    staging.made    split, shape, place, sort_key, split_key, keys, bytes, text     text: its row in the Parquet file
    result          split, shape, place, sort_key, split_key, keys, json     what checks and reports read
    numbered        the same, and row: the number of the line, from 1        what names a line
    lines           split, row, json                                         what a linter reads
    staging.used    split, row, role, key, and what is known of the rollout  what lineage and report read
    staging.makers  who made and verified these rollouts, and how many         what the manifest reads

The line goes to validation where the hash of split_key and seed, as a number in [0, 1), is below `validation`, to test
where it is below validation + test, else to train. Lines are ordered by the hash of sort_key and seed. shape is the
type of a line where a Parquet file may have lines of one type only (`-- files: by shape`); else it is empty. Where JSON
lines are more than `datasets` reads at once, the first line of each type with tools comes before all others.
"""

from __future__ import annotations

from pathlib import Path

from rolloutops.config.build_options import PROMPT, BuildOptions
from rolloutops.errors import StepError, UsageError, did_you_mean
from rolloutops.layout import count
from rolloutops.steps.selected import ALL, few_rows, table_of
from rolloutops.steps.step import Step, require_line
from rolloutops.store import sql

BY_SHAPE = "by shape"
"""What the header of a build says whose lines of different shape must be in different Parquet files."""

TEXTS = ".lines.parquet"
"""The file of the texts, in the folder of the build until that is complete."""

AS_IS = "FORMAT parquet, COMPRESSION uncompressed, DICTIONARY_SIZE_LIMIT 1, STRING_DICTIONARY_PAGE_SIZE_LIMIT 1"
"""How a file is written that is read a few times at once and goes then."""

KEY = "dataset, task_id, policy, rollout_index"
ORDER = "split, shape, place, sort_key"

LOOSE = r"'(?i)[:,[]\s*-?(?:nan|inf)|,\s*[]}]'"
NO_LINE = rf"""
NOT starts_with(json, '{{') OR contains(json, chr(10)) OR NOT json_valid(json)
OR CASE WHEN regexp_matches(json, {LOOSE})
    THEN regexp_matches(regexp_replace(json, '"(?:[^"\\]|\\.)*"', '""', 'g'), {LOOSE}) ELSE false END
"""
"""DuckDB takes NaN, infinity and a comma before a bracket for JSON, trainers do not. Within texts they may stand."""

USED = f"""
CREATE OR REPLACE TABLE staging.used AS
WITH named AS (SELECT split, row, unnest(keys, recursive := true) FROM numbered)
SELECT n.split, n.row, n.role, n.dataset, n.task_id, n.policy, n.rollout_index, s.attempt_id, s.reward, s.output_tokens,
    s.finish_reason, s.engine, s.model, s.verifier, s.verifier_version, s.run_id
FROM named AS n
JOIN selection.rollouts AS s USING ({KEY})
"""
"""A row for each rollout behind each line."""

MAKERS = """
CREATE OR REPLACE TABLE staging.makers AS
SELECT dataset, policy, engine, model, verifier, verifier_version, run_id, count(DISTINCT attempt_id) AS rollouts
FROM staging.used
GROUP BY ALL
"""
"""Who made and verified these rollouts."""

LINEAGE = f"""
SELECT split, row, role, {KEY}, attempt_id, reward
FROM staging.used
ORDER BY split, row, role, {KEY}
"""
"""Which rollouts each line came from: split, number of the line from 1, role, key, attempt and verifier's reward."""

MADE = """
CREATE TABLE staging.made AS
SELECT * EXCLUDE (json), file_row_number AS text
FROM read_parquet({file}, file_row_number = true)
ORDER BY {order}
"""

VIEWS = """
CREATE OR REPLACE VIEW staging.texts AS
SELECT file_row_number AS text, json FROM read_parquet({file}, file_row_number = true);

CREATE OR REPLACE VIEW result AS
SELECT m.* EXCLUDE (bytes, text), t.json[1] AS json
FROM staging.texts AS t
JOIN staging.made AS m ON m.text = t.text;

CREATE OR REPLACE VIEW numbered AS
SELECT m.*, m.rowid - f.first_row + 1 AS row
FROM staging.made AS m
JOIN (SELECT split, min(rowid) AS first_row FROM staging.made GROUP BY split) AS f ON f.split = m.split;

CREATE OR REPLACE VIEW lines AS
SELECT n.split, n.row, t.json[1] AS json
FROM staging.texts AS t
JOIN numbered AS n ON n.text = t.text;
"""
"""Lines are numbered without sorting them once more: they are staged in order."""

READ_AT_ONCE = 10 << 20
"""Bytes of JSON lines from which `load_dataset` (datasets 5.2) takes the columns and their types. It casts the lines
after them: one with other keys fails, one with fewer keys has nulls, which chat templates show to the model."""

LONG = f"SELECT coalesce(sum(bytes) > {READ_AT_ONCE}, false) FROM staging.made"

VARYING = "contains(t.json[1], '\"tool') OR contains(t.json[1], '\"content\":[')"
"""Lines with tools, tool calls or content parts: all others of a build have one type."""

TYPES_FIRST = f"""
CREATE OR REPLACE TABLE staging.made AS
WITH long AS (SELECT split FROM staging.made GROUP BY split HAVING sum(bytes) > {READ_AT_ONCE}),
typed AS (
    SELECT m.split, m.place, m.text, json_structure(t.json[1])::VARCHAR AS type
    FROM staging.texts AS t
    JOIN staging.made AS m ON m.text = t.text
    WHERE m.split IN (FROM long) AND json_valid(t.json[1]) AND ({VARYING})
),
first AS (SELECT arg_min(text, place) AS text FROM typed GROUP BY split, type)
SELECT m.* REPLACE (if(f.text IS NULL, m.place, ' ' || m.place) AS place)
FROM staging.made AS m
LEFT JOIN first AS f ON f.text = m.text
ORDER BY {ORDER}
"""
"""A blank is less than a hexadecimal digit, so these lines come first, in the order that they had."""

GROUP_BYTES = 8 << 20
"""Bytes of lines in a row group of the staged file, at least: so several threads read the lines of most builds."""


def stage(con: sql.Connection, step: Step, options: BuildOptions, folder: Path, where: str) -> None:
    """Run the step, which is bound, once; makes the views over its lines. folder: where their texts may lie."""
    require_line(con, step)
    # The share is a number in [0, 1): the first 60 bits of the hash.
    share = f"('0x' || md5(split_key || ':' || {options.seed})[1:15])::BIGINT / 1152921504606846976.0"
    split = f"""CASE
            WHEN {share} < {options.validation} THEN 'validation'
            WHEN {share} < {options.validation + options.test} THEN 'test'
            ELSE 'train'
        END"""
    if len(options.splits) == 1:
        split = "'train'"
    shape = "''"
    if options.format == "parquet" and step.notes.get("files") == BY_SHAPE:
        shape = "replace(json_structure(json)::VARCHAR, 'UBIGINT', 'BIGINT')"
    # The text is a list of one text: see `few_rows`.
    made = f"""
        SELECT {split} AS split, {shape} AS shape, md5(sort_key || ':' || {options.seed}) AS place, sort_key, split_key,
            keys, strlen(json) AS bytes, [json] AS json
        FROM (SELECT * REPLACE (json::VARCHAR AS json) FROM (\n{_grouped(con, step.query, options, where)}\n))
    """
    file = sql.literal(str(folder / TEXTS))
    sql.run(con, "CREATE SCHEMA IF NOT EXISTS staging; DROP TABLE IF EXISTS staging.made")
    with few_rows(con, step.ships):
        sql.run(con, f"COPY ({made}) TO {file} ({AS_IS}, ROW_GROUP_SIZE_BYTES {GROUP_BYTES})")
    sql.run(con, MADE.format(file=file, order=ORDER))
    sql.run(con, VIEWS.format(file=file))
    if options.format != "parquet" and sql.rows(con, LONG)[0][0]:
        sql.run(con, TYPES_FIRST)


def drop_lines(con: sql.Connection, faulty: str) -> None:
    """Take lines out of the staged ones. faulty: a query that returns their split and row."""
    kept = f"SELECT * EXCLUDE (row) FROM numbered ANTI JOIN (\n{faulty}\n) USING (split, row) ORDER BY {ORDER}"
    sql.run(con, f"CREATE OR REPLACE TABLE staging.made AS {kept}")


def _grouped(con: sql.Connection, query: str, options: BuildOptions, where: str) -> str:
    """The step's query, its split_key being the column that the recipe splits by; where that is NULL, the step's."""
    if options.split_by == PROMPT:
        return query
    return f"""
        SELECT made.* REPLACE (coalesce('by ' || g.value, split_key) AS split_key)
        FROM (\n{query}\n) AS made
        LEFT JOIN ({_values(con, options, where)}) AS g
            ON g.dataset = keys[1].dataset AND g.task_id = keys[1].task_id
            AND g.policy = keys[1].policy AND g.rollout_index = keys[1].rollout_index
    """


def _values(con: sql.Connection, options: BuildOptions, where: str) -> str:
    """The value of the column that the recipe splits by, of each rollout."""
    known = sql.columns(con, "FROM selected")
    if options.split_by not in known:
        hint = (
            did_you_mean(options.split_by, [PROMPT, *known]) or "; a filter that finds near duplicates adds `cluster`"
        )
        raise UsageError(f"{where} split_by = {options.split_by!r}: the selection has no such column{hint}")
    column = '"' + options.split_by.replace('"', '""') + '"'
    return f"SELECT {KEY}, min({column}::VARCHAR) AS value FROM selected GROUP BY {KEY}"


def check_rows(con: sql.Connection, step: Step, where: str) -> None:
    """Every line is one JSON object on one line, every row has its keys, and sort_key is unique.

    The text of a shipped step is not read here: it is made of what was read when it came in, and its linter reads it.
    """
    rows = sql.rows(
        con,
        f"""
        SELECT count(*), count(*) FILTER (bytes IS NULL OR split_key IS NULL OR sort_key IS NULL OR len(keys) IS NULL),
            count(*) - count(DISTINCT sort_key),
            {"0" if step.ships else f"(SELECT count(*) FROM result WHERE {NO_LINE})"}
        FROM staging.made
        """,
    )
    total, missing, repeated, invalid = rows[0]
    for faulty, fault in (
        (missing, "with a NULL in json, keys, split_key or sort_key"),
        (repeated, "whose sort_key another row has"),
        (invalid, "whose json is not one JSON object on one line"),
    ):
        if faulty:
            raise StepError(
                f"{where} {step.path} made {faulty:,} of {count(total, 'row')} {fault}; nothing was written"
            )


def refuse_leaks(con: sql.Connection, options: BuildOptions, where: str) -> None:
    """No prompt, and no value of the column that the recipe splits by, may be in two splits."""
    if len(options.splits) == 1:
        return
    asks = {"prompt": f"SELECT {KEY}, prompt_hash AS value FROM selection.rollouts"}
    if options.split_by != PROMPT:
        asks[options.split_by] = _values(con, options, where)
    for name, values in asks.items():
        leaks = sql.rows(
            con,
            f"""
            SELECT value, min(task_id), string_agg(DISTINCT split, ' and ' ORDER BY split DESC)
            FROM staging.used JOIN ({values}) USING ({KEY})
            GROUP BY value HAVING count(DISTINCT split) > 1
            ORDER BY ALL
            """,
        )
        if leaks:
            raise StepError(
                f"{where} {count(len(leaks), name)} would be in two splits, e.g. that of task "
                f"{leaks[0][1]} in {leaks[0][2]}: the lines of one {name} must share their split_key"
            )


def find_used(con: sql.Connection, step: Step, start: str, where: str) -> tuple[int, int]:
    """Make both tables of rollouts. Returns how many the build read, from the selection `start`, and how many it used.

    Raises StepError where a line names a rollout that there is not.
    """
    sql.run(con, f"{USED};\n{MAKERS}")
    read = "selection.rollouts" if start == ALL else f"(SELECT DISTINCT {KEY} FROM {table_of(start)})"
    counts = f"""
        SELECT (SELECT count(*) FROM {read}), (SELECT coalesce(sum(rollouts), 0)::BIGINT FROM staging.makers),
            (SELECT coalesce(sum(len(keys)), 0)::BIGINT FROM result) - (SELECT count(*) FROM staging.used)
    """
    rollouts, used, unknown = sql.rows(con, counts)[0]
    if unknown:
        raise StepError(
            f"{where} {step.path} has {count(unknown, 'key')} of rollouts that are not in the workspace; nothing "
            "was written"
        )
    return rollouts, used
