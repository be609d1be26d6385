"""What failed: attempts by kind with examples, and rollouts that could not be verified."""

from __future__ import annotations

from typing import Any

from rolloutops.store import sql
from rolloutops.view.index import Moment, make_views, read

EXAMPLES = 3
"""Examples of a kind."""

KINDS = """
SELECT dataset, policy, error, count(*) AS attempts, count(*) FILTER (WHERE healed) AS healed,
    epoch_ms(max(started_at)) AS last_at, list(attempt_id ORDER BY attempt_id DESC)[:{examples}] AS examples
FROM failed
GROUP BY ALL
ORDER BY attempts DESC, dataset, policy, error
"""

UNVERIFIED = """
SELECT dataset, policy, verdict_error AS error, count(*) AS rollouts,
    list(attempt_id ORDER BY attempt_id DESC)[:{examples}] AS examples
FROM small
WHERE verdict_error IS NOT NULL
GROUP BY ALL
ORDER BY rollouts DESC, dataset, policy, error
"""

EXAMPLE = """
SELECT e.attempt_id, e.task_id, e.rollout_index, f.attempt, e.error_message, l.label
FROM {source} AS e
LEFT JOIN labels AS l ON l.dataset = e.dataset AND l.attempt_id = e.attempt_id
LEFT JOIN failed AS f ON f.dataset = e.dataset AND f.attempt_id = e.attempt_id
WHERE e.attempt_id IN ({ids})
"""


def failures(moment: Moment) -> dict[str, Any]:
    """Count failures by dataset, policy and kind, the most frequent first, with the newest examples."""
    make_views(moment, "attempts verdicts labels")
    kinds = read(moment, KINDS.format(examples=EXAMPLES))
    unverified = read(moment, UNVERIFIED.format(examples=EXAMPLES))
    return {
        "attempts": _with_messages(moment, kinds, "attempts"),
        "verdicts": _with_messages(moment, unverified, "verdicts"),
    }


def _with_messages(moment: Moment, kinds: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """Put what an example said, and the label that it has, in the place of its id."""
    ids = [attempt_id for kind in kinds for attempt_id in kind["examples"]]
    if not ids:
        return kinds
    rows = read(moment, EXAMPLE.format(source=source, ids=", ".join(map(sql.literal, ids))))
    by_id = {row["attempt_id"]: row for row in rows}
    for kind in kinds:
        kind["examples"] = [by_id[name] for name in kind["examples"] if name in by_id]
    return kinds
