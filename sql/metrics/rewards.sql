-- The reward and every number that the verifier returned, by dataset and policy: mean, extremes, median, standard
-- deviation (n - 1), and the share of rollouts that have it.
WITH returned AS (
    SELECT dataset, policy, unnest(map_keys(metrics)) AS metric, unnest(map_values(metrics)) AS number FROM rollouts
),

numbers AS (
    SELECT dataset, policy, 'reward' AS metric, reward AS number FROM rollouts
    UNION ALL
    SELECT dataset, policy, metric, number FROM returned WHERE metric <> 'reward'
),

totals AS (SELECT dataset, policy, count(*) AS rollouts FROM rollouts GROUP BY dataset, policy)

SELECT n.dataset, n.policy, n.metric, any_value(t.rollouts) AS rollouts,
    round(count(n.number) / any_value(t.rollouts), 4) AS coverage,
    avg(n.number) AS mean, max(n.number) AS max, min(n.number) AS min, median(n.number) AS median,
    stddev_samp(n.number) AS std
FROM numbers AS n
JOIN totals AS t ON t.dataset = n.dataset AND t.policy = n.policy
GROUP BY n.dataset, n.policy, n.metric
ORDER BY n.dataset, n.policy, n.metric <> 'reward', n.metric
