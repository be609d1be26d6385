-- Tool calls by data set, policy and tool: how many, in how many rollouts, and the mean reward of those. The row
-- `(any)` stands for all tools together, and has the share of calls that failed; `(none)` for rollouts without a call.
WITH calls AS (
    SELECT dataset, policy, attempt_id, reward, unnest(tool_names) AS tool FROM rollouts
),

by_tool AS (
    SELECT dataset, policy, tool, attempt_id, any_value(reward) AS reward, count(*) AS calls
    FROM calls
    GROUP BY dataset, policy, tool, attempt_id
),

lines AS (
    SELECT dataset, policy, 2 AS place, tool, sum(calls) AS calls, NULL AS failed_share, count(*) AS rollouts,
        avg(reward) AS mean_reward
    FROM by_tool
    GROUP BY dataset, policy, tool
    UNION ALL
    SELECT dataset, policy, if(tool_calls > 0, 0, 1), if(tool_calls > 0, '(any)', '(none)'), sum(tool_calls),
        sum(tool_errors) / nullif(sum(tool_calls), 0), count(*), avg(reward)
    FROM rollouts
    GROUP BY ALL
)

SELECT dataset, policy, tool, calls, failed_share, rollouts,
    rollouts / sum(rollouts) FILTER (place < 2) OVER (PARTITION BY dataset, policy) AS share_of_rollouts, mean_reward
FROM lines
ORDER BY dataset, policy, place, calls DESC, tool
