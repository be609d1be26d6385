-- Compare two policies on the tasks of which both have verified rollouts, by dataset. difference = mean of b - mean of
-- a, where a task counts with the mean of its rewards. low and high are the confidence interval of the difference: a
-- paired bootstrap over tasks, as in metrics/confidence. p_sign_flip: how often the difference is as large in either
-- direction if the sign of each task is random, (1 + as large) / (1 + resamples) (Fisher's randomization test; Phipson
-- and Smyth 2010 for the 1). p_sign_test: the exact two-sided binomial test of better against worse tasks, without
-- ties: the smaller of 1 and 2 * sum(C(n, i) for i = 0..min(better, worse)) / 2^n. Signs and weights are hashes of a
-- seed. Beyond `groups` tasks, tasks are assigned to that many groups, and each group is drawn, or flipped, as one.
-- param a         VARCHAR                the baseline policy
-- param b         VARCHAR                the policy compared with the baseline
-- param level     DOUBLE  = 0.95         confidence level: share of resamples between low and high
-- param resamples INTEGER = 1000         number of resamples, and of sign flips
-- param groups    INTEGER = 1000         if there are more tasks than this, they are drawn in this many groups
-- param seed      BIGINT  = 0            seed of the draws
WITH tasks_of AS (
    SELECT dataset, task_id, avg(reward) FILTER (policy = getvariable('a')) AS a,
        avg(reward) FILTER (policy = getvariable('b')) AS b
    FROM rollouts
    WHERE reward IS NOT NULL AND policy IN (getvariable('a'), getvariable('b'))
    GROUP BY dataset, task_id
),

paired AS (
    SELECT dataset, task_id, b - a AS difference FROM tasks_of WHERE a IS NOT NULL AND b IS NOT NULL
),

dealt AS (
    SELECT dataset, difference, (row_number() OVER (
        PARTITION BY dataset ORDER BY unit(task_id, getvariable('seed')), task_id
    ) - 1) % getvariable('groups') AS g
    FROM paired
),

sums AS (
    SELECT dataset, g, count(*)::DOUBLE AS tasks, sum(difference) AS difference FROM dealt GROUP BY dataset, g
),

totals AS (
    SELECT dataset, list(tasks ORDER BY g) AS tasks, list(difference ORDER BY g) AS differences,
        sum(difference ORDER BY g) AS difference
    FROM sums
    GROUP BY dataset
),

draws AS (
    SELECT r, list_transform(
        [unit(g || ':' || r, getvariable('seed')) FOR g IN range(drawn.groups)], lambda u: poisson(u)
    ) AS weights, [
        if(unit(g || ':' || r, getvariable('seed') || ' sign') < 0.5, 1.0, -1.0) FOR g IN range(drawn.groups)
    ] AS signs
    FROM (SELECT unnest(range(getvariable('resamples'))) AS r)
    CROSS JOIN (SELECT coalesce(max(len(tasks)), 0) AS groups FROM totals) AS drawn
),

resampled AS (
    SELECT t.dataset, w.r, list_inner_product(w.weights[1 : len(t.tasks)], t.differences)
        / nullif(list_inner_product(w.weights[1 : len(t.tasks)], t.tasks), 0) AS difference,
        list_inner_product(w.signs[1 : len(t.tasks)], t.differences) AS flipped, t.difference AS observed
    FROM totals AS t
    CROSS JOIN draws AS w
),

-- A sum that is as large but for its rounding is as large.
tested AS (
    SELECT dataset, quantile_cont(difference, (1 - getvariable('level')) / 2) AS low,
        quantile_cont(difference, (1 + getvariable('level')) / 2) AS high,
        (1 + count(*) FILTER (abs(flipped) >= abs(observed) - 1e-9)) / (1 + count(*)) AS p_sign_flip
    FROM resampled
    GROUP BY dataset
),

counted AS (
    SELECT dataset, count(*) AS tasks, count(*) FILTER (difference > 1e-12) AS better,
        count(*) FILTER (difference < -1e-12) AS worse
    FROM paired
    GROUP BY dataset
),

-- C(n, i) / 2^n through the logarithm of the gamma function, so that it stands for any n.
sign_test AS (
    SELECT dataset, least(1.0, 2 * list_sum([
        exp(lgamma(better + worse + 1) - lgamma(i + 1) - lgamma(better + worse - i + 1) - (better + worse) * ln(2))
        FOR i IN range(least(better, worse) + 1)
    ])) AS p_sign_test
    FROM counted
    WHERE better + worse > 0
),

means AS (
    SELECT dataset, avg(a) FILTER (b IS NOT NULL) AS mean_a, avg(b) FILTER (a IS NOT NULL) AS mean_b,
        count(*) FILTER (b IS NULL) AS only_a, count(*) FILTER (a IS NULL) AS only_b
    FROM tasks_of
    GROUP BY dataset
)

SELECT m.dataset, getvariable('a') AS a, getvariable('b') AS b, coalesce(c.tasks, 0) AS tasks, m.only_a, m.only_b,
    m.mean_a, m.mean_b, m.mean_b - m.mean_a AS difference, t.low, t.high, t.p_sign_flip, c.better, c.worse,
    c.tasks - c.better - c.worse AS equal, coalesce(s.p_sign_test, if(c.tasks > 0, 1.0, NULL)) AS p_sign_test
FROM means AS m
LEFT JOIN counted AS c ON c.dataset = m.dataset
LEFT JOIN tested AS t ON t.dataset = m.dataset
LEFT JOIN sign_test AS s ON s.dataset = m.dataset
ORDER BY m.dataset
