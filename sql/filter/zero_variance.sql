-- Drop the groups whose rewards are all the same: they have no advantage to learn from (DAPO's dynamic sampling,
-- arXiv 2503.14476). A group is the rollouts of one task by one policy. Compared are the largest and the smallest
-- reward, which is exact, where a standard deviation is not. Rollouts without a reward are dropped.
-- param tolerance   DOUBLE = 0        largest difference that still counts as the same
-- param keep_single BOOLEAN = false   keep groups of one rollout, which have nothing to differ from
WITH spread AS (
    SELECT dataset, task_id, policy, count(*) AS n, min(reward) AS lowest, max(reward) AS highest
    FROM selected
    WHERE reward IS NOT NULL
    GROUP BY dataset, task_id, policy
)

SELECT s.*, CASE
    WHEN s.reward IS NULL THEN 'no reward'
    WHEN g.highest - g.lowest > getvariable('tolerance') THEN NULL
    WHEN g.n = 1 THEN CASE WHEN NOT getvariable('keep_single') THEN 'the only one of its group' END
    WHEN g.highest = g.lowest THEN format('all of the group have reward {}', g.highest)
    ELSE 'rewards of the group differ by no more than tolerance'
END AS dropped
FROM selected AS s
LEFT JOIN spread AS g USING (dataset, task_id, policy)
