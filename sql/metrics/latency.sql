-- How long a rollout takes, by dataset and policy: quantiles of its total seconds and of those with the model, in tools
-- and in the verifier. share: of the total seconds of all rollouts; the verifier's seconds are not part of that total.
WITH times AS (
    SELECT dataset, policy, seconds AS total, unnest(['rollout', 'model', 'tools', 'verifier']) AS spent,
        unnest([seconds, model_seconds, tool_seconds, verify_seconds]) AS seconds
    FROM rollouts
),

totals AS (SELECT dataset, policy, sum(seconds) AS seconds FROM rollouts GROUP BY dataset, policy)

SELECT t.dataset, t.policy, t.spent, count(*) AS rollouts, avg(t.seconds) AS mean,
    quantile_cont(t.seconds, 0.5) AS p50, quantile_cont(t.seconds, 0.9) AS p90, quantile_cont(t.seconds, 0.95) AS p95,
    quantile_cont(t.seconds, 0.99) AS p99, max(t.seconds) AS max,
    sum(t.seconds) / nullif(any_value(totals.seconds), 0) AS share
FROM times AS t
JOIN totals ON totals.dataset = t.dataset AND totals.policy = t.policy
WHERE t.seconds IS NOT NULL
GROUP BY t.dataset, t.policy, t.spent
ORDER BY t.dataset, t.policy, list_position(['rollout', 'model', 'tools', 'verifier'], t.spent)
