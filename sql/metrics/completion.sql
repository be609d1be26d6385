-- Progress by dataset and policy: rollouts wanted, done, submitted in a batch, pending and given up.
SELECT dataset, policy, count(*) AS wanted,
    count(*) FILTER (status = 'done') AS done,
    count(*) FILTER (status = 'submitted') AS submitted,
    count(*) FILTER (status = 'pending') AS pending,
    count(*) FILTER (status = 'given_up') AS given_up,
    count(DISTINCT task_id) AS tasks,
    count(DISTINCT task_id) FILTER (status <> 'done') AS tasks_missing_some
FROM wanted_states
GROUP BY dataset, policy
ORDER BY dataset, policy
