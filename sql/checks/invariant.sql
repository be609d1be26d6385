-- Every wanted rollout is exactly one of done, pending, submitted and given up, and no rollout occurs twice.
-- Each row that comes back is a fault: the key, and how often it is done, pending, submitted and given up.
WITH keyed AS (
    SELECT dataset, task_id, policy, rollout_index, 0 AS done, 0 AS pending, 0 AS submitted, 0 AS given_up, 1 AS wanted
    FROM wanted
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, 1, 0, 0, 0, 0 FROM rollouts
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, 0, 1, 0, 0, 0 FROM pending
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, 0, 0, 1, 0, 0 FROM submitted
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, 0, 0, 0, 1, 0 FROM given_up
),

counted AS (
    SELECT dataset, task_id, policy, rollout_index, sum(wanted) AS wanted, sum(done) AS done, sum(pending) AS pending,
        sum(submitted) AS submitted, sum(given_up) AS given_up
    FROM keyed
    GROUP BY dataset, task_id, policy, rollout_index
)

SELECT *
FROM counted
WHERE done > 1
    OR (wanted = 1 AND done + pending + submitted + given_up <> 1)
    OR (wanted = 0 AND pending + submitted + given_up > 0)
    OR wanted > 1
ORDER BY ALL;
