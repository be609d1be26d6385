-- How much longer chosen answers are than their rejected ones, in tokens (characters where a pair has no token counts):
-- 20 bins around 0, the outermost of which hold what lies beyond.
WITH sides AS (
    SELECT split, row, max(output_tokens) FILTER (part = 'chosen') AS chosen_tokens,
        max(output_tokens) FILTER (part = 'rejected') AS rejected_tokens,
        max(characters) FILTER (part = 'chosen') AS chosen_characters,
        max(characters) FILTER (part = 'rejected') AS rejected_characters
    FROM used
    GROUP BY split, row
),

unit AS (
    SELECT bool_and(coalesce(chosen_tokens, 0) > 0 AND coalesce(rejected_tokens, 0) > 0) AS tokens FROM sides
),

differences AS (
    SELECT tokens, if(tokens, chosen_tokens - rejected_tokens, chosen_characters - rejected_characters) AS more
    FROM sides, unit
),

-- A round width, so that ten bins reach at least as far as 98 in 100 differences.
reach AS (
    SELECT list_filter([[1, 2, 5][e % 3 + 1] * 10 ** (e // 3) FOR e IN range(24)], lambda w: w * 10 >= far)[1] AS width
    FROM (SELECT quantile_cont(abs(more), 0.98) AS far FROM differences WHERE more IS NOT NULL)
)

SELECT least(9, greatest(-10, floor(more / width)))::INTEGER AS place, any_value(width) AS width,
    if(any_value(tokens), 'tokens', 'characters') AS unit, count(*) AS pairs
FROM differences, reach
WHERE more IS NOT NULL
GROUP BY place
ORDER BY place
