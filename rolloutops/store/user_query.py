"""A query that a user wrote: what SHOW TABLES answers, and where a query is wrong, in the user's own text."""

from __future__ import annotations

import re

import duckdb

from rolloutops.config.resources import shipped
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.store import parsed

BASE = {
    "task_log": "all tasks that were ever in the input, with each edit and removal",
    "attempts": "each attempt at a rollout, including those that failed",
    "verdicts": "each verdict, of all verifier versions",
    "runs": "the start and the end of each command that wrote to the workspace",
    "jobs": "the events of each batch job",
    "label_log": "all labels, scores and notes of people, including those replaced or withdrawn later",
    "plan": "what the recipe wants of each dataset and policy",
}
"""The relations below the views, and what they hold."""

COMMENTED = re.compile(r"((?:^--.*\n)+)CREATE OR REPLACE VIEW (\w+) ", re.MULTILINE)
NO_TABLE = re.compile(r"Table with name (\S+) does not exist")
EXCERPT = re.compile(r"\s*\nLINE (\d+): ")


def view_comments() -> dict[str, str]:
    """View -> the comment above it in views.sql, without its name, as one paragraph."""
    text = (shipped("sql") / "views.sql").read_text(encoding="utf-8")
    comments = {
        name: " ".join(line.lstrip("- ") for line in lines.splitlines()) for lines, name in COMMENTED.findall(text)
    }
    return {name: comment.removeprefix(f"{name}: ") for name, comment in comments.items()}


def tables() -> tuple[list[str], list[tuple[str, str]]]:
    """Answer SHOW TABLES: each view and table with the first sentence that documents it."""
    views = {name: comment.split(". ")[0].rstrip(".") for name, comment in view_comments().items()}
    return ["name", "description"], list({**views, **BASE}.items())


def is_show_tables(query: str) -> bool:
    """Whether a query is SHOW TABLES."""
    return query.upper().rstrip("; \n").split() == ["SHOW", "TABLES"]


def is_condition(text: str) -> bool:
    """Whether a text is one condition on rows. Raises sql.Error, with the place, for what is not SQL at all."""
    node = parsed.tree(f"SELECT 1 FROM rollouts WHERE (\n{text}\n)")
    try:
        parsed.tree(f"SELECT 1 FROM rollouts WHERE\n{text}\n")
    except duckdb.Error:  # it is one only in parentheses, as `true) OR (true` is
        return False
    where = node.get("where_clause") or {}
    no_row = bool(where) and where.get("function_name") != "row"  # of none or several, as in () or (1, 2)
    return node.get("type") == "SELECT_NODE" and no_row and not node.get("modifiers")


def query_error(error: Exception) -> UsageError:
    """Make an error of DuckDB one sentence; its note shows the place in the user's text.

    What was put before the user's query must be a line of its own, so that the line shown is the user's.
    """
    sentence, *place = EXCERPT.split(str(error).strip(), maxsplit=1)
    if missing := NO_TABLE.search(sentence):
        name = missing[1].strip('"')
        hint = did_you_mean(name, dict(tables()[1]), most=3)
        sentence = f"there is no view {name!r}{hint or '.'} SHOW TABLES lists them"
    found = UsageError(f"the query failed: {sentence.strip()}")
    if place:
        number = int(place[0]) - 1
        head = f"  line {number}: " if number > 1 else "  "
        text, *carets = place[1].splitlines()
        moved = len(head) - len(f"LINE {number + 1}: ")
        found.add_note("\n".join([head + text, *(" " * max(moved, 0) + line[max(-moved, 0) :] for line in carets[:1])]))
    return found
