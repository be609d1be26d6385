-- Confidence intervals of the mean reward and of pass@k, by dataset and policy, from a bootstrap over tasks: the
-- rollouts of one task depend on each other, so tasks are drawn, not rollouts. Each resample gives every task a weight
-- from Poisson(1) (Chamandy et al. 2012, "Estimating uncertainty for massive data streams") and takes the weighted
-- mean; low and high are percentiles of the resamples, se is their standard deviation. Beyond `groups` tasks, tasks are
-- assigned to that many groups at random and each group is drawn as one, which bounds the cost and leaves the variance
-- unbiased (random groups: Wolter 2007, "Introduction to Variance Estimation", chapter 2). The draws are hashes of a
-- seed, so the same rollouts give the same intervals.
-- param success   DOUBLE    = 1.0    a rollout with at least this reward is a success
-- param k         INTEGER[] = NULL   values of k; null: 1, 2, 4, ... and the largest n
-- param level     DOUBLE    = 0.95   confidence level: share of resamples between low and high
-- param resamples INTEGER   = 1000   number of resamples
-- param groups    INTEGER   = 1000   if there are more tasks than this, they are drawn in this many groups
-- param seed      BIGINT    = 0      seed of the draws
WITH tasks_of AS (
    SELECT dataset, policy, task_id, count(*) AS n, count(*) FILTER (reward >= getvariable('success')) AS c,
        sum(reward) AS reward
    FROM rollouts
    WHERE reward IS NOT NULL
    GROUP BY dataset, policy, task_id
),

ks AS (
    SELECT DISTINCT unnest(coalesce(getvariable('k'), ks_up_to(most))) AS k
    FROM (SELECT max(n)::INTEGER AS most FROM tasks_of)
),

passed AS (
    SELECT counted.n, counted.c, ks.k, pass_at_k(counted.n, counted.c, ks.k) AS passed
    FROM (SELECT DISTINCT n, c FROM tasks_of) AS counted
    JOIN ks ON counted.n >= ks.k
),

dealt AS (
    SELECT dataset, task_id, (row_number() OVER (
        PARTITION BY dataset ORDER BY unit(task_id, getvariable('seed')), task_id
    ) - 1) % getvariable('groups') AS g
    FROM (SELECT DISTINCT dataset, task_id FROM tasks_of)
),

-- Of each group, task counts by what a task did: enough for every metric.
sums AS (
    SELECT t.dataset, t.policy, d.g, t.n, t.c, count(*) AS tasks, sum(t.reward) AS reward
    FROM tasks_of AS t
    JOIN dealt AS d ON d.dataset = t.dataset AND d.task_id = t.task_id
    GROUP BY t.dataset, t.policy, d.g, t.n, t.c
),

-- Each metric is a ratio of two sums over groups.
parts AS (
    SELECT dataset, policy, 0 AS k, g, sum(tasks) AS tasks, sum(reward) AS above,
        sum(tasks * n)::DOUBLE AS below
    FROM sums
    GROUP BY dataset, policy, g
    UNION ALL
    SELECT s.dataset, s.policy, p.k, s.g, sum(s.tasks), sum(s.tasks * p.passed), sum(s.tasks)::DOUBLE
    FROM sums AS s
    JOIN passed AS p ON p.n = s.n AND p.c = s.c
    GROUP BY s.dataset, s.policy, p.k, s.g
),

-- In the order of the groups, each of which a policy may have no task of.
totals AS (
    SELECT p.dataset, p.policy, p.k, list(coalesce(q.above, 0.0) ORDER BY g.g) AS above,
        list(coalesce(q.below, 0.0) ORDER BY g.g) AS below
    FROM (SELECT DISTINCT dataset, policy, k FROM parts) AS p
    JOIN (SELECT DISTINCT dataset, g FROM dealt) AS g ON g.dataset = p.dataset
    LEFT JOIN parts AS q ON q.dataset = p.dataset AND q.policy = p.policy AND q.k = p.k AND q.g = g.g
    GROUP BY p.dataset, p.policy, p.k
),

weights AS (
    SELECT b, list_transform(
        [unit(g || ':' || b, getvariable('seed')) FOR g IN range(drawn.groups)], lambda u: poisson(u)
    ) AS weights
    FROM (SELECT unnest(range(getvariable('resamples'))) AS b)
    CROSS JOIN (SELECT max(len(above)) AS groups FROM totals) AS drawn
),

resampled AS (
    SELECT t.dataset, t.policy, t.k, w.b, list_inner_product(w.weights[1 : len(t.above)], t.above)
        / nullif(list_inner_product(w.weights[1 : len(t.below)], t.below), 0) AS estimate
    FROM totals AS t
    CROSS JOIN weights AS w
),

spread AS (
    SELECT dataset, policy, k, quantile_cont(estimate, (1 - getvariable('level')) / 2) AS low,
        quantile_cont(estimate, (1 + getvariable('level')) / 2) AS high, stddev_samp(estimate ORDER BY b) AS se
    FROM resampled
    GROUP BY dataset, policy, k
),

measured AS (
    SELECT dataset, policy, k, sum(tasks)::BIGINT AS tasks, sum(above ORDER BY g) / sum(below) AS estimate
    FROM parts
    GROUP BY dataset, policy, k
)

SELECT m.dataset, m.policy, if(m.k = 0, 'mean reward', 'pass@' || m.k) AS metric, m.tasks, m.estimate, s.low, s.high,
    s.se
FROM measured AS m
JOIN spread AS s ON s.dataset = m.dataset AND s.policy = m.policy AND s.k = m.k
ORDER BY m.dataset, m.policy, m.k
