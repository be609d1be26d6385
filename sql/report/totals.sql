-- What the page begins with, and what it warns of.
WITH all_of AS (
    SELECT count(*) AS rollouts, count(DISTINCT (dataset, task_id)) AS tasks, count(DISTINCT dataset) AS datasets,
        count(DISTINCT policy) AS policies, sum(output_tokens) AS tokens, avg(reward) AS mean_reward,
        count(*) FILTER (reward IS NULL AND verdict_error IS NULL) AS unverified,
        count(*) FILTER (verdict_error IS NOT NULL AND verdict_error <> 'masked') AS verdict_failures,
        count(*) FILTER (is_cut_off(finish_reason)) AS cut_off
    FROM rollouts
),

used_of AS (
    SELECT count(DISTINCT (dataset, attempt_id)) AS rollouts, count(DISTINCT (dataset, task_id)) AS tasks,
        count(DISTINCT (dataset, attempt_id)) FILTER (is_cut_off(finish_reason)) AS cut_off,
        avg(reward) AS mean_reward, avg(reward) FILTER (part = 'chosen') AS chosen_mean,
        avg(reward) FILTER (part = 'rejected') AS rejected_mean, sum(output_tokens) AS tokens
    FROM used
)

SELECT a.*, u.rollouts AS used_rollouts, u.tasks AS used_tasks, u.cut_off AS used_cut_off,
    u.mean_reward AS used_mean_reward, u.chosen_mean AS chosen_mean_reward, u.rejected_mean AS rejected_mean_reward,
    u.tokens AS used_tokens
FROM all_of AS a, used_of AS u
