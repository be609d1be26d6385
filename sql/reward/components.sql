-- Add a column `advantage` made of several rewards, such as correctness and format (GDPO; TRL's normalize_then_sum).
-- Each field of the verdict is normalized to mean 0 and standard deviation 1 within its task and policy, and the
-- weighted sum is normalized in the same way over all rollouts. So a field with a larger range does not dominate the
-- others. A field that a rollout lacks adds nothing.
-- param weights MAP(VARCHAR, DOUBLE)   the weight of each field of the verdict
-- check: SELECT w.dataset AS field, 'no rollout has this field' AS fault FROM entries(getvariable('weights')) AS w
--     ANTI JOIN (SELECT DISTINCT unnest(map_keys(metrics)) AS dataset FROM selected) AS m USING (dataset)
-- report: SELECT dataset, count(advantage) AS rollouts, min(advantage) AS lowest, max(advantage) AS highest
--     FROM result GROUP BY dataset ORDER BY dataset
WITH fields AS (
    SELECT s.dataset, s.task_id, s.policy, s.rollout_index, s.copy, w.dataset AS field, w.value AS weight,
        s.metrics[w.dataset] AS value
    FROM selected AS s
    CROSS JOIN entries(getvariable('weights')) AS w
    WHERE s.metrics[w.dataset] IS NOT NULL
),

-- Sorted, so that sums do not depend on the order in which rows are read.
groups AS (
    SELECT dataset, task_id, policy, field, list_avg(values) AS mean,
        coalesce(list_aggregate(values, 'stddev_samp'), 0) AS std
    FROM (
        SELECT dataset, task_id, policy, field, list_sort(list(value)) AS values
        FROM fields
        GROUP BY dataset, task_id, policy, field
    )
    GROUP BY ALL
),

sums AS (
    SELECT f.dataset, f.task_id, f.policy, f.rollout_index, f.copy,
        list_sum(list(f.weight * (f.value - g.mean) / (g.std + 1e-4) ORDER BY f.field)) AS total
    FROM fields AS f
    JOIN groups AS g ON g.dataset = f.dataset AND g.task_id = f.task_id AND g.policy = f.policy AND g.field = f.field
    GROUP BY f.dataset, f.task_id, f.policy, f.rollout_index, f.copy
),

batch AS (
    SELECT list_avg(totals) AS mean, coalesce(list_aggregate(totals, 'stddev_samp'), 0) AS std
    FROM (SELECT list_sort(list(total)) AS totals FROM sums)
)

SELECT s.*, (t.total - b.mean) / (b.std + 1e-4) AS advantage
FROM selected AS s
LEFT JOIN sums AS t USING (dataset, task_id, policy, rollout_index, copy)
CROSS JOIN batch AS b
