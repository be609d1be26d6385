"""The commands that wrote to a workspace: what runs, how far each policy is, its pace."""

from __future__ import annotations

from typing import Any

from rolloutops.collect.live import running
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace
from rolloutops.view.index import Moment, make_views, read

MOST_RUNS = 50
"""Runs that are listed, the newest first."""

SPANS = 60
"""Parts that the time of a run is divided into."""

RUNS = """
SELECT s.run_id, s.command, epoch_ms(s.happened_at) AS began, e.exit_code, e.seconds, s.host, s.git_commit
FROM runs AS s
LEFT JOIN runs AS e ON e.run_id = s.run_id AND e.event = 'end'
WHERE s.event = 'start'
ORDER BY s.run_id DESC
LIMIT {most}
"""

PROGRESS = """
WITH done AS (
    SELECT dataset, policy, count(*) AS rollouts, count(reward) AS verified, avg(reward) AS mean_reward,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
    FROM small GROUP BY ALL
),
failures AS (SELECT dataset, policy, count(*) AS failures FROM failed GROUP BY ALL),
expected AS (SELECT dataset, policy, count(*) AS wanted FROM wanted GROUP BY ALL)
SELECT dataset, policy, w.wanted, coalesce(d.rollouts, 0) AS rollouts, coalesce(d.verified, 0) AS verified,
    d.mean_reward, d.input_tokens::BIGINT AS input_tokens, d.output_tokens::BIGINT AS output_tokens,
    coalesce(f.failures, 0) AS failures
FROM expected AS w
FULL JOIN done AS d USING (dataset, policy)
FULL JOIN failures AS f USING (dataset, policy)
ORDER BY dataset, policy
"""

PACE = """
WITH ended AS (
    SELECT epoch(started_at) + seconds AS ended_at, output_tokens AS tokens, 0 AS failed FROM small WHERE run_id = {run}
    UNION ALL
    SELECT epoch(started_at), 0, 1 FROM failed WHERE run_id = {run}
),
ends AS (SELECT min(ended_at) AS low, max(ended_at) AS high FROM ended)
SELECT least(floor((ended_at - low) / greatest(high - low, 0.001) * {spans}), {spans} - 1)::INTEGER AS place,
    any_value(low) * 1000 AS low, any_value(high) * 1000 AS high,
    count(*) FILTER (WHERE failed = 0) AS rollouts, sum(tokens)::BIGINT AS tokens, sum(failed)::BIGINT AS failures
FROM ended
CROSS JOIN ends
WHERE ended_at IS NOT NULL
GROUP BY place
ORDER BY place
"""


def runs(moment: Moment, workspace: Workspace, run_id: str) -> dict[str, Any]:
    """Return what runs now, the last runs, each policy's progress, and the pace of one run (default: the newest)."""
    make_views(moment, "runs wanted")
    shown = run_id or _newest(moment)
    pace = PACE.format(run=sql.literal(shown), spans=SPANS)
    return {
        "running": running(workspace),
        "runs": read(moment, RUNS.format(most=MOST_RUNS)),
        "progress": read(moment, PROGRESS),
        "shown": shown,
        "spans": SPANS,
        "pace": read(moment, pace),
    }


def _newest(moment: Moment) -> str:
    """The newest run that tried a rollout."""
    ((newest),) = read(
        moment, "SELECT max(run_id) AS run_id FROM (SELECT run_id FROM small UNION ALL SELECT run_id FROM failed)"
    )
    return newest["run_id"] or ""
