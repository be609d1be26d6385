-- Add a column `advantage`: each reward relative to the others of its task and policy, as trainers compute it.
--     grpo            (r - mean) / (std + 1e-4)           TRL, scale_rewards = "group"
--     grpo_batch      (r - mean) / (std of all + 1e-4)    TRL, scale_rewards = "batch", all rollouts being the batch
--     grpo_verl       (r - mean) / (std + 1e-6)           verl
--     open_instruct   (r - mean) / (std + 1e-8)           open-instruct "standard", whose std divides by n
--     dr_grpo         r - mean                            Dr. GRPO; open-instruct "centered"; TRL, "none"
--     rloo            r - mean of the others              RLOO in TRL, verl and NeMo RL
--     maxrl           (r - mean) / mean, 0 without any    prime-rl
--     grpo_passk      (r - next) / (std + 1e-6) of the best, else 0    verl
-- std divides by n - 1, except for open_instruct. A single rollout is compared with 0, as in verl. A rollout without a
-- reward has no advantage.
-- param formula VARCHAR = 'grpo'   one of the formulas above
-- check: SELECT getvariable('formula') AS formula,
--     'grpo, grpo_batch, grpo_verl, open_instruct, dr_grpo, rloo, maxrl, grpo_passk' AS must_be_one_of
--     WHERE getvariable('formula') NOT IN (
--         'grpo', 'grpo_batch', 'grpo_verl', 'open_instruct', 'dr_grpo', 'rloo', 'maxrl', 'grpo_passk'
--     )
-- report: SELECT dataset, count(advantage) AS rollouts, count(*) FILTER (advantage = 0) AS zero,
--     min(advantage) AS lowest, max(advantage) AS highest,
--     round(list_sum(list_sort(list(advantage * advantage))), 9) AS sum_of_squares
--     FROM result GROUP BY dataset ORDER BY dataset
WITH rewards AS (
    -- Sorted, so that sums do not depend on the order in which rows are read.
    SELECT dataset, task_id, policy, list_sort(list(reward)) AS rewards
    FROM selected
    WHERE reward IS NOT NULL
    GROUP BY dataset, task_id, policy
),

groups AS (
    SELECT dataset, task_id, policy, len(rewards) AS n, rewards[-1] AS best, coalesce(rewards[-2], 0) AS next,
        CASE WHEN len(rewards) > 1 THEN list_avg(rewards) ELSE 0 END AS mean,
        coalesce(list_aggregate(rewards, 'stddev_samp'), 1) AS std,
        CASE WHEN len(rewards) > 1 THEN list_aggregate(rewards, 'stddev_pop') ELSE 1 END AS std_of_n
    FROM rewards
),

batch AS (
    SELECT coalesce(list_aggregate(list_sort(list(reward)), 'stddev_samp'), 1) AS std_of_all FROM selected
),

-- The best of a group is one rollout; where several are, their advantage is 0 anyway.
advantages AS (
    SELECT s.dataset, s.task_id, s.policy, s.rollout_index, s.copy,
        CASE getvariable('formula')
            WHEN 'grpo' THEN (s.reward - g.mean) / (g.std + 1e-4)
            WHEN 'grpo_batch' THEN (s.reward - g.mean) / (b.std_of_all + 1e-4)
            WHEN 'grpo_verl' THEN (s.reward - g.mean) / (g.std + 1e-6)
            WHEN 'open_instruct' THEN (s.reward - g.mean) / (g.std_of_n + 1e-8)
            WHEN 'dr_grpo' THEN s.reward - g.mean
            WHEN 'rloo' THEN CASE WHEN g.n > 1 THEN g.n / (g.n - 1) * (s.reward - g.mean) ELSE s.reward END
            WHEN 'maxrl' THEN CASE WHEN g.mean > 0 THEN (s.reward - g.mean) / g.mean ELSE 0 END
            WHEN 'grpo_passk' THEN CASE WHEN s.reward = g.best THEN (g.best - g.next) / (g.std + 1e-6) ELSE 0 END
        END AS advantage
    FROM selected AS s
    JOIN groups AS g ON g.dataset = s.dataset AND g.task_id = s.task_id AND g.policy = s.policy
    CROSS JOIN batch AS b
    WHERE s.reward IS NOT NULL
)

SELECT s.*, a.advantage
FROM selected AS s
LEFT JOIN advantages AS a USING (dataset, task_id, policy, rollout_index, copy)
