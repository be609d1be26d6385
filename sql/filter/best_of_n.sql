-- Keep the best rollout or rollouts of each task (best-of-n sampling). Rollouts without a reward are dropped.
-- param per_task    INTEGER = 1        maximum rollouts kept per task
-- param min_reward  DOUBLE = '-inf'    lowest reward kept
-- param same_policy BOOLEAN = false    keep the best of each policy separately
-- param ties        VARCHAR = 'seed'   which of equal rewards comes first: by seed, the first, or the shortest
-- param seed        BIGINT = 42        seed of the choice among equal ones
-- check: SELECT getvariable('ties') AS ties, 'seed, first, shortest' AS must_be_one_of
--     WHERE getvariable('ties') NOT IN ('seed', 'first', 'shortest')
WITH ranked AS (
    SELECT dataset, task_id,
        max({'reward': reward, 'rank': rank, 'lot': lot, 'answer': answer}, getvariable('per_task')) AS best
    FROM answers('selected', getvariable('same_policy'), getvariable('ties'), getvariable('seed'))
    WHERE reward >= getvariable('min_reward')
    GROUP BY dataset, task_id, pool
),

kept AS (
    SELECT dataset, task_id, b.answer.policy AS policy, b.answer.rollout_index AS rollout_index, true AS best
    FROM (SELECT dataset, task_id, unnest(best) AS b FROM ranked)
)

SELECT s.*, CASE
    WHEN k.best THEN NULL
    WHEN s.reward IS NULL THEN 'no reward'
    WHEN s.reward < getvariable('min_reward') THEN 'reward below min_reward'
    ELSE 'not among the best of its task'
END AS dropped
FROM selected AS s
LEFT JOIN kept AS k USING (dataset, task_id, policy, rollout_index)
