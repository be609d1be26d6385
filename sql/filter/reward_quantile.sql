-- Keep the rollouts with the best rewards: from one quantile to another, both inclusive, of all rewards of the same
-- dataset, policy or task. Equal rewards are kept or dropped together, so more rollouts may be kept than the share
-- requests. Rollouts without a reward are dropped.
-- param low  DOUBLE = 0.75        lowest quantile kept: 0.75 keeps the best quarter
-- param high DOUBLE = 1.0         highest quantile kept
-- param per  VARCHAR = 'policy'   scope of the ranking: dataset, policy (within a dataset) or task
-- check: SELECT getvariable('per') AS per, 'dataset, policy, task' AS must_be_one_of
--     WHERE getvariable('per') NOT IN ('dataset', 'policy', 'task')
-- check: SELECT getvariable('low') AS low, getvariable('high') AS high, 'must be 0 <= low <= high <= 1' AS fault
--     WHERE NOT (0 <= getvariable('low') AND getvariable('low') <= getvariable('high') AND getvariable('high') <= 1)
WITH placed AS (
    SELECT dataset, task_id, policy, rollout_index, copy, reward,
        CASE WHEN getvariable('per') = 'dataset' THEN '' ELSE policy END AS of_policy,
        CASE WHEN getvariable('per') = 'task' THEN task_id ELSE '' END AS of_task
    FROM selected
    WHERE reward IS NOT NULL
),

-- The quantile q of n rewards is the one in place ceil(q * n), counted from 1, in rising order.
ranked AS (
    SELECT dataset, of_policy, of_task, list_sort(list(reward)) AS rewards
    FROM placed
    GROUP BY dataset, of_policy, of_task
),

bounds AS (
    SELECT dataset, of_policy, of_task,
        rewards[greatest(ceil(round(getvariable('low') * len(rewards), 9)), 1)::BIGINT] AS lowest,
        rewards[greatest(ceil(round(getvariable('high') * len(rewards), 9)), 1)::BIGINT] AS highest
    FROM ranked
),

judged AS (
    SELECT p.dataset, p.task_id, p.policy, p.rollout_index, p.copy, CASE
        WHEN p.reward < b.lowest THEN 'reward below the quantile low'
        WHEN p.reward > b.highest THEN 'reward above the quantile high'
    END AS fault
    FROM placed AS p
    JOIN bounds AS b USING (dataset, of_policy, of_task)
)

SELECT s.*, CASE WHEN s.reward IS NULL THEN 'no reward' ELSE j.fault END AS dropped
FROM selected AS s
LEFT JOIN judged AS j USING (dataset, task_id, policy, rollout_index, copy)
