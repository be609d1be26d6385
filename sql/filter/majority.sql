-- Keep the tasks on whose answer the policy agrees with itself: enough rollouts of a task give the same answer, as
-- extracted by the verifier (NeMo-Skills' MajorityFilter). The share is of all rollouts of the task, including those
-- without an answer.
-- param field         VARCHAR = '$.extracted'   JSON path of the answer in the verdict's details
-- param min_votes     BIGINT = 1                minimum number of rollouts that must agree
-- param min_share     DOUBLE = 0.5              minimum share of the rollouts that must agree
-- param only_majority BOOLEAN = false           also drop the rollouts that give another answer than the majority
WITH answers AS (
    SELECT dataset, task_id, policy, rollout_index, copy, details->>getvariable('field') AS given
    FROM selected
),

votes AS (
    SELECT dataset, task_id, policy, given, count(*) AS votes
    FROM answers
    GROUP BY dataset, task_id, policy, given
),

-- Of equally many votes, each answer is a majority's.
counts AS (
    SELECT dataset, task_id, policy, sum(votes) AS rollouts, max(votes) FILTER (given IS NOT NULL) AS most
    FROM votes
    GROUP BY dataset, task_id, policy
),

judged AS (
    SELECT a.dataset, a.task_id, a.policy, a.rollout_index, a.copy, CASE
        WHEN c.most IS NULL THEN 'no rollout of the task has an answer'
        WHEN c.most < getvariable('min_votes') THEN 'fewer votes than min_votes'
        WHEN c.most < round(getvariable('min_share') * c.rollouts, 9) THEN 'smaller majority than min_share'
        WHEN NOT getvariable('only_majority') THEN NULL
        WHEN a.given IS NULL THEN 'no answer'
        WHEN v.votes < c.most THEN 'not the answer of the majority'
    END AS fault
    FROM answers AS a
    JOIN counts AS c USING (dataset, task_id, policy)
    LEFT JOIN votes AS v USING (dataset, task_id, policy, given)
)

SELECT s.*, j.fault AS dropped
FROM selected AS s
JOIN judged AS j USING (dataset, task_id, policy, rollout_index, copy)
