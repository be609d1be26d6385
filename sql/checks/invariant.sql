-- Every wanted rollout is exactly one of done, owed, in flight and given up, and no rollout occurs twice.
-- Each row that comes back is a fault: the key, and how often it is done, owed, in flight and given up.
WITH keyed AS (
    SELECT dataset, task_id, policy, rollout_index, 0 AS done, 0 AS owed, 0 AS in_flight, 0 AS given_up, 1 AS wanted
    FROM wanted
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, 1, 0, 0, 0, 0 FROM rollouts
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, 0, 1, 0, 0, 0 FROM owed
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, 0, 0, 1, 0, 0 FROM in_flight
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, 0, 0, 0, 1, 0 FROM given_up
),

counted AS (
    SELECT dataset, task_id, policy, rollout_index, sum(wanted) AS wanted, sum(done) AS done, sum(owed) AS owed,
        sum(in_flight) AS in_flight, sum(given_up) AS given_up
    FROM keyed
    GROUP BY dataset, task_id, policy, rollout_index
)

SELECT *
FROM counted
WHERE done > 1
    OR (wanted = 1 AND done + owed + in_flight + given_up <> 1)
    OR (wanted = 0 AND owed + in_flight + given_up > 0)
    OR wanted > 1
ORDER BY ALL;
