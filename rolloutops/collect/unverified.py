"""What a verification leaves without a reward, so that it is never taken for all done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rolloutops.config.plan import Plan
from rolloutops.store import sql

WITHOUT_ENVIRONMENT = """
SELECT g.dataset, count(*)
FROM good_attempts AS g
ANTI JOIN judges AS j ON j.dataset = g.dataset
ANTI JOIN verdicts AS v ON v.dataset = g.dataset AND v.attempt_id = g.attempt_id
GROUP BY g.dataset
ORDER BY g.dataset
"""
"""Rollouts without any verdict, of datasets for which the recipe names no environment."""

FAILED = """
SELECT count(*)
FROM good_verdicts AS v
SEMI JOIN good_attempts AS g ON g.dataset = v.dataset AND g.attempt_id = v.attempt_id
SEMI JOIN judges AS j ON j.dataset = v.dataset
WHERE v.error <> 'masked'
"""
"""Rollouts whose verification failed."""


SCORELESS = "SELECT dataset, count(*) FROM unverified WHERE verifier = 'human' GROUP BY dataset ORDER BY dataset"
"""Rollouts that wait for a person's score."""


@dataclass(frozen=True)
class Unverified:
    """Rollouts without a reward. no_environment: dataset -> how many, as nothing says how to verify them. failed: how
    many verifications failed, in this run or before. rollouts: all there are, with and without a reward. pinned:
    dataset -> the version whose verdicts count, so that nothing is verified for it. people: dataset -> how many wait
    for a person's score."""

    rollouts: int = 0
    failed: int = 0
    no_environment: Mapping[str, int] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    people: Mapping[str, int] = field(default_factory=dict)


def find_unverified(con: sql.Connection, plan: Plan) -> Unverified:
    """Count what has no reward. Datasets that the command line leaves out do not count. con: with the present views."""
    chosen = plan.datasets if plan.selects_datasets else None
    counted = dict(sql.rows(con, WITHOUT_ENVIRONMENT))
    people = plan.scored_by_people - {*plan.pins}
    return Unverified(
        rollouts=sql.rows(con, "SELECT count(*) FROM good_attempts")[0][0],
        failed=sql.rows(con, FAILED)[0][0],
        no_environment={name: count for name, count in counted.items() if chosen is None or name in chosen},
        pinned={name: pin.version for name, pin in plan.pins.items()},
        people={name: count for name, count in sql.rows(con, SCORELESS) if name in people} if people else {},
    )
