-- Keep the tasks that the policy solves sometimes: those whose mean reward lies between two bounds, both included.
-- A task is judged for each policy by itself, over its rollouts that have a reward. Rollouts without one are dropped.
-- param low  DOUBLE = 0.1   lowest mean reward kept
-- param high DOUBLE = 0.9   highest mean reward kept
WITH task_means AS (
    -- Summed in sorted order and rounded, so that the mean does not depend on the order in which rows are read.
    SELECT dataset, task_id, policy, round(list_avg(list_sort(list(reward))), 12) AS mean_reward
    FROM selected
    WHERE reward IS NOT NULL
    GROUP BY dataset, task_id, policy
)

SELECT s.*
FROM selected AS s
SEMI JOIN (
    SELECT * FROM task_means WHERE mean_reward BETWEEN getvariable('low') AND getvariable('high')
) AS t USING (dataset, task_id, policy)
WHERE s.reward IS NOT NULL
