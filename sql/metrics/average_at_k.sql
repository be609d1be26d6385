-- The mean reward of the first k rollouts of each task (pass@1 averaged over k, if rewards are 0 and 1), and how much
-- it varies, by dataset and policy. Tasks with fewer than k verified rollouts are left out. NeMo Gym's formulas: the
-- first rollouts of all tasks are one run, the second ones another, and so on. std_across_runs: the standard deviation
-- (n - 1) of the k runs' means; se_across_runs = std_across_runs / sqrt(k); mean_task_std: the standard deviation
-- within a task, averaged over tasks.
-- param k INTEGER[] = NULL   values of k; null: 1, 2, 4, ... and the largest n
WITH tasks_of AS (
    SELECT dataset, policy, task_id, list(reward ORDER BY rollout_index) AS rewards
    FROM rollouts
    WHERE reward IS NOT NULL
    GROUP BY dataset, policy, task_id
),

alike AS (
    SELECT dataset, policy, rewards, count(*) AS tasks FROM tasks_of GROUP BY dataset, policy, rewards
),

ks AS (
    SELECT DISTINCT unnest(coalesce(getvariable('k'), ks_up_to(most))) AS k
    FROM (SELECT max(len(rewards))::INTEGER AS most FROM alike)
),

first_k AS (
    SELECT a.dataset, a.policy, ks.k, a.tasks, a.rewards[1 : ks.k] AS rewards
    FROM alike AS a
    JOIN ks ON len(a.rewards) >= ks.k
),

by_task AS (
    SELECT dataset, policy, k, sum(tasks)::BIGINT AS tasks,
        sum(tasks * list_avg(rewards) ORDER BY rewards) / sum(tasks) AS mean,
        sum(tasks * list_stddev_samp(rewards) ORDER BY rewards) / sum(tasks) AS mean_task_std
    FROM first_k
    GROUP BY dataset, policy, k
),

places AS (
    SELECT dataset, policy, k, tasks, unnest(rewards) AS reward, unnest(range(k)) AS place FROM first_k
),

runs_of AS (
    SELECT dataset, policy, k, place, sum(tasks * reward) / sum(tasks) AS mean
    FROM places
    GROUP BY dataset, policy, k, place
),

across AS (
    SELECT dataset, policy, k, stddev_samp(mean ORDER BY place) AS std FROM runs_of GROUP BY dataset, policy, k
)

SELECT b.dataset, b.policy, b.k, b.tasks, b.mean, a.std AS std_across_runs, a.std / sqrt(b.k) AS se_across_runs,
    b.mean_task_std
FROM by_task AS b
JOIN across AS a ON a.dataset = b.dataset AND a.policy = b.policy AND a.k = b.k
ORDER BY b.dataset, b.policy, b.k
