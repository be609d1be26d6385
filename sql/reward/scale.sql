-- Bring rewards from one range to another: clip them to it, then stretch it (NeMo RL's scale_rewards). Datasets may
-- have ranges of their own, and weights that their rewards are multiplied with in the end.
-- param from_min DOUBLE = 0   low end of the range that rewards come from
-- param from_max DOUBLE = 1   high end of it
-- param to_min   DOUBLE = 0   what the low end becomes
-- param to_max   DOUBLE = 1   what the high end becomes
-- param mins     MAP(VARCHAR, DOUBLE) = MAP {}   from_min of datasets that differ
-- param maxs     MAP(VARCHAR, DOUBLE) = MAP {}   from_max of datasets that differ
-- param weights  MAP(VARCHAR, DOUBLE) = MAP {}   the weight of datasets that have another one than 1
-- datasets: mins, maxs, weights
-- check: SELECT dataset, coalesce(getvariable('mins')[dataset], getvariable('from_min')) AS from_min,
--     coalesce(getvariable('maxs')[dataset], getvariable('from_max')) AS from_max, 'is not a range' AS fault
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
