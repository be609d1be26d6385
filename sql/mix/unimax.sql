-- Mix all datasets evenly, but none for more than `max_epochs` epochs. What a small dataset lacks is divided among the
-- larger ones (UniMax, Chung et al. 2023). If all datasets reach their maximum, the mix is smaller than requested, and
-- the report shows it.
-- param rows       BIGINT = NULL   total rows; null: as many as there are
-- param max_epochs DOUBLE = 4      maximum epochs of a dataset
-- param seed       BIGINT = 42     seed of the choice
-- check: SELECT getvariable('rows') AS rows, 'must be above 0' AS fault WHERE getvariable('rows') <= 0
-- check: SELECT getvariable('max_epochs') AS max_epochs, 'must be above 0' AS fault
--     WHERE NOT getvariable('max_epochs') > 0
-- report: WITH exact AS (
--         SELECT dataset, coalesce(getvariable('rows'), sum(available) OVER ()) / count(*) OVER () AS exact
--         FROM sizes('selected')
--     ),
--     targets AS (SELECT dataset, wanted AS target_rows, NULL AS target_tokens FROM rounded('exact'))
--     FROM mix_report('result', 'selected', 'targets')
WITH limits AS (
    SELECT dataset, available, floor(getvariable('max_epochs') * available) AS most FROM sizes('selected')
),

-- From the smallest to the largest: an even part of what those before it leave, had all of them reached their limit.
parts AS (
    SELECT dataset, available, most,
        (coalesce(getvariable('rows'), sum(available) OVER ()) - sum(most) OVER by_size + most)
        / (count(*) OVER () - row_number() OVER by_size + 1) AS part
    FROM limits
    WINDOW by_size AS (ORDER BY available, dataset ROWS UNBOUNDED PRECEDING)
),

-- Those below their limit share evenly: the part of the first of them, which is the largest.
exact AS (
    SELECT dataset, available, if(most <= part, most, max(part) FILTER (most > part) OVER ()) AS exact FROM parts
),

quotas AS (
    FROM rounded('exact')
),

supply AS (
    FROM supplied('quotas', 'repeat', getvariable('max_epochs'))
),

taken AS (
    FROM taken('selected', 'supply', getvariable('seed'))
)

SELECT s.* REPLACE (t.new_copy AS copy)
FROM selected AS s
JOIN taken AS t USING (dataset, task_id, policy, rollout_index, copy)
