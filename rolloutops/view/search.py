"""A search in the texts of rollouts, part by part, so that hits come while it runs and it can be stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from rolloutops.errors import UsageError
from rolloutops.store import sql
from rolloutops.store.conversation import text_of
from rolloutops.view.filters import Filter, matching
from rolloutops.view.index import Moment, make_views, read

PART = 20_000
"""Rollouts that are searched at a time."""

MOST_HITS = 200
"""Hits after which a search ends."""

AROUND = 80
"""Characters that are shown on each side of a hit."""

ROLES = ("assistant", "reasoning", "tool call", "tool", "user", "system")
"""What can be searched: texts by role, and an assistant's reasoning and tool calls."""

PARTS = """
WITH numbered AS (
    SELECT dataset, attempt_id, row_number() OVER (ORDER BY attempt_id DESC, dataset) // {size} AS part FROM {source}
)
SELECT dataset, min(attempt_id) AS low, max(attempt_id) AS high, count(*) AS rollouts
FROM numbered
GROUP BY part, dataset
ORDER BY part, dataset
"""

CANDIDATES = """
SELECT s.dataset, s.attempt_id, s.task_id, s.policy, s.reward, a.completion::VARCHAR AS completion,
    coalesce(a.prompt, t.prompt)::VARCHAR AS prompt
FROM (SELECT * FROM {source} WHERE dataset = {dataset} AND attempt_id BETWEEN {low} AND {high}) AS s
JOIN attempts AS a ON a.dataset = s.dataset AND a.attempt_id = s.attempt_id
{task}
WHERE a.dataset = {dataset} AND a.attempt_id BETWEEN {low} AND {high} AND ({match})
ORDER BY s.attempt_id DESC
LIMIT {most}
"""

TASK = "LEFT JOIN task_log AS t ON t.dataset = a.dataset AND t.task_id = a.task_id AND t.row_hash = a.row_hash"


def search(
    moment: Moment, chosen: Filter, text: str, roles: list[str], stop: threading.Event
) -> Iterator[dict[str, Any]]:
    """Find a text, of any case, in the rollouts of a filter, the newest first.

    Yields hits, `{"hit": …}`, and after each part `{"searched": rollouts so far, "of": all}`. Ends when `stop` is set.
    Raises UsageError for a text or a role that cannot be searched for.
    """
    if not text.strip():
        raise UsageError("write a text to search for")
    if unknown := set(roles) - set(ROLES):
        raise UsageError(f"there is no role {', '.join(sorted(unknown))}; there are: {', '.join(ROLES)}")
    wanted = set(roles or ROLES)
    make_views(moment, "attempts task_log")
    source = matching(moment, chosen)
    parts = read(moment, PARTS.format(size=PART, source=source))
    total, searched, hits = sum(part["rollouts"] for part in parts), 0, 0
    for part in parts:
        if stop.is_set():
            return
        for row in read(moment, _candidates(source, part, text, wanted)):
            for hit in hits_in(row, text, wanted):
                yield {"hit": hit}
                hits += 1
                break  # one of a rollout: its page shows the others
        searched += part["rollouts"]
        yield {"searched": searched, "of": total, "hits": hits, "full": hits >= MOST_HITS}
        if hits >= MOST_HITS:
            return


def _candidates(source: str, part: Mapping[str, Any], text: str, roles: set[str]) -> str:
    """The query of the rollouts of a part in whose JSON the text is, in any place."""
    columns = ["a.completion"] if roles - {"user", "system"} else []
    task = ""
    if roles & {"user", "system"}:
        columns, task = [*columns, "coalesce(a.prompt, t.prompt)"], TASK
    match = " OR ".join(
        f"contains(lower({column}::VARCHAR), {sql.literal(form)})" for column in columns for form in spellings(text)
    )
    place = {name: sql.literal(part[name]) for name in ("dataset", "low", "high")}
    query = CANDIDATES if task else CANDIDATES.replace("coalesce(a.prompt, t.prompt)::VARCHAR", "NULL")
    return query.format(source=source, task=task, match=match, most=MOST_HITS, **place)


def spellings(text: str) -> list[str]:
    """A text in small letters as JSON writes it, and as JSON inside JSON does: arguments of tools are such."""
    once = json.dumps(text.lower(), ensure_ascii=False)[1:-1]
    return list(dict.fromkeys([once, json.dumps(once, ensure_ascii=False)[1:-1]]))


def hits_in(row: Mapping[str, Any], text: str, roles: set[str]) -> Iterator[dict[str, Any]]:
    """Yield where a rollout has a text: its role, its turn, and what stands around it."""
    prompt = json.loads(row["prompt"] or "[]")
    turns = [*prompt, *json.loads(row["completion"] or "[]")]
    facts = {name: row[name] for name in ("dataset", "attempt_id", "task_id", "policy", "reward")}
    for number, turn in enumerate(turns):
        for role, whole in _texts(turn):
            at = whole.lower().find(text.lower()) if role in roles else -1
            if at >= 0:
                end = at + len(text)
                around = {
                    "before": whole[max(at - AROUND, 0) : at],
                    "match": whole[at:end],
                    "after": whole[end : end + AROUND],
                }
                known = number if row["prompt"] else None  # without the prompt, turns have other numbers
                yield {**facts, "role": role, "turn": known, **around}


def _texts(turn: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The texts of a turn, each with the role it is searched under."""
    yield str(turn.get("role")), text_of(turn)
    if turn.get("reasoning_content"):
        yield "reasoning", str(turn["reasoning_content"])
    for call in turn.get("tool_calls") or ():
        function = call.get("function") or {}
        yield "tool call", f"{function.get('name', '')} {function.get('arguments', '')}"
