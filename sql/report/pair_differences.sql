-- How much longer chosen answers are than their rejected ones, in tokens (characters where a pair has no token counts):
-- 20 bins around 0, the outermost of which hold what lies beyond.
WITH differences AS (
    SELECT unit, chosen - rejected AS more FROM pair_sizes('used')
),

-- A round width, so that ten bins reach at least as far as 98 in 100 differences.
reach AS (
    SELECT list_filter([[1, 2, 5][e % 3 + 1] * 10 ** (e // 3) FOR e IN range(24)], lambda w: w * 10 >= far)[1] AS width
    FROM (SELECT quantile_cont(abs(more), 0.98) AS far FROM differences WHERE more IS NOT NULL)
)

SELECT least(9, greatest(-10, floor(more / width)))::INTEGER AS place, any_value(width) AS width,
    any_value(unit) AS unit, count(*) AS pairs
FROM differences, reach
WHERE more IS NOT NULL
GROUP BY place
ORDER BY place
