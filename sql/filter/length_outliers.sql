-- Drop the rollouts whose length is far from the others': below one quantile or above another of the lengths of the
-- same dataset and policy. Both bounds are inclusive, so all rollouts are kept if their lengths are equal.
-- param unit VARCHAR = 'tokens'   unit of length: tokens (generated) or characters (of the last message)
-- param low  DOUBLE = 0.01        lowest quantile kept
-- param high DOUBLE = 0.99        highest quantile kept
-- check: SELECT getvariable('unit') AS unit, 'tokens, characters' AS must_be_one_of
--     WHERE getvariable('unit') NOT IN ('tokens', 'characters')
-- check: SELECT getvariable('low') AS low, getvariable('high') AS high, 'must be 0 <= low <= high <= 1' AS fault
--     WHERE NOT (0 <= getvariable('low') AND getvariable('low') <= getvariable('high') AND getvariable('high') <= 1)
-- report: SELECT dataset, policy, count(size) AS rollouts, min(size) AS shortest, median(size) AS median,
--     max(size) AS longest, min(size) FILTER (kept) AS shortest_kept, max(size) FILTER (kept) AS longest_kept
--     FROM (SELECT s.dataset, s.policy, r.task_id IS NOT NULL AS kept,
--     CASE getvariable('unit') WHEN 'tokens' THEN s.output_tokens ELSE length(s.text) END AS size FROM selected AS s
--     LEFT JOIN result AS r USING (dataset, task_id, policy, rollout_index, copy))
--     GROUP BY dataset, policy ORDER BY dataset, policy
WITH sizes AS (
    SELECT dataset, task_id, policy, rollout_index, copy,
        CASE getvariable('unit') WHEN 'tokens' THEN output_tokens ELSE length(text) END AS size
    FROM selected
),

-- The quantile q of n lengths is the one in place ceil(q * n), counted from 1, in rising order.
ranked AS (
    SELECT dataset, policy, list_sort(list(size)) AS lengths
    FROM sizes
    WHERE size IS NOT NULL
    GROUP BY dataset, policy
),

bounds AS (
    SELECT dataset, policy,
        lengths[greatest(ceil(round(getvariable('low') * len(lengths), 9)), 1)::BIGINT] AS shortest,
        lengths[greatest(ceil(round(getvariable('high') * len(lengths), 9)), 1)::BIGINT] AS longest
    FROM ranked
),

judged AS (
    SELECT z.dataset, z.task_id, z.policy, z.rollout_index, z.copy, CASE
        WHEN z.size IS NULL THEN 'length not known'
        WHEN z.size < b.shortest THEN 'shorter than the quantile low'
        WHEN z.size > b.longest THEN 'longer than the quantile high'
    END AS fault
    FROM sizes AS z
    LEFT JOIN bounds AS b USING (dataset, policy)
)

SELECT s.*, j.fault AS dropped
FROM selected AS s
JOIN judged AS j USING (dataset, task_id, policy, rollout_index, copy)
