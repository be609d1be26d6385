-- How rewards are spread, before the selection and in the files: by value where there are at most 12, else in at most
-- 20 bins of a round width.
WITH rewards AS (
    SELECT 'all rollouts' AS part, reward FROM rollouts WHERE isfinite(reward)
    UNION ALL
    SELECT part, reward FROM used WHERE isfinite(reward)
),

range_of AS (
    SELECT count(DISTINCT reward) <= 12 AS few, max(reward) - min(reward) AS span FROM rewards
),

width_of AS (
    SELECT few, list_filter(
        [[1, 2, 5][e % 3 + 1] * 10.0 ** (e // 3 - 9) FOR e IN range(60)], lambda w: w * 19 >= span
    )[1] AS width
    FROM range_of
),

placed AS (
    SELECT part, few, width, if(few, reward, round(floor(reward / width + 1e-9) * width, 9)) AS bin
    FROM rewards, width_of
)

SELECT bin, if(any_value(few), bin, round(bin + any_value(width), 9)) AS bin_end, part, count(*) AS rollouts,
    count(*) / sum(count(*)) OVER (PARTITION BY part) AS share
FROM placed
GROUP BY bin, part
ORDER BY bin, part
