-- Tasks by the share of their rollouts that reach a reward of 1: never, always, and ten steps between. Tasks with one
-- rollout have no rate. `used`: those of them that are in the files.
WITH rates AS (
    SELECT dataset, policy, task_id, avg((reward >= 1)::INTEGER) AS rate
    FROM rollouts
    WHERE reward IS NOT NULL
    GROUP BY dataset, policy, task_id
    HAVING count(*) > 1
),

placed AS (
    SELECT r.*, u.task_id IS NOT NULL AS used, CASE rate
        WHEN 0 THEN 0
        WHEN 1 THEN 11
        ELSE 1 + least(9, floor(rate * 10 + 1e-9))::INTEGER
    END AS place
    FROM rates AS r
    LEFT JOIN (SELECT DISTINCT dataset, policy, task_id FROM used) AS u USING (dataset, policy, task_id)
)

SELECT place, count(*) AS tasks, count(*) FILTER (used) AS used
FROM placed
GROUP BY place
ORDER BY place
