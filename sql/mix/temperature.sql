-- Mix all datasets in proportion to size^(1/T): 1 keeps the sizes, a higher temperature lifts the small ones
-- (T5, seqio's mixing_rate_num_examples). Rows are chosen by a hash of their key and the seed.
-- param rows        BIGINT = NULL          rows in all; without it, as many as no dataset runs short of
-- param temperature DOUBLE = 2             T
-- param max_size    BIGINT = NULL          a dataset counts as no larger than this
-- param on_shortage VARCHAR = 'fail'       where one is short: fail, shrink (all of them), repeat (its rows)
-- param max_copies  INTEGER = 4            with repeat: how often one row may occur
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
