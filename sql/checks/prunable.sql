-- The attempts and verdicts that no longer count, each with its first reason. Without them no view of rollouts, pending
-- or unverified ones says anything else.
-- kind: removed, edited (the task is gone, or was changed since), repeated (an earlier attempt counts), retried (it
-- failed, and a later attempt succeeded), verdicts (another one counts, or its attempt is not there).
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

on_attempts_that_go AS (
    SELECT v.dataset, v.policy, v.verdict_id, g.kind
    FROM verdicts AS v
    JOIN attempts_that_go AS g ON g.dataset = v.dataset AND g.attempt_id = v.attempt_id
),

strays AS (
    SELECT v.dataset, v.policy, v.verdict_id, 'verdicts' AS kind
    FROM verdicts AS v
    ANTI JOIN attempts AS a ON a.dataset = v.dataset AND a.attempt_id = v.attempt_id
),

counted AS (
    SELECT dataset, attempt_id, max(verdict_id) AS verdict_id
    FROM good_verdicts
    GROUP BY dataset, attempt_id
),

others AS (
    SELECT v.dataset, v.policy, v.verdict_id, 'verdicts' AS kind
    FROM verdicts AS v
    JOIN counted AS c ON c.dataset = v.dataset AND c.attempt_id = v.attempt_id AND c.verdict_id <> v.verdict_id
    ANTI JOIN attempts_that_go AS g ON g.dataset = v.dataset AND g.attempt_id = v.attempt_id
)

SELECT DISTINCT 'attempts' AS "table", dataset, policy, attempt_id AS id, kind FROM attempts_that_go
UNION ALL
SELECT DISTINCT 'verdicts', dataset, policy, verdict_id, kind
FROM (FROM on_attempts_that_go UNION ALL FROM strays UNION ALL FROM others)
