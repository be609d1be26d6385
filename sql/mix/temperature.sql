-- Mix all datasets in proportion to size^(1/T): 1 keeps the sizes, a higher temperature gives small datasets a larger
-- share (T5, seqio's mixing_rate_num_examples). A hash of each row's key and the seed decides which rows are taken.
-- param rows        BIGINT = NULL          total rows; null: as many as possible without a shortage
-- param temperature DOUBLE = 2             the temperature T
-- param max_size    BIGINT = NULL          larger datasets count as this size
-- param on_shortage VARCHAR = 'fail'       if a dataset has too few: fail, shrink (the whole mix) or repeat (its rows)
-- param max_copies  INTEGER = 4            with repeat: maximum times that a row is taken
-- param seed        BIGINT = 42            seed of the choice
-- check: SELECT getvariable('temperature') AS temperature, 'must be above 0' AS fault
--     WHERE NOT getvariable('temperature') > 0
-- check: SELECT getvariable('rows') AS rows, 'must be above 0' AS fault WHERE getvariable('rows') <= 0
-- check: SELECT getvariable('on_shortage') AS on_shortage, 'fail, shrink, repeat' AS must_be_one_of
--     WHERE getvariable('on_shortage') NOT IN ('fail', 'shrink', 'repeat')
-- report: WITH rates AS (
--         SELECT dataset,
--             least(available, getvariable('max_size')) ** (1 / nullif(getvariable('temperature'), 0)) AS weight
--         FROM sizes('selected')
--     ),
--     exact AS (
--         SELECT dataset,
--             weight / sum(weight) OVER () * coalesce(getvariable('rows'), (SELECT count(*) FROM result)) AS exact
--         FROM rates
--     ),
--     targets AS (SELECT dataset, wanted AS target_rows, NULL AS target_tokens FROM rounded('exact'))
--     FROM mix_report('result', 'selected', 'targets')
WITH weights AS (
    SELECT dataset, available,
        least(available, getvariable('max_size')) ** (1 / nullif(getvariable('temperature'), 0)) AS weight
    FROM sizes('selected')
),

sources AS (
    SELECT dataset, available, round(weight / sum(weight) OVER (), 12) AS share FROM weights
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
