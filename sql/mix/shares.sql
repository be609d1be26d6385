-- Mix datasets by shares of a total number of rows. Counts are rounded by largest remainder, so the total is exact. A
-- hash of each row's key and the seed decides which rows are taken. Datasets without a share are left out.
-- param shares      MAP(VARCHAR, DOUBLE)   share of each dataset; the sum must be 1
-- param rows        BIGINT = NULL          total rows; null: as many as the shares allow
-- param on_shortage VARCHAR = 'fail'       if a dataset has too few: fail, shrink (the whole mix) or repeat (its rows)
-- param max_copies  INTEGER = 4            with repeat: maximum times that a row is taken
-- param seed        BIGINT = 42            seed of the choice
-- datasets: shares
-- check: SELECT round(list_sum(map_values(getvariable('shares'))), 6) AS shares_add_up_to, 1 AS instead_of
--     WHERE abs(list_sum(map_values(getvariable('shares'))) - 1) > 1e-6
-- check: SELECT dataset, value AS share, 'must be above 0' AS fault
--     FROM entries(getvariable('shares')) WHERE value <= 0
-- check: SELECT getvariable('rows') AS rows, 'must be above 0' AS fault WHERE getvariable('rows') <= 0
-- check: SELECT getvariable('on_shortage') AS on_shortage, 'fail, shrink, repeat' AS must_be_one_of
--     WHERE getvariable('on_shortage') NOT IN ('fail', 'shrink', 'repeat')
-- report: WITH total AS (SELECT coalesce(getvariable('rows'), count(*)) AS rows FROM result),
--     exact AS (SELECT dataset, value * rows AS exact FROM entries(getvariable('shares')), total),
--     targets AS (SELECT dataset, wanted AS target_rows, NULL AS target_tokens FROM rounded('exact'))
--     FROM mix_report('result', 'selected', 'targets')
WITH sources AS (
    SELECT e.dataset, e.value / sum(e.value) OVER () AS share, coalesce(z.available, 0) AS available
    FROM entries(getvariable('shares')) AS e
    LEFT JOIN sizes('selected') AS z ON z.dataset = e.dataset
),

quotas AS (
    FROM by_share('sources', getvariable('rows'), getvariable('on_shortage'))
),

supply AS (
    FROM supplied('quotas', getvariable('on_shortage'), getvariable('max_copies'))
),

taken AS (
    FROM taken('selected', 'supply', getvariable('seed'))
)

SELECT s.* REPLACE (t.new_copy AS copy)
FROM selected AS s
JOIN taken AS t USING (dataset, task_id, policy, rollout_index, copy)
