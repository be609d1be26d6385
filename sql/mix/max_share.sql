-- Mix all datasets so that none exceeds a share of the rows: the largest ones are reduced. A hash of each row's key and
-- the seed decides which rows are taken.
-- param max_share DOUBLE = 0.5   maximum share of one dataset
-- param seed      BIGINT = 42    seed of the choice
-- check: SELECT count(*) AS data_sets,
--     format('cannot each be {} of the rows or less', getvariable('max_share')) AS fault
--     FROM sizes('selected') HAVING count(*) * getvariable('max_share') < 1 - 1e-9
-- report: WITH targets AS (SELECT dataset, NULL AS target_rows, NULL AS target_tokens FROM sizes('selected'))
--     FROM mix_report('result', 'selected', 'targets')
WITH ranked AS (
    SELECT dataset, available,
        row_number() OVER by_size AS place,
        sum(available) OVER () - sum(available) OVER by_size AS rest,
        coalesce(lead(available) OVER (ORDER BY available DESC, dataset), 0) AS next
    FROM sizes('selected')
    WINDOW by_size AS (ORDER BY available DESC, dataset ROWS UNBOUNDED PRECEDING)
),

-- Were the largest `place` of them cut to one size, it would be this one; it is the right one where the next fits.
level AS (
    SELECT min_by(most, place) AS most
    FROM (
        SELECT 0 AS place, max(available) AS most FROM ranked
        HAVING max(available) <= getvariable('max_share') * sum(available)
        UNION ALL
        SELECT place, floor(getvariable('max_share') * rest / (1 - place * getvariable('max_share')) + 1e-9) AS most
        FROM ranked
        WHERE place * getvariable('max_share') < 1 - 1e-9
            AND next <= getvariable('max_share') * rest / (1 - place * getvariable('max_share')) + 1e-9
    )
),

supply AS (
    SELECT dataset, available, least(available, most)::BIGINT AS wanted FROM ranked, level
),

taken AS (
    FROM taken('selected', 'supply', getvariable('seed'))
)

SELECT s.* REPLACE (t.new_copy AS copy)
FROM selected AS s
JOIN taken AS t USING (dataset, task_id, policy, rollout_index, copy)
