"""The mean of each numeric field of the rollouts, which `collect` and `verify` print at their end."""

from __future__ import annotations

import json

from rolloutops.config.plan import Plan
from rolloutops.store import sql
from rolloutops.store.workspace import connect, open_workspace

AVERAGES = """
WITH r AS (
    SELECT dataset, policy, reward, turns, tool_calls, input_tokens, output_tokens, metrics
    FROM rollout_facts AS f
    {only}
),
columns_of AS (
    SELECT dataset, policy, avg(reward) AS reward, avg(turns) AS turns, avg(tool_calls) AS tool_calls,
        avg(input_tokens) AS input_tokens, avg(output_tokens) AS output_tokens
    FROM r GROUP BY dataset, policy
),
returned AS (
    SELECT dataset, policy, unnest(map_keys(metrics)) AS name, unnest(map_values(metrics)) AS value
    FROM r WHERE cardinality(metrics) > 0
),
means AS (
    FROM (UNPIVOT columns_of ON reward, turns, tool_calls, input_tokens, output_tokens INTO NAME name VALUE mean)
    UNION ALL
    SELECT dataset, policy, name, avg(value) AS mean FROM returned
    WHERE name NOT IN ('reward', 'turns', 'tool_calls', 'input_tokens', 'output_tokens') AND value IS NOT NULL
    GROUP BY dataset, policy, name
)
SELECT dataset, policy, name, mean FROM means
ORDER BY dataset, policy, name <> 'reward', name
"""
WANTED = """
    SEMI JOIN wanted_tasks AS w
        ON w.dataset = f.dataset AND w.task_id = f.task_id AND w.policy = f.policy
        AND f.rollout_index >= 0 AND f.rollout_index < w.num_repeats
"""


def averages(plan: Plan, wanted: bool = False) -> str:
    """Write the means as JSON: of the one dataset, or by dataset where there are several; of the one policy, or by
    policy: the rollouts of two never mix. wanted: only over the rollouts of the plan."""
    found = _averages(plan, wanted)
    by_dataset = {name: by if len(by) != 1 else next(iter(by.values())) for name, by in found.items()}
    return json.dumps(by_dataset if len(by_dataset) != 1 else next(iter(by_dataset.values())), indent=4)


def _averages(plan: Plan, wanted: bool) -> dict[str, dict[str, dict[str, float]]]:
    """dataset -> policy -> the mean of each numeric field over its rollouts."""
    con = connect(open_workspace(plan.data), plan.rows)
    out: dict[str, dict[str, dict[str, float]]] = {}
    for dataset, policy, name, mean in sql.rows(con, AVERAGES.format(only=WANTED if wanted else "")):
        if dataset in plan.datasets:
            out.setdefault(dataset, {}).setdefault(policy, {})[name] = mean
    return out
