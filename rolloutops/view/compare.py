"""Two policies on the tasks of a filter: the paired difference, the tasks that flip, where lengths and tools differ."""

from __future__ import annotations

from typing import Any

from rolloutops.config.resources import shipped
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.steps.step import Step, read_step
from rolloutops.store import sql
from rolloutops.view.filters import Filter, matching
from rolloutops.view.index import SEPARATOR, Moment, make_views, read

MOST_TASKS = 20
"""Tasks of a dataset and direction that are listed."""

SHAPES = """
SELECT dataset, policy, count(*) AS rollouts, avg(reward) AS mean_reward,
    median(output_tokens) AS median_output_tokens, quantile_cont(output_tokens, 0.9) AS p90_output_tokens,
    avg(turns) AS mean_turns, avg(tool_calls) AS mean_tool_calls, avg(tool_errors) AS mean_tool_errors,
    avg((finish_reason = 'length')::INTEGER) AS truncated, median(seconds) AS median_seconds
FROM {source}
WHERE policy IN ({a}, {b})
GROUP BY dataset, policy
ORDER BY dataset, policy != {a}
"""

TOOLS = """
WITH counted AS (
    SELECT dataset, policy, coalesce(tools_called, '') AS called, count(*) AS rollouts
    FROM {source}
    WHERE policy IN ({a}, {b})
    GROUP BY ALL
),
totals AS (SELECT dataset, policy, sum(rollouts) AS total FROM counted GROUP BY ALL),
apart AS (
    SELECT dataset, policy, unnest(string_split(called, '{separator}')) AS tool, rollouts
    FROM counted
    WHERE called != ''
)
SELECT dataset, tool, coalesce(sum(rollouts / total) FILTER (policy = {a}), 0)::DOUBLE AS share_a,
    coalesce(sum(rollouts / total) FILTER (policy = {b}), 0)::DOUBLE AS share_b
FROM apart
JOIN totals USING (dataset, policy)
GROUP BY ALL
ORDER BY dataset, abs(share_a - share_b) DESC, tool
"""


def policies(moment: Moment) -> list[str]:
    """The policies that have rollouts, those with most of them first."""
    found = read(
        moment, "SELECT policy, count(*) AS rollouts FROM small GROUP BY policy ORDER BY rollouts DESC, policy"
    )
    return [row["policy"] for row in found]


def compare(moment: Moment, chosen: Filter, a: str, b: str) -> dict[str, Any]:
    """Compare policy b with policy a. Raises UsageError where one has no rollouts."""
    known = policies(moment)
    for name in (a, b):
        if name not in known:
            raise UsageError(f"no rollouts of policy {name!r}{did_you_mean(name, known)}")
    source = matching(moment, chosen)
    names = {"source": source, "a": sql.literal(a), "b": sql.literal(b), "separator": SEPARATOR}
    return {
        "a": a,
        "b": b,
        "differences": _measure(moment, source, "compare", {"a": a, "b": b}),
        "flips": _measure(moment, source, "compare_tasks", {"a": a, "b": b, "most": MOST_TASKS}),
        "shapes": read(moment, SHAPES.format(**names)),
        "tools": read(moment, TOOLS.format(**names)),
    }


def _measure(moment: Moment, source: str, name: str, settings: dict[str, object]) -> list[dict[str, Any]]:
    """Run a metrics step of the program's own over rows of the index in place of the rollouts."""
    step = _step(name)
    make_views(moment, step.query)
    literals = {param.name: param.default for param in step.params.values()}
    literals |= {name: sql.literal(value) for name, value in settings.items()}
    query = f"WITH rollouts AS (SELECT * FROM {source}) SELECT * FROM (\n{step.query}\n)"
    kinds = {param.name: param.kind for param in step.params.values()}
    return read(moment, query, variables={name: f"({text})::{kinds[name]}" for name, text in literals.items()})


def _step(name: str) -> Step:
    return read_step(f"metrics/{name}", shipped("sql") / "metrics" / f"{name}.sql")
