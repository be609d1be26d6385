-- What became of every attempt on disk: counted, or not counted and why. The sums are the rows of the tables.
-- Variable datasets VARCHAR[]: the datasets that the recipe names.
-- No join meets a key twice, whatever the tables hold: no attempt is told of twice.
WITH logged_tasks AS (
    SELECT DISTINCT dataset, task_id, row_hash
    FROM task_log
),

present AS (
    SELECT DISTINCT dataset, task_id
    FROM tasks
),

unedited AS (
    SELECT DISTINCT dataset, task_id, row_hash
    FROM tasks
),

places AS (
    SELECT dataset, task_id, row_number() OVER (PARTITION BY dataset ORDER BY part, line, task_id) AS place
    FROM tasks
    WHERE dataset IN (SELECT dataset FROM plan WHERE row_limit IS NOT NULL)
),

beyond AS (
    SELECT DISTINCT s.dataset, s.task_id, p.policy
    FROM places AS s
    JOIN plan AS p ON p.dataset = s.dataset AND s.place > p.row_limit
),

-- Few, in a run that goes well: what is not done although it was tried, and what another attempt stands for.
tried AS (
    SELECT dataset, task_id, row_hash, policy, rollout_index, any_value(status) AS status
    FROM unfinished
    WHERE last_error IS NOT NULL
    GROUP BY dataset, task_id, row_hash, policy, rollout_index
),

repeated AS (
    SELECT DISTINCT dataset, attempt_id
    FROM repeated_attempts
),

told AS (
    SELECT a.dataset, a.policy,
        CASE
            WHEN NOT list_contains(getvariable('datasets'), a.dataset) THEN 'the recipe does not name this dataset'
            WHEN l.task_id IS NULL THEN 'its task, as it was then, is in no task file'
            WHEN now.task_id IS NULL THEN 'its task is gone from the input'
            WHEN same.task_id IS NULL THEN 'its task was edited since'
            WHEN p.policy IS NULL AND starts_with(a.engine, 'import:')
                THEN 'imported: in every view, but not requested by the recipe'
            WHEN p.policy IS NULL THEN 'the recipe does not request this policy'
            WHEN a.rollout_index >= p.num_repeats THEN 'its rollout_index is beyond num_repeats'
            WHEN b.task_id IS NOT NULL THEN 'its task is beyond limit'
            WHEN r.attempt_id IS NOT NULL THEN 'an earlier attempt of the same rollout counts'
            WHEN a.error IS NULL THEN 'counted'
            WHEN t.status IS NULL THEN 'it failed; a later attempt succeeded'
            WHEN t.status = 'given_up' THEN 'it failed; the rollout is given up'
            ELSE 'it failed; the rollout is still pending'
        END AS account
    FROM attempts AS a
    LEFT JOIN logged_tasks AS l ON l.dataset = a.dataset AND l.task_id = a.task_id AND l.row_hash = a.row_hash
    LEFT JOIN present AS now ON now.dataset = a.dataset AND now.task_id = a.task_id
    LEFT JOIN unedited AS same
        ON same.dataset = a.dataset AND same.task_id = a.task_id AND same.row_hash = a.row_hash
    LEFT JOIN plan AS p ON p.dataset = a.dataset AND p.policy = a.policy
    LEFT JOIN beyond AS b ON b.dataset = a.dataset AND b.task_id = a.task_id AND b.policy = a.policy
    LEFT JOIN repeated AS r ON r.dataset = a.dataset AND r.attempt_id = a.attempt_id
    LEFT JOIN tried AS t
        ON t.dataset = a.dataset AND t.task_id = a.task_id AND t.row_hash = a.row_hash AND t.policy = a.policy
        AND t.rollout_index = a.rollout_index
)

SELECT dataset, policy, account, count(*) AS attempts
FROM told
GROUP BY dataset, policy, account
ORDER BY dataset, policy, account <> 'counted', attempts DESC, account
