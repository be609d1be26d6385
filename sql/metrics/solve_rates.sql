-- How many tasks are solved how often, by dataset and policy. A task's solve rate is the share of its verified rollouts
-- that succeed. Tasks that are never solved and tasks that are always solved have rows of their own: they have no
-- advantage to learn from.
-- param success DOUBLE   = 1.0                 a rollout with at least this reward is a success
-- param edges   DOUBLE[] = [0.25, 0.5, 0.75]   edges of the bins between 0 and 1, ascending; a bin includes its upper edge
WITH tasks_of AS (
    SELECT dataset, policy, task_id, count(*) AS rollouts, avg((reward >= getvariable('success'))::DOUBLE) AS rate
    FROM rollouts
    WHERE reward IS NOT NULL
    GROUP BY dataset, policy, task_id
),

limits AS (SELECT list_concat([0.0], getvariable('edges'), [1.0]) AS edges),

placed AS (
    SELECT t.dataset, t.policy, t.rollouts, CASE
        WHEN t.rate = 0 THEN 0
        WHEN t.rate = 1 THEN len(l.edges)
        ELSE len(list_filter(l.edges, lambda edge: edge < t.rate))
    END AS bin
    FROM tasks_of AS t
    CROSS JOIN limits AS l
),

bins AS (
    SELECT place AS bin, CASE
        WHEN place = 0 THEN '0 (never)'
        WHEN place = len(edges) THEN '1 (always)'
        ELSE '(' || edges[place] || ', ' || edges[place + 1] || if(place = len(edges) - 1, ')', ']')
    END AS solve_rate
    FROM (SELECT edges, unnest(range(len(edges) + 1)) AS place FROM limits)
)

SELECT groups.dataset, groups.policy, bins.solve_rate, count(placed.bin) AS tasks,
    count(placed.bin) / sum(count(placed.bin)) OVER (PARTITION BY groups.dataset, groups.policy) AS share,
    coalesce(sum(placed.rollouts), 0)::BIGINT AS rollouts
FROM (SELECT DISTINCT dataset, policy FROM placed) AS groups
CROSS JOIN bins
LEFT JOIN placed ON placed.dataset = groups.dataset AND placed.policy = groups.policy AND placed.bin = bins.bin
GROUP BY groups.dataset, groups.policy, bins.bin, bins.solve_rate
ORDER BY groups.dataset, groups.policy, bins.bin
