"""What each address below /api/ answers, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from rolloutops.errors import UsageError
from rolloutops.store import sql
from rolloutops.view import builds, compare, conversation, failures, labels, rows, runs, tasks
from rolloutops.view.file import lines_of
from rolloutops.view.filters import Query, filter_of, first
from rolloutops.view.index import make_views
from rolloutops.view.save_step import save_step
from rolloutops.view.viewer import Viewer

Answer = Callable[[Viewer, Query], Any]
"""What answers an address below /api/ with JSON: runs on a thread, may raise a RolloutopsError."""


def _moment(viewer: Viewer, query: Query) -> dict[str, Any]:
    moment = viewer.moment
    return {
        "number": moment.number,
        "rollouts": moment.rollouts,
        "failures": moment.failures,
        "place": str(viewer.file or viewer.workspace.root),
        "file": viewer.file is not None,
    }


def _columns(viewer: Viewer, query: Query) -> list[dict[str, str]]:
    make_views(viewer.moment, "rollouts")
    return rows.completions(sql.columns(viewer.moment.cursor(), "FROM rollouts"))


def _rows(viewer: Viewer, query: Query) -> dict[str, Any]:
    moment, chosen, key = viewer.moment, filter_of(query), first(query, "key")
    after = _key(key) if key else []
    if attempt := first(query, "attempt"):
        after = list(rows.key_of(moment, chosen, first(query, "of"), attempt))
    return rows.page(moment, chosen, after, inclusive=bool(attempt))


def _key(text: str) -> list[str | None]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(each, str | None) for each in found):
        raise UsageError("a key is a JSON array of three texts")
    return found


def _totals(viewer: Viewer, query: Query) -> dict[str, Any]:
    return rows.totals(viewer.moment, filter_of(query))


def _histogram(viewer: Viewer, query: Query) -> list[dict[str, Any]]:
    return rows.histogram(viewer.moment, filter_of(query))


def _rollout(viewer: Viewer, query: Query) -> dict[str, Any]:
    return conversation.overview(viewer.conversation(query))


def _turns(viewer: Viewer, query: Query) -> dict[str, Any]:
    return conversation.turns(viewer.conversation(query), number(query, "from"))


def _neighbors(viewer: Viewer, query: Query) -> dict[str, Any]:
    return rows.neighbors(viewer.moment, filter_of(query), first(query, "of"), first(query, "attempt"))


def _text(viewer: Viewer, query: Query) -> dict[str, str]:
    return {"text": conversation.text(viewer.conversation(query), number(query, "turn"), first(query, "part"))}


def _raw(viewer: Viewer, query: Query) -> dict[str, str]:
    whole = viewer.conversation(query).raw.get(first(query, "name"), "")
    return {"text": whole[: conversation.LONGEST_RAW]}


def _tokens(viewer: Viewer, query: Query) -> dict[str, Any]:
    return conversation.tokens(viewer.conversation(query), number(query, "call"))


def _task(viewer: Viewer, query: Query) -> dict[str, Any]:
    return tasks.task(viewer.moment, first(query, "of"), first(query, "task"))


def _policies(viewer: Viewer, query: Query) -> list[str]:
    return compare.policies(viewer.moment)


def _compare(viewer: Viewer, query: Query) -> dict[str, Any]:
    return compare.compare(viewer.moment, filter_of(query), first(query, "a"), first(query, "b"))


def _failures(viewer: Viewer, query: Query) -> dict[str, Any]:
    return failures.failures(viewer.moment)


def _runs(viewer: Viewer, query: Query) -> dict[str, Any]:
    return runs.runs(viewer.moment, viewer.workspace, first(query, "run"))


def _builds(viewer: Viewer, query: Query) -> list[dict[str, Any]]:
    return builds.builds(viewer.moment)


def _lines(viewer: Viewer, query: Query) -> dict[str, Any]:
    path, line = first(query, "path"), max(number(query, "line"), 1)
    if viewer.file is not None and path == str(viewer.file):
        return lines_of(viewer.file, line)
    return builds.lines(viewer.moment, path, line)


def _line_tokens(viewer: Viewer, query: Query) -> dict[str, Any]:
    found = _lines(viewer, query)["lines"]
    if not found:
        raise UsageError(f"{first(query, 'path')} has no lines")
    line = found[0]
    return viewer.tokens.of(line["text"], line["value"])


def _uses(viewer: Viewer, query: Query) -> list[dict[str, Any]]:
    return builds.uses(viewer.moment, first(query, "of"), first(query, "attempt"))


def _labels(viewer: Viewer, query: Query) -> dict[str, Any]:
    return _label_of(viewer, first(query, "of"), first(query, "attempt"))


def _label_of(viewer: Viewer, dataset: str, attempt_id: str) -> dict[str, Any]:
    """What is said of a rollout, and the labels to choose from."""
    log = viewer.labels
    return {"now": labels.label_of(log, dataset, attempt_id), "names": labels.names(log, viewer.plan)}


ANSWERS: dict[str, Answer] = {
    "moment": _moment,
    "columns": _columns,
    "rows": _rows,
    "totals": _totals,
    "histogram": _histogram,
    "rollout": _rollout,
    "turns": _turns,
    "neighbors": _neighbors,
    "text": _text,
    "raw": _raw,
    "tokens": _tokens,
    "task": _task,
    "policies": _policies,
    "compare": _compare,
    "failures": _failures,
    "runs": _runs,
    "builds": _builds,
    "lines": _lines,
    "line_tokens": _line_tokens,
    "uses": _uses,
    "labels": _labels,
}
"""Address below /api/ -> what answers it, all of them by GET: none of them writes."""


def _save_step(viewer: Viewer, body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in ("name", "filter")):
        raise UsageError("a step needs a name and a filter")
    chosen = filter_of(parse_qs(body["filter"], keep_blank_values=True))
    return save_step(viewer.moment, viewer.plan.folder, body["name"], chosen)


def _label(viewer: Viewer, body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in ("of", "attempt")):
        raise UsageError("a label needs the rollout that it is for: of and attempt")
    changes = {name: value for name, value in body.items() if name not in ("of", "attempt")}
    viewer.label(body["of"], body["attempt"], changes)
    return _label_of(viewer, body["of"], body["attempt"])


CHANGES: dict[str, Callable[[Viewer, Any], Any]] = {"step": _save_step, "label": _label}
"""Address below /api/ -> what changes something, by POST, with the JSON that was sent."""


def number(query: Query, name: str) -> int:
    """A whole number of an address. Raises UsageError where it is none."""
    text = first(query, name)
    if not text.isdigit() or len(text) > 15:
        raise UsageError(f"{name} must be a whole number, not {text!r}")
    return int(text)
