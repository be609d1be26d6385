-- Rescale rewards from one range to another: clip them to the first, then scale them to the second (NeMo RL's
-- scale_rewards). Each dataset may have its own range, and a weight by which its rewards are multiplied at the end.
-- param from_min DOUBLE = 0   lower end of the original range
-- param from_max DOUBLE = 1   upper end of the original range
-- param to_min   DOUBLE = 0   lower end of the new range
-- param to_max   DOUBLE = 1   upper end of the new range
-- param mins     MAP(VARCHAR, DOUBLE) = MAP {}   from_min by dataset, if it differs
-- param maxs     MAP(VARCHAR, DOUBLE) = MAP {}   from_max by dataset, if it differs
-- param weights  MAP(VARCHAR, DOUBLE) = MAP {}   weight by dataset, if it is not 1
-- datasets: mins, maxs, weights
-- check: SELECT dataset, coalesce(getvariable('mins')[dataset], getvariable('from_min')) AS from_min,
--     coalesce(getvariable('maxs')[dataset], getvariable('from_max')) AS from_max, 'from_min must be less than from_max' AS fault
--     FROM sizes('selected')
--     WHERE NOT coalesce(getvariable('mins')[dataset], getvariable('from_min'))
--         < coalesce(getvariable('maxs')[dataset], getvariable('from_max'))
-- report: SELECT r.dataset, count(*) AS rollouts, count(*) FILTER (s.reward < r.low OR s.reward > r.high) AS clipped,
--     min(s.reward) AS lowest_before, max(s.reward) AS highest_before,
--     min(r.reward) AS lowest, max(r.reward) AS highest
--     FROM (
--         SELECT *, coalesce(getvariable('mins')[dataset], getvariable('from_min')) AS low,
--             coalesce(getvariable('maxs')[dataset], getvariable('from_max')) AS high
--         FROM result
--     ) AS r
--     JOIN selected AS s USING (dataset, task_id, policy, rollout_index, copy)
--     GROUP BY r.dataset ORDER BY r.dataset
WITH ranges AS (
    SELECT dataset, coalesce(getvariable('weights')[dataset], 1) AS weight,
        coalesce(getvariable('mins')[dataset], getvariable('from_min')) AS low,
        coalesce(getvariable('maxs')[dataset], getvariable('from_max')) AS high
    FROM sizes('selected')
)

SELECT s.* REPLACE (
    r.weight * (
        getvariable('to_min')
        + (greatest(least(s.reward, r.high), r.low) - r.low) / (r.high - r.low)
        * (getvariable('to_max') - getvariable('to_min'))
    ) * CASE WHEN s.reward IS NOT NULL THEN 1 END AS reward
)
FROM selected AS s
JOIN ranges AS r ON r.dataset = s.dataset
