"""What a collection gave up: how much of each dataset and policy, why, and whether the recipe allows it.

A rollout that is given up is not coming back by itself, so a run that gave up more than `max_given_up` is not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rolloutops.config.plan import CollectPlan
from rolloutops.store import sql

REASONS = """
WITH example AS (
    SELECT dataset, task_id, policy, rollout_index, row_hash, error, max_by(error_message, attempt) AS message
    FROM attempts
    WHERE error IS NOT NULL
    GROUP BY ALL
)
SELECT g.dataset, g.policy, g.last_error AS kind, count(*) AS rollouts, min(e.message) AS example
FROM given_up AS g
LEFT JOIN example AS e
    ON e.dataset = g.dataset AND e.task_id = g.task_id AND e.policy = g.policy
    AND e.rollout_index = g.rollout_index AND e.row_hash = g.row_hash AND e.error = g.last_error
GROUP BY ALL
ORDER BY g.dataset, g.policy, rollouts DESC, kind
"""
"""Why rollouts are given up: the kind of their last failure, and what one of these said."""

WANTED = "SELECT dataset, policy, count(*) FROM wanted GROUP BY ALL"


class Reason(NamedTuple):
    """Rollouts that are given up for one kind of failure, and what one of these failures said."""

    kind: str
    rollouts: int
    example: str | None


@dataclass(frozen=True)
class GivenUp:
    """What is given up of one dataset and policy. allowed: the share of `wanted` that the recipe allows."""

    dataset: str
    policy: str
    wanted: int
    rollouts: int
    allowed: float
    reasons: Sequence[Reason]

    @property
    def too_much(self) -> bool:
        """Whether more is given up than the recipe allows."""
        return self.rollouts > round(self.allowed * self.wanted, 6)  # 0.29 * 100 is less than 29


def find_losses(con: sql.Connection, collect_plan: CollectPlan) -> list[GivenUp]:
    """Find what is given up of each dataset and policy; those of which nothing is are left out."""
    reasons: dict[tuple[str, str], list[Reason]] = {}
    for dataset, policy, kind, rollouts, example in sql.rows(con, REASONS):
        reasons.setdefault((dataset, policy), []).append(Reason(kind, rollouts, example))
    if not reasons:
        return []
    wanted = {(dataset, policy): count for dataset, policy, count in sql.rows(con, WANTED)}
    return [
        GivenUp(*key, wanted[key], sum(one.rollouts for one in found), collect_plan[key].max_given_up, found)
        for key, found in reasons.items()
    ]
