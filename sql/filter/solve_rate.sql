-- Keep the tasks that the policy solves sometimes: those whose mean reward is between two bounds. The mean is computed
-- for each policy separately, over its rollouts with a reward. Rollouts without one are dropped.
-- param low    DOUBLE = 0.1        lowest mean reward kept
-- param high   DOUBLE = 0.9        highest mean reward kept
-- param strict BOOLEAN = false     exclude the bounds
WITH task_means AS (
    -- Summed in sorted order and rounded, so that the mean does not depend on the order in which rows are read.
    SELECT dataset, task_id, policy, round(list_avg(list_sort(list(reward))), 12) AS mean_reward
    FROM selected
    WHERE reward IS NOT NULL
    GROUP BY dataset, task_id, policy
)

SELECT s.*, CASE
    WHEN s.reward IS NULL THEN 'no reward'
    WHEN t.mean_reward < getvariable('low') OR (getvariable('strict') AND t.mean_reward = getvariable('low'))
        THEN 'too hard: mean reward below low'
    WHEN t.mean_reward > getvariable('high') OR (getvariable('strict') AND t.mean_reward = getvariable('high'))
        THEN 'too easy: mean reward above high'
END AS dropped
FROM selected AS s
LEFT JOIN task_means AS t USING (dataset, task_id, policy)
