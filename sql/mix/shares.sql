-- Mix data sets by their shares of a number of rows. Counts are rounded by largest remainder, so that the total is
-- exact; which rows are taken is decided by a hash of their key and the seed. Data sets without a share are left out.
-- param shares      MAP(VARCHAR, DOUBLE)   each data set's share; together 1
-- param rows        BIGINT = NULL          rows in all; without it, as many as the shares allow
-- param on_shortage VARCHAR = 'fail'       where a data set is short: fail, shrink (all of them), or repeat (its rows)
-- param max_copies  INTEGER = 4            with repeat: how often one row may occur
-- param seed        BIGINT = 42            seed of the choice
-- check: SELECT round(list_sum(map_values(getvariable('shares'))), 6) AS shares_add_up_to, 1 AS instead_of
--     WHERE abs(list_sum(map_values(getvariable('shares'))) - 1) > 1e-6
-- check: SELECT dataset, share, 'a share must be above 0' AS fault
--     FROM (
--         SELECT unnest(map_keys(getvariable('shares'))) AS dataset, unnest(map_values(getvariable('shares'))) AS share
--     )
--     WHERE share <= 0
-- check: SELECT getvariable('on_shortage') AS on_shortage, 'fail, shrink, repeat' AS must_be_one_of
--     WHERE getvariable('on_shortage') NOT IN ('fail', 'shrink', 'repeat')
-- report: SELECT a.dataset, a.share, coalesce(s.available, 0) AS available, coalesce(r.taken, 0) AS rows
--     FROM (SELECT unnest(map_keys(getvariable('shares'))) AS dataset,
--         unnest(map_values(getvariable('shares'))) AS share) AS a
--     LEFT JOIN (SELECT dataset, count(*) AS available FROM selected GROUP BY dataset) AS s USING (dataset)
--     LEFT JOIN (SELECT dataset, count(*) AS taken FROM result GROUP BY dataset) AS r USING (dataset)
--     ORDER BY a.dataset
WITH asked AS (
    SELECT unnest(map_keys(getvariable('shares'))) AS dataset, unnest(map_values(getvariable('shares'))) AS share
),

sources AS (
    SELECT a.dataset, a.share / sum(a.share) OVER () AS share, coalesce(s.available, 0) AS available
    FROM asked AS a
    LEFT JOIN (SELECT dataset, count(*) AS available FROM selected GROUP BY dataset) AS s ON s.dataset = a.dataset
),

-- The total: as asked, or the largest in which no data set is short.
total AS (
    SELECT CASE
        WHEN getvariable('rows') IS NULL THEN min(floor(available / share + 1e-9))
        WHEN getvariable('on_shortage') = 'shrink'
            THEN least(getvariable('rows'), min(floor(available / share + 1e-9)))
        ELSE getvariable('rows')
    END::BIGINT AS total
    FROM sources
),

quotas AS (
    SELECT dataset, available, floor(share * total + 1e-9)::BIGINT AS whole,
        total - sum(floor(share * total + 1e-9)::BIGINT) OVER () AS left_over,
        row_number() OVER (
            ORDER BY round(share * total - floor(share * total + 1e-9), 9) DESC, dataset
        ) AS place
    FROM sources, total
),

counts AS (
    SELECT dataset, available, whole + (place <= left_over)::INTEGER AS wanted
    FROM quotas
),

-- Those that are short, as one sentence: error() ends the query with it.
fair AS (
    SELECT CASE WHEN count(*) > 0 THEN error(
        string_agg(CASE available
            WHEN 0 THEN format('{} has no rows: leave it out of shares', dataset)
            ELSE format('{} has {} rows of the {} wanted', dataset, available, wanted)
        END, '; ' ORDER BY dataset)
        || CASE
            WHEN max(available) = 0 THEN ''
            WHEN getvariable('on_shortage') = 'repeat' THEN '; ask for fewer rows, or raise max_copies'
            ELSE '; ask for fewer rows, or set on_shortage to shrink or repeat'
        END
    ) END IS NULL AS fair
    FROM counts
    WHERE available = 0
        OR wanted > available * CASE getvariable('on_shortage') WHEN 'repeat' THEN getvariable('max_copies') ELSE 1 END
),

places AS (
    SELECT s.*, row_number() OVER (
        PARTITION BY s.dataset
        ORDER BY
            md5(concat_ws('/', s.dataset, s.task_id, s.policy, s.rollout_index, s.copy) || ':' || getvariable('seed')),
            s.task_id, s.policy, s.rollout_index, s.copy
    ) AS place
    FROM (SELECT dataset, task_id, policy, rollout_index, copy FROM selected) AS s
),

-- A row occurs once for each whole time that its data set goes into the count, and once more in the first places.
taken AS (
    SELECT p.dataset, p.task_id, p.policy, p.rollout_index, p.copy,
        unnest(range(c.wanted // c.available + (p.place <= c.wanted % c.available)::INTEGER)) AS repeat_number
    FROM places AS p
    JOIN counts AS c ON c.dataset = p.dataset
    JOIN fair ON fair.fair
)

SELECT s.* REPLACE ((s.copy + t.repeat_number * (SELECT max(copy) + 1 FROM selected))::INTEGER AS copy)
FROM selected AS s
JOIN taken AS t USING (dataset, task_id, policy, rollout_index, copy)
