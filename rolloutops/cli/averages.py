"""The mean of each numeric field of the rollouts, which `collect` and `verify` print at their end."""

from __future__ import annotations

import json

from rolloutops.config.plan import Plan
from rolloutops.store import sql
from rolloutops.store.workspace import connect, open_workspace

AVERAGES = """
WITH fields AS (
    SELECT dataset, policy, unnest(map_entries(map_concat(
        metrics,
        MAP {{
            'reward': reward, 'turns': turns::DOUBLE, 'tool_calls': tool_calls::DOUBLE,
            'input_tokens': input_tokens::DOUBLE, 'output_tokens': output_tokens::DOUBLE
        }}
    ))) AS field
    FROM rollouts
    {only}
)
SELECT dataset, policy, field.key AS name, avg(field.value) AS mean
FROM fields WHERE field.value IS NOT NULL
GROUP BY dataset, policy, name ORDER BY dataset, policy, name <> 'reward', name
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
    only = "SEMI JOIN wanted USING (dataset, task_id, policy, rollout_index)" if wanted else ""
    for dataset, policy, name, mean in sql.rows(con, AVERAGES.format(only=only)):
        if dataset in plan.datasets:
            out.setdefault(dataset, {}).setdefault(policy, {})[name] = mean
    return out
