-- The attempts that no longer count, with the verdicts and labels on them, and verdicts and labels that no longer count
-- themselves, each with its first reason. Without them no view of rollouts, pending or unverified ones says anything else.
-- kind: removed, edited (the task is gone, or was changed since), repeated (an earlier attempt counts), retried (it
-- failed, and a later attempt succeeded), verdicts (another one counts, or its attempt is not there), labels (its
-- attempt is not there).
WITH present AS (
    SELECT DISTINCT dataset, task_id
    FROM tasks
),

logged_tasks AS (
    SELECT DISTINCT dataset, task_id, row_hash
    FROM task_log
),

unedited AS (
    SELECT DISTINCT dataset, task_id, row_hash
    FROM tasks
),

-- An attempt whose task, as it was then, is in no task file is left: that file may come back.
changed AS (
    SELECT a.dataset, a.policy, a.attempt_id, if(p.task_id IS NULL, 'removed', 'edited') AS kind
    FROM attempts AS a
    SEMI JOIN logged_tasks AS l ON l.dataset = a.dataset AND l.task_id = a.task_id AND l.row_hash = a.row_hash
    ANTI JOIN unedited AS u ON u.dataset = a.dataset AND u.task_id = a.task_id AND u.row_hash = a.row_hash
    LEFT JOIN present AS p ON p.dataset = a.dataset AND p.task_id = a.task_id
),

repeated AS (
    SELECT DISTINCT dataset, policy, attempt_id, 'repeated' AS kind
    FROM repeated_attempts
),

failed AS (
    SELECT a.dataset, a.policy, a.attempt_id, a.task_id, a.rollout_index
    FROM attempts AS a
    SEMI JOIN unedited AS u ON u.dataset = a.dataset AND u.task_id = a.task_id AND u.row_hash = a.row_hash
    WHERE a.error IS NOT NULL
),

retried AS (
    SELECT f.dataset, f.policy, f.attempt_id, 'retried' AS kind
    FROM failed AS f
    SEMI JOIN good_attempts AS g
        ON g.dataset = f.dataset AND g.task_id = f.task_id AND g.policy = f.policy
        AND g.rollout_index = f.rollout_index
),

attempts_that_go AS (
    FROM changed
    UNION ALL
    FROM repeated
    UNION ALL
    FROM retried
),

-- Scores of people that count as verdicts are rows of labels.
remarks AS (
    SELECT 'verdicts' AS "table", v.dataset, v.policy, v.attempt_id, v.verdict_id AS id
    FROM verdicts AS v
    ANTI JOIN human_verdicts AS h ON h.dataset = v.dataset AND h.verdict_id = v.verdict_id
    UNION ALL
    SELECT 'labels', dataset, policy, attempt_id, label_id
    FROM label_log
),

on_attempts_that_go AS (
    SELECT r."table", r.dataset, r.policy, r.id, g.kind
    FROM remarks AS r
    JOIN attempts_that_go AS g ON g.dataset = r.dataset AND g.attempt_id = r.attempt_id
),

strays AS (
    SELECT r."table", r.dataset, r.policy, r.id, r."table" AS kind
    FROM remarks AS r
    ANTI JOIN attempts AS a ON a.dataset = r.dataset AND a.attempt_id = r.attempt_id
),

counted AS (
    SELECT dataset, attempt_id, max(verdict_id) AS verdict_id
    FROM good_verdicts
    GROUP BY dataset, attempt_id
),

others AS (
    SELECT r."table", r.dataset, r.policy, r.id, 'verdicts' AS kind
    FROM remarks AS r
    JOIN counted AS c ON c.dataset = r.dataset AND c.attempt_id = r.attempt_id AND c.verdict_id <> r.id
    ANTI JOIN attempts_that_go AS g ON g.dataset = r.dataset AND g.attempt_id = r.attempt_id
    WHERE r."table" = 'verdicts'
)

SELECT DISTINCT 'attempts' AS "table", dataset, policy, attempt_id AS id, kind FROM attempts_that_go
UNION ALL
SELECT DISTINCT "table", dataset, policy, id, kind
FROM (FROM on_attempts_that_go UNION ALL FROM strays UNION ALL FROM others)
