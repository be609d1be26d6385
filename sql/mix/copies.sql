-- Upsample or downsample datasets: 3.5 copies are each row three times, and half of the rows, chosen by the seed, a
-- fourth time. Datasets that are not named are left out.
-- param copies MAP(VARCHAR, DOUBLE)   number of copies of each dataset
-- param seed   BIGINT = 42            seed of the choice
-- datasets: copies
-- check: SELECT dataset, value AS copies, 'must be above 0' AS fault
--     FROM entries(getvariable('copies')) WHERE value <= 0
-- report: WITH targets AS (
--         SELECT dataset, round(value * available)::BIGINT AS target_rows, NULL AS target_tokens
--         FROM entries(getvariable('copies')) LEFT JOIN sizes('selected') USING (dataset)
--     )
--     FROM mix_report('result', 'selected', 'targets')
WITH quotas AS (
    SELECT e.dataset, coalesce(z.available, 0) AS available, round(e.value * coalesce(z.available, 0))::BIGINT AS wanted
    FROM entries(getvariable('copies')) AS e
    LEFT JOIN sizes('selected') AS z ON z.dataset = e.dataset
),

supply AS (
    FROM supplied('quotas', 'repeat', 2147483647)
),

taken AS (
    FROM taken('selected', 'supply', getvariable('seed'))
)

SELECT s.* REPLACE (t.new_copy AS copy)
FROM selected AS s
JOIN taken AS t USING (dataset, task_id, policy, rollout_index, copy)
