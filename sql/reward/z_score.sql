-- Replace each reward with its distance from its dataset's mean, in standard deviations (n - 1). If all rewards of a
-- dataset are equal, they become 0.
-- param by_policy BOOLEAN = false   standardize each policy of a dataset separately
-- report: SELECT dataset, count(reward) AS rollouts, min(reward) AS lowest, max(reward) AS highest
--     FROM result GROUP BY dataset ORDER BY dataset
WITH rewards AS (
    -- Sorted, so that sums do not depend on the order in which rows are read.
    SELECT dataset, if(getvariable('by_policy'), policy, '') AS pool, list_sort(list(reward)) AS rewards
    FROM selected
    WHERE reward IS NOT NULL
    GROUP BY dataset, pool
),

spread AS (
    SELECT dataset, pool, list_avg(rewards) AS mean, list_aggregate(rewards, 'stddev_samp') AS std FROM rewards
)

SELECT s.* REPLACE (coalesce((s.reward - p.mean) / nullif(p.std, 0), s.reward - p.mean) AS reward)
FROM selected AS s
LEFT JOIN spread AS p ON p.dataset = s.dataset AND p.pool = if(getvariable('by_policy'), s.policy, '')
