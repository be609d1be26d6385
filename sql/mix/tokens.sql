-- Mix datasets by budgets of generated tokens: rows are taken in an order that the seed decides, until the next row
-- exceeds the budget. So a dataset stays below its budget by less than one row. Datasets without a budget are left out.
-- param tokens      MAP(VARCHAR, BIGINT)   generated tokens (output_tokens) of each dataset
-- param on_shortage VARCHAR = 'fail'       if a dataset has too few: fail, shrink (take what it has) or repeat (its rows)
-- param max_copies  INTEGER = 4            with repeat: maximum times that a row is taken
-- param seed        BIGINT = 42            seed of the choice
-- datasets: tokens
-- check: SELECT dataset, value AS tokens, 'must be above 0' AS fault
--     FROM entries(getvariable('tokens')) WHERE value <= 0
-- check: SELECT getvariable('on_shortage') AS on_shortage, 'fail, shrink, repeat' AS must_be_one_of
--     WHERE getvariable('on_shortage') NOT IN ('fail', 'shrink', 'repeat')
-- check: SELECT dataset, count(*) AS rollouts, 'without a count of tokens' AS fault
--     FROM selected SEMI JOIN entries(getvariable('tokens')) USING (dataset)
--     WHERE output_tokens IS NULL GROUP BY dataset
-- report: WITH targets AS (
--         SELECT dataset, NULL AS target_rows, value AS target_tokens FROM entries(getvariable('tokens'))
--     )
--     FROM mix_report('result', 'selected', 'targets')
WITH budgets AS (
    SELECT e.dataset, coalesce(z.tokens, 0) AS available, e.value AS wanted
    FROM entries(getvariable('tokens')) AS e
    LEFT JOIN sizes('selected') AS z ON z.dataset = e.dataset
),

fair AS (
    SELECT CASE WHEN count(*) > 0 THEN error(
        string_agg(format('{} has {} tokens of the {} wanted', dataset, available, wanted), '; ' ORDER BY dataset)
        || CASE getvariable('on_shortage')
            WHEN 'repeat' THEN '; request fewer tokens, or raise max_copies'
            ELSE '; request fewer tokens, or set on_shortage to shrink or repeat'
        END
    ) END IS NULL AS fair
    FROM budgets
    WHERE available = 0
        OR getvariable('on_shortage') = 'repeat' AND wanted > available * getvariable('max_copies')
        OR getvariable('on_shortage') = 'fail' AND wanted > available
),

running AS (
    SELECT *, sum(output_tokens) OVER (PARTITION BY dataset ORDER BY place) AS so_far
    FROM drawn('selected', getvariable('seed'))
),

-- The n-th time that the dataset is gone through begins when all its tokens have been taken n times.
taken AS (
    SELECT r.dataset, r.task_id, r.policy, r.rollout_index, r.copy,
        (r.copy + n.n * (SELECT max(copy) + 1 FROM selected))::INTEGER AS new_copy
    FROM running AS r
    JOIN budgets AS b ON b.dataset = r.dataset
    JOIN fair ON fair.fair
    JOIN range(if(getvariable('on_shortage') = 'repeat', getvariable('max_copies'), 1)) AS n (n)
        ON n.n * b.available + r.so_far <= b.wanted
)

SELECT s.* REPLACE (t.new_copy AS copy)
FROM selected AS s
JOIN taken AS t USING (dataset, task_id, policy, rollout_index, copy)
