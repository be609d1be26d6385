-- Sort the tasks into pools by their mean reward (hard, normal, easy), and keep a share of each pool (prime-rl's pools
-- and weights). Adds the column `pool`. The mean reward is computed for each policy separately. A hash of each task's
-- key and the seed decides whether it is kept, so that adding tasks does not change the choice for the others; the
-- share is met on average. Rollouts without a reward are dropped.
-- param hard_to   DOUBLE = 0.25   highest mean reward of a hard task
-- param normal_to DOUBLE = 0.75   highest mean reward of a normal task; above it a task is easy
-- param hard      DOUBLE = 0.2    share of the hard tasks to keep, from 0 to 1
-- param normal    DOUBLE = 1.0    share of the normal tasks to keep
-- param easy      DOUBLE = 0.2    share of the easy tasks to keep
-- param seed      BIGINT = 42     seed of the choice
-- report: WITH there AS (SELECT dataset, policy, task_id, reward FROM selected WHERE reward IS NOT NULL),
--     means AS (SELECT dataset, policy, task_id, round(list_avg(list_sort(list(reward))), 12) AS mean_reward
--     FROM there GROUP BY dataset, policy, task_id),
--     kept AS (SELECT DISTINCT dataset, policy, task_id FROM result)
--     SELECT m.dataset, m.policy, CASE WHEN m.mean_reward <= getvariable('hard_to') THEN 'hard'
--     WHEN m.mean_reward <= getvariable('normal_to') THEN 'normal' ELSE 'easy' END AS pool,
--     count(*) AS tasks, count(k.task_id) AS kept FROM means AS m LEFT JOIN kept AS k
--     ON k.dataset = m.dataset AND k.policy = m.policy AND k.task_id = m.task_id
--     GROUP BY m.dataset, m.policy, pool ORDER BY m.dataset, m.policy, min(m.mean_reward)
WITH task_means AS (
    -- Summed in sorted order and rounded, so that the mean does not depend on the order in which rows are read.
    SELECT dataset, task_id, policy, round(list_avg(list_sort(list(reward))), 12) AS mean_reward
    FROM selected
    WHERE reward IS NOT NULL
    GROUP BY dataset, task_id, policy
),

pools AS (
    SELECT dataset, task_id, policy, CASE
        WHEN mean_reward <= getvariable('hard_to') THEN 'hard'
        WHEN mean_reward <= getvariable('normal_to') THEN 'normal'
        ELSE 'easy'
    END AS pool
    FROM task_means
)

SELECT s.*, p.pool, CASE
    WHEN s.reward IS NULL THEN 'no reward'
    WHEN unit(concat_ws('/', s.dataset, s.task_id, s.policy), getvariable('seed')) >= CASE p.pool
        WHEN 'hard' THEN getvariable('hard')
        WHEN 'normal' THEN getvariable('normal')
        ELSE getvariable('easy')
    END THEN format('above the share of {} tasks', p.pool)
END AS dropped
FROM selected AS s
LEFT JOIN pools AS p USING (dataset, task_id, policy)
