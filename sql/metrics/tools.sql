-- Tool calls by dataset, policy and tool. How many, in how many rollouts, the mean reward of those rollouts, and the
-- share of calls that failed, if the engine reports failures. The row `(any)` is for all tools together, `(none)` for
-- rollouts without a call. A call counts as failed if its result begins with `Error: `, in rollouts that count failed
-- calls.
WITH used AS (
    SELECT dataset, policy, attempt_id, reward, tool_errors IS NOT NULL AS tells, unnest(tool_names) AS tool
    FROM rollouts
    WHERE tool_calls > 0
),

by_rollout AS (
    SELECT dataset, policy, tool, attempt_id, any_value(reward) AS reward, any_value(tells) AS tells, count(*) AS calls
    FROM used
    GROUP BY dataset, policy, tool, attempt_id
),

-- The results in the few conversations in which a call failed, in the order of the calls.
results AS (
    SELECT a.dataset, a.policy, unnest(a.tool_names) AS tool, unnest(list_transform(
        list_filter(from_json(a.completion, '[{"role":"VARCHAR","content":"JSON"}]'), lambda m: m.role = 'tool'),
        lambda m: content_text(m.content)
    )) AS result
    FROM attempts AS a
    SEMI JOIN (SELECT dataset, attempt_id FROM rollouts WHERE tool_errors > 0) AS f
        ON f.dataset = a.dataset AND f.attempt_id = a.attempt_id
),

failed AS (
    SELECT dataset, policy, tool, count(*) AS failures
    FROM results
    WHERE starts_with(result, 'Error: ')
    GROUP BY dataset, policy, tool
),

by_tool AS (
    SELECT dataset, policy, tool, sum(calls)::BIGINT AS calls, sum(calls) FILTER (tells) AS calls_told,
        count(*) AS rollouts, avg(reward) AS mean_reward
    FROM by_rollout
    GROUP BY dataset, policy, tool
),

lines AS (
    SELECT t.dataset, t.policy, 2 AS place, t.tool, t.calls, coalesce(f.failures, 0) / t.calls_told AS failed_share,
        t.rollouts, t.mean_reward
    FROM by_tool AS t
    LEFT JOIN failed AS f ON f.dataset = t.dataset AND f.policy = t.policy AND f.tool = t.tool
    UNION ALL
    SELECT dataset, policy, if(tool_calls > 0, 0, 1), if(tool_calls > 0, '(any)', '(none)'), sum(tool_calls)::BIGINT,
        sum(tool_errors) / nullif(sum(tool_calls) FILTER (tool_errors IS NOT NULL), 0), count(*), avg(reward)
    FROM rollouts
    GROUP BY ALL
)

SELECT dataset, policy, tool, calls, failed_share, rollouts,
    rollouts / sum(rollouts) FILTER (place < 2) OVER (PARTITION BY dataset, policy) AS share_of_rollouts, mean_reward
FROM lines
ORDER BY dataset, policy, place, calls DESC, tool
