-- The probability that at least one of k rollouts of a task succeeds (pass@k), and the mean of their best reward
-- (max@k), by dataset and policy. Both are unbiased over all n rollouts of a task; tasks with fewer than k are left
-- out. pass@k = 1 - C(n - c, k) / C(n, k) with c successes (Chen et al. 2021, arXiv 2107.03374); max@k = the sum over
-- the rewards in ascending order, i = 1..n, of reward(i) * C(i - 1, k - 1) / C(n, k).
-- param success DOUBLE = 1.0       a rollout with at least this reward is a success
-- param k       INTEGER[] = NULL   values of k; null: 1, 2, 4, ... and the largest n
WITH tasks_of AS (
    SELECT dataset, policy, task_id, list_sort(list(reward)) AS rewards
    FROM rollouts
    WHERE reward IS NOT NULL
    GROUP BY dataset, policy, task_id
),

-- Tasks with the same rewards have the same pass@k: each such set is worked out once.
alike AS (
    SELECT dataset, policy, rewards, count(*) AS tasks, len(rewards) AS n,
        len(list_filter(rewards, lambda reward: reward >= getvariable('success'))) AS c
    FROM tasks_of
    GROUP BY dataset, policy, rewards
),

ks AS (
    SELECT DISTINCT unnest(coalesce(getvariable('k'), ks_up_to(most))) AS k
    FROM (SELECT max(n)::INTEGER AS most FROM alike)
),

-- C(i - 1, k - 1) / C(n, k) for each i, as k / n times a product; an empty product is NULL in SQL and 1 in mathematics.
weights AS (
    SELECT sizes.n, ks.k, [
        if(i < ks.k, 0.0, ks.k / sizes.n * coalesce(list_product([(i - j) / (sizes.n - j) FOR j IN range(1, ks.k)]), 1.0))
        FOR i IN range(1, sizes.n + 1)
    ] AS weights
    FROM (SELECT DISTINCT n FROM alike) AS sizes
    JOIN ks ON sizes.n >= ks.k
),

solved AS (
    SELECT a.dataset, a.policy, w.k, a.tasks, a.rewards, pass_at_k(a.n, a.c, w.k) AS passed,
        list_inner_product(a.rewards, w.weights) AS best
    FROM alike AS a
    JOIN weights AS w ON w.n = a.n
)

SELECT dataset, policy, k, sum(tasks)::BIGINT AS tasks,
    sum(tasks * passed ORDER BY rewards) / sum(tasks) AS pass_at_k,
    sum(tasks * best ORDER BY rewards) / sum(tasks) AS max_at_k
FROM solved
GROUP BY dataset, policy, k
ORDER BY dataset, policy, k
