-- The views that read the index where there is one, by the plain rules: each reads the tables alone. The other views of
-- sql/views.sql stand on these.

-- tasks: what the input holds now. An edit appends a higher version, a removal appends a row that says so.
CREATE OR REPLACE VIEW tasks AS
WITH edited AS (
    SELECT dataset, task_id, max(version) AS version
    FROM task_log
    WHERE version > 0
    GROUP BY dataset, task_id
)
SELECT t.* EXCLUDE (removed)
FROM task_log AS t
ANTI JOIN edited AS e ON e.dataset = t.dataset AND e.task_id = t.task_id AND e.version > t.version
WHERE NOT t.removed;

-- repeated_attempts: in the log a rollout may occur twice. Its first attempt counts; these are the others, and few.
CREATE OR REPLACE VIEW repeated_attempts AS
WITH repeated AS (
    SELECT dataset, task_id, policy, rollout_index
    FROM attempts
    WHERE error IS NULL
    GROUP BY dataset, task_id, policy, rollout_index
    HAVING count(*) > 1
),
good AS (
    SELECT dataset, task_id, policy, rollout_index, attempt_id
    FROM attempts
    SEMI JOIN repeated USING (dataset, task_id, policy, rollout_index)
    SEMI JOIN tasks USING (dataset, task_id, row_hash)
    WHERE error IS NULL
)
SELECT *
FROM good
ANTI JOIN (SELECT dataset, min(attempt_id) AS attempt_id FROM good GROUP BY dataset, task_id, policy, rollout_index)
    USING (dataset, attempt_id);

-- older_verdicts: an attempt may have several of them. The newest counts; these are the others, and few.
CREATE OR REPLACE VIEW older_verdicts AS
WITH repeated AS (
    SELECT dataset, attempt_id FROM verdicts GROUP BY dataset, attempt_id HAVING count(*) > 1
),
several AS (
    SELECT dataset, attempt_id, verdict_id
    FROM present_verdicts
    SEMI JOIN repeated USING (dataset, attempt_id)
)
SELECT *
FROM several
ANTI JOIN (SELECT dataset, max(verdict_id) AS verdict_id FROM several GROUP BY dataset, attempt_id)
    USING (dataset, verdict_id);

-- wanted: every rollout that the recipe asks for, as keys.
CREATE OR REPLACE VIEW wanted AS
WITH places AS (
    SELECT dataset, task_id, row_number() OVER (PARTITION BY dataset ORDER BY part, line, task_id) AS place
    FROM tasks
    WHERE dataset IN (SELECT dataset FROM plan WHERE row_limit IS NOT NULL)
)
SELECT t.dataset, t.task_id, t.row_hash, t.part, t.line, p.policy, p.max_attempts,
    unnest(range(p.num_repeats))::INTEGER AS rollout_index
FROM tasks AS t
JOIN plan AS p ON p.dataset = t.dataset
LEFT JOIN places AS s ON s.dataset = t.dataset AND s.task_id = t.task_id
WHERE p.row_limit IS NULL OR s.place <= p.row_limit;

-- unfinished: the wanted rollouts that are not done: pending, submitted in a batch, or given up (`status`). `attempt`
-- is the number of the next attempt, `tries` how many count: an endpoint that was not reached, or refused for now or
-- whoever asks, has not tried it. `state` is `status` in the words of earlier versions: owed and in_flight.
CREATE OR REPLACE VIEW unfinished AS
WITH done AS (
    SELECT dataset, task_id, row_hash, policy, rollout_index
    FROM attempts
    WHERE error IS NULL
),
failed AS (
    SELECT dataset, task_id, row_hash, policy, rollout_index,
        bool_or(final) AS refused,
        max(attempt) AS last_attempt,
        count(*) FILTER (WHERE error NOT IN ('forbidden', 'loading', 'rate_limited', 'unauthorized', 'unreachable')) AS tries,
        max_by(error, attempt) AS last_error
    FROM attempts
    WHERE error IS NOT NULL
    GROUP BY dataset, task_id, row_hash, policy, rollout_index
),
sent AS (
    SELECT DISTINCT dataset, task_id, row_hash, policy, rollout_index
    FROM under_way
)
SELECT w.dataset, w.task_id, w.row_hash, w.part, w.line, w.policy, w.rollout_index,
    coalesce(f.last_attempt, 0)::INTEGER + 1 AS attempt, coalesce(f.tries, 0)::INTEGER AS tries, f.last_error,
    CASE
        WHEN sent.task_id IS NOT NULL THEN 'submitted'
        WHEN f.refused OR f.tries >= w.max_attempts THEN 'given_up'
        ELSE 'pending'
    END AS status,
    CASE status WHEN 'submitted' THEN 'in_flight' WHEN 'pending' THEN 'owed' ELSE status END AS state
FROM wanted AS w
ANTI JOIN done AS d
    ON d.dataset = w.dataset AND d.task_id = w.task_id AND d.row_hash = w.row_hash
    AND d.policy = w.policy AND d.rollout_index = w.rollout_index
LEFT JOIN failed AS f
    ON f.dataset = w.dataset AND f.task_id = w.task_id AND f.row_hash = w.row_hash
    AND f.policy = w.policy AND f.rollout_index = w.rollout_index
LEFT JOIN sent
    ON sent.dataset = w.dataset AND sent.task_id = w.task_id AND sent.row_hash = w.row_hash
    AND sent.policy = w.policy AND sent.rollout_index = w.rollout_index;
