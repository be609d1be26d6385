-- Limit the rows of each cell of a dataset, such as each task, or each agent at each difficulty. A hash of each
-- row's key and the seed decides which rows of a cell are taken.
-- param cells    VARCHAR[] = ['task_id']   columns whose values define a cell, including those that earlier steps added
-- param per_cell BIGINT = 1                maximum rows per cell
-- param seed     BIGINT = 42               seed of the choice
-- check: SELECT getvariable('per_cell') AS per_cell, 'must be above 0' AS fault WHERE getvariable('per_cell') <= 0
-- check: SELECT c.name AS cells, 'no column of the selection' AS fault
--     FROM (SELECT unnest(getvariable('cells')) AS name) AS c
--     ANTI JOIN (SELECT column_name AS name FROM (DESCRIBE selected)) AS d USING (name)
-- report: SELECT count(*) AS cells, count(*) FILTER (rows > getvariable('per_cell')) AS cells_cut,
--     sum(least(rows, getvariable('per_cell')))::BIGINT AS rows, sum(rows)::BIGINT AS available,
--     min(rows) AS smallest, median(rows) AS median, max(rows) AS largest
--     FROM (SELECT count(*) AS rows FROM cells('selected', getvariable('cells')) GROUP BY cell)
WITH taken AS (
    SELECT dataset, task_id, policy, rollout_index, copy
    FROM cells('selected', getvariable('cells'))
    QUALIFY row_number() OVER (
        PARTITION BY cell
        ORDER BY md5(concat_ws('/', dataset, task_id, policy, rollout_index, copy) || ':' || getvariable('seed')),
            dataset, task_id, policy, rollout_index, copy
    ) <= getvariable('per_cell')
)

SELECT s.*
FROM selected AS s
SEMI JOIN taken AS t USING (dataset, task_id, policy, rollout_index, copy)
