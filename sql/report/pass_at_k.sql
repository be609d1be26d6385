-- The chance that one of k rollouts of a task reaches a reward of 1, unbiased over all n rollouts of the task
-- (1 - C(n - c, k) / C(n, k), Chen et al. 2021), for k = 1, 2, 4, ... and the largest n; with twice its standard error
-- over the tasks to either side. Tasks with fewer than k rollouts are left out.
WITH tasks_of AS (
    SELECT series, dataset, policy, task_id, count(*) AS n, count(*) FILTER (reward >= 1) AS c
    FROM rollouts
    WHERE reward IS NOT NULL
    GROUP BY series, dataset, policy, task_id
),

ks AS (
    SELECT DISTINCT unnest(list_append([(2 ** e)::INTEGER FOR e IN range(0, 12) IF 2 ** e <= most], most)) AS k
    FROM (SELECT least(max(n), 4096)::INTEGER AS most FROM tasks_of)
),

-- Tasks with the same n and c have the same chance. An empty product (c = 0) is NULL in SQL and 1 in mathematics.
chances AS (
    SELECT t.*, ks.k, CASE
        WHEN t.n - t.c < ks.k THEN 1.0
        ELSE 1.0 - coalesce(list_product([1.0 - ks.k / j FOR j IN range(t.n - t.c + 1, t.n + 1)]), 1.0)
    END AS chance
    FROM (SELECT series, n, c, count(*) AS tasks FROM tasks_of GROUP BY series, n, c) AS t
    JOIN ks ON t.n >= ks.k
),

means AS (
    SELECT series, k, sum(tasks) AS tasks, sum(tasks * chance) / sum(tasks) AS mean,
        sum(tasks * chance * chance) / sum(tasks) AS mean_square
    FROM chances
    GROUP BY series, k
)

SELECT series, k, tasks, mean, greatest(0, mean - error) AS low, least(1, mean + error) AS high
FROM (SELECT *, 1.96 * sqrt(greatest(mean_square - mean * mean, 0) / greatest(tasks - 1, 1)) AS error FROM means)
ORDER BY series, k
