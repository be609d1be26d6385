-- The chance that one of k rollouts of a task succeeds (pass@k), and the mean of their best reward (max@k), by data set
-- and policy. Both are unbiased over all n rollouts of a task; tasks with fewer than k are left out.
-- pass@k = 1 - C(n - c, k) / C(n, k) with c successes (Chen et al. 2021, arXiv 2107.03374);
-- max@k = the sum over the rewards in rising order, i = 1..n, of reward(i) * C(i - 1, k - 1) / C(n, k).
-- param success DOUBLE = 1.0       the reward from which a rollout is a success
-- param k       INTEGER[] = NULL   the values of k; without it 1, 2, 4, ... and the largest n
WITH judged AS (
    SELECT dataset, policy, task_id, reward,
        row_number() OVER (PARTITION BY dataset, policy, task_id ORDER BY reward) AS i,
        count(*) OVER (PARTITION BY dataset, policy, task_id) AS n
    FROM rollouts
    WHERE reward IS NOT NULL
),

ks AS (
    SELECT DISTINCT unnest(coalesce(
        getvariable('k'),
        list_append([(2 ** e)::INTEGER FOR e IN range(0, 20) IF 2 ** e <= most], most)
    )) AS k
    FROM (SELECT max(n)::INTEGER AS most FROM judged)
),

tasks_of AS (
    SELECT dataset, policy, task_id, any_value(n) AS n, count(*) FILTER (reward >= getvariable('success')) AS c
    FROM judged
    GROUP BY dataset, policy, task_id
),

-- 1 - C(n - c, k) / C(n, k), as a product; an empty one (c = 0) is NULL in SQL and 1 in mathematics.
passed AS (
    SELECT t.dataset, t.policy, ks.k, count(*) AS tasks, avg(CASE
        WHEN t.n - t.c < ks.k THEN 1.0
        ELSE 1.0 - coalesce(list_product([1.0 - ks.k / j FOR j IN range(t.n - t.c + 1, t.n + 1)]), 1.0)
    END) AS pass_at_k
    FROM tasks_of AS t
    JOIN ks ON t.n >= ks.k
    GROUP BY t.dataset, t.policy, ks.k
),

-- C(i - 1, k - 1) / C(n, k), as k / n times a product.
weights AS (
    SELECT place.n, place.i, ks.k,
        ks.k / place.n * coalesce(list_product([(place.i - j) / (place.n - j) FOR j IN range(1, ks.k)]), 1.0) AS weight
    FROM (SELECT DISTINCT n, i FROM judged) AS place
    JOIN ks ON place.i >= ks.k
),

best AS (
    SELECT j.dataset, j.policy, w.k, sum(j.reward * w.weight) AS best_sum
    FROM judged AS j
    JOIN weights AS w ON w.n = j.n AND w.i = j.i
    GROUP BY j.dataset, j.policy, w.k
)

SELECT p.dataset, p.policy, p.k, p.tasks, p.pass_at_k, b.best_sum / p.tasks AS max_at_k
FROM passed AS p
JOIN best AS b ON b.dataset = p.dataset AND b.policy = p.policy AND b.k = p.k
ORDER BY p.dataset, p.policy, p.k
