-- Mix datasets by a number of rows of each. A hash of each row's key and the seed decides which rows are taken.
-- Datasets without a number are left out.
-- param counts      MAP(VARCHAR, BIGINT)   rows of each dataset
-- param on_shortage VARCHAR = 'fail'       if a dataset has too few: fail, shrink (take what it has) or repeat (its rows)
-- param max_copies  INTEGER = 4            with repeat: maximum times that a row is taken
-- param seed        BIGINT = 42            seed of the choice
-- datasets: counts
-- check: SELECT dataset, value AS rows, 'must be above 0' AS fault
--     FROM entries(getvariable('counts')) WHERE value <= 0
-- check: SELECT getvariable('on_shortage') AS on_shortage, 'fail, shrink, repeat' AS must_be_one_of
--     WHERE getvariable('on_shortage') NOT IN ('fail', 'shrink', 'repeat')
-- report: WITH targets AS (
--         SELECT dataset, value AS target_rows, NULL AS target_tokens FROM entries(getvariable('counts'))
--     )
--     FROM mix_report('result', 'selected', 'targets')
WITH quotas AS (
    SELECT e.dataset, coalesce(z.available, 0) AS available, e.value AS wanted
    FROM entries(getvariable('counts')) AS e
    LEFT JOIN sizes('selected') AS z ON z.dataset = e.dataset
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
