-- The tasks on which two policies differ most, by dataset: a task's mean reward with each policy, and b - a.
-- param a    VARCHAR        the baseline policy
-- param b    VARCHAR        the policy compared with the baseline
-- param most INTEGER = 10   maximum tasks per dataset and direction
WITH tasks_of AS (
    SELECT dataset, task_id, count(*) FILTER (policy = getvariable('a')) AS rollouts_a,
        count(*) FILTER (policy = getvariable('b')) AS rollouts_b,
        avg(reward) FILTER (policy = getvariable('a')) AS mean_a,
        avg(reward) FILTER (policy = getvariable('b')) AS mean_b
    FROM rollouts
    WHERE reward IS NOT NULL AND policy IN (getvariable('a'), getvariable('b'))
    GROUP BY dataset, task_id
),

paired AS (
    SELECT *, mean_b - mean_a AS difference FROM tasks_of WHERE abs(mean_b - mean_a) > 1e-12
)

SELECT dataset, task_id, rollouts_a, rollouts_b, mean_a, mean_b, difference
FROM paired
QUALIFY row_number() OVER (
    PARTITION BY dataset, difference > 0 ORDER BY abs(difference) DESC, task_id
) <= getvariable('most')
ORDER BY dataset, difference, task_id
