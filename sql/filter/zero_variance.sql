-- Drop the groups whose rewards are all the same: they have no advantage to learn from (DAPO's dynamic sampling, arXiv
-- 2503.14476). A group is the rollouts of one task by one policy. The largest and the smallest reward are compared,
-- which is exact; a standard deviation would not be. Rollouts without a reward are dropped.
-- param tolerance   DOUBLE = 0        maximum difference that counts as the same
-- param keep_single BOOLEAN = false   keep groups of one rollout
WITH spread AS (
    SELECT dataset, task_id, policy, count(*) AS n, min(reward) AS lowest, max(reward) AS highest
    FROM selected
    WHERE reward IS NOT NULL
    GROUP BY dataset, task_id, policy
)

SELECT s.*, CASE
    WHEN s.reward IS NULL THEN 'no reward'
    WHEN g.highest - g.lowest > getvariable('tolerance') THEN NULL
    WHEN g.n = 1 THEN CASE WHEN NOT getvariable('keep_single') THEN 'the only rollout of its group' END
    WHEN g.highest = g.lowest THEN format('all rewards of the group are {}', g.highest)
    ELSE 'rewards of the group differ by no more than tolerance'
END AS dropped
FROM selected AS s
LEFT JOIN spread AS g USING (dataset, task_id, policy)
