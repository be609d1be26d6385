-- What the recipe asks for and what is there, by data set and policy: wanted, done, in flight (a batch is under
-- way), owed and given up.
SELECT dataset, policy, count(*) AS wanted,
    count(*) FILTER (state = 'done') AS done,
    count(*) FILTER (state = 'in_flight') AS in_flight,
    count(*) FILTER (state = 'owed') AS owed,
    count(*) FILTER (state = 'given_up') AS given_up,
    count(DISTINCT task_id) AS tasks,
    count(DISTINCT task_id) FILTER (state <> 'done') AS tasks_missing_some
FROM wanted_states
GROUP BY dataset, policy
ORDER BY dataset, policy
