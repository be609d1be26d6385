"""A workspace's views over rows that are given: each row is a rollout, with its task, attempt and verdict."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from rolloutops.errors import InputError
from rolloutops.layout import count
from rolloutops.store import schema, sql
from rolloutops.store.base_views import VIEWS, views_script

JSON_CELLS = ("metrics", "tool_names", "token_turns")
LABEL_CELLS = {"label": "label", "label_score": "score", "label_note": "note"}
"""Columns of a row that make a label of its rollout -> columns of the table."""


def workspace(
    rollouts: Iterable[Mapping[str, Any]], plan: Iterable[Mapping[str, Any]] = (), threads: int = 2, shuffle: int = 0
) -> sql.Connection:
    """A connection with all views. shuffle: a seed, to lay the rows out in another order.

    A row with `judged_again` is not a rollout, but a further verdict on the one that has its `attempt_id`.
    """
    tables: dict[str, list[dict[str, Any]]] = {"tasks": [], "attempts": [], "verdicts": [], "labels": []}
    seen = set()
    for number, given in enumerate(rollouts):
        row = {"dataset": "d", "policy": "p", "rollout_index": 0, "text": "yes", **given}
        ask = [{"role": "user", "content": f"{row['task_id']}?"}]
        reported = [{"role": "assistant", "content": row["text"]}]
        task = {
            **{"row_hash": "h", "version": 0, "removed": False, "part": 0, "line": 1},
            **{
                "row": dump({"question": row["task_id"]}),
                "prompt": dump(ask),
                "prompt_hash": f"hash of {row['task_id']}",
            },
        }
        attempt = {
            **{"row_hash": "h", "attempt": 1, "attempt_id": f"a{number:06d}", "final": True, "run_id": "run"},
            **{"completion": dump(reported), "finish_reason": "stop", "engine": "scripted", "model": "m"},
        }
        verdict = {
            "verdict_id": f"v{number:06d}",
            "attempt_id": f"a{number:06d}",
            "verifier": "exact",
            "verifier_version": "1",
        }
        own = {"prompt": row.pop("own_prompt", None)}
        judging = {"seconds": row.pop("verify_seconds", None), "run_id": row.pop("verdict_run_id", "run")}
        if (row["dataset"], row["task_id"]) not in seen:
            seen.add((row["dataset"], row["task_id"]))
            tables["tasks"].append(take(schema.TASKS, {**task, **row}))
        if not row.pop("judged_again", False):
            tables["attempts"].append({**take(schema.ATTEMPTS, {**attempt, **row}), "tools": None, **own})
        if row.get("reward") is not None or row.get("metrics") is not None:
            verified = take(schema.VERDICTS, {**verdict, **row}, but=("error", "seconds", "run_id"))
            tables["verdicts"].append({**verified, **judging})
        if label := {name: row[own] for own, name in LABEL_CELLS.items() if row.get(own) is not None}:
            named = take(schema.LABELS, {"attempt_id": f"a{number:06d}", **row}, but=("label",))
            written = {"label_id": f"l{number:06d}", "withdrawn": False, "author": "a", "created_at": number}
            tables["labels"].append({**named, **written, **label})
    con = sql.connect(threads)
    sql.run(con, views_script(dict.fromkeys(schema.TABLES), list(plan)))
    for name, rows in tables.items():
        random.Random(shuffle).shuffle(rows) if shuffle else None
        view = VIEWS[name]
        try:
            made = schema.table_of(schema.TABLES[name], rows)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(
                f"a case's rows do not fit the table of {name}: {error}; put text in quotes, e.g. '2'"
            ) from error
        con.register(f"given_{name}", made)
        sql.run(con, f"DROP VIEW {view}; CREATE TABLE {view} AS FROM given_{name}")
        con.unregister(f"given_{name}")
    return con


def take(columns: Any, row: Mapping[str, Any], but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The columns of a row that a table has."""
    return {name: row[name] for name in columns.names if name in row and name not in but}


def dump(value: Any) -> str:
    """JSON text as messages.py writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def table(text: str) -> list[dict[str, Any]]:
    """Rows of a table written with `|` between its columns, names first. An empty cell is absent."""
    names, *lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    for line in lines:
        if len(line) != len(names):
            raise InputError(
                f"a case's row has {count(len(line), 'cell')} for {count(len(names), 'column')}: {' | '.join(line)}"
            )
    return [{name: _read(name, text) for name, text in zip(names, line, strict=True) if text} for line in lines]


def _read(name: str, text: str) -> Any:
    try:
        return cell(name, text)
    except ValueError as error:
        raise InputError(f"a case's {name} cannot be {text}: {error}") from error


def cell(name: str, text: str) -> Any:
    """A cell as a value: a number where it reads as one, null, text in quotes without them, else the text."""
    if name in JSON_CELLS:
        value = json.loads(text)
        return list(value.items()) if isinstance(value, dict) else value
    if name in ("started_at", "since"):
        return datetime.fromisoformat(text)
    if text == "null":
        return None
    if text[0] == text[-1] == "'":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
