-- Multiply the reward of truncated rollouts by a coefficient (NeMo RL's stop_properly_penalty_coef); 0 makes it 0.
-- param coefficient    DOUBLE = 0                 factor for the reward of truncated rollouts
-- param finish_reasons VARCHAR[] = NULL           finish reasons that count as truncated (null: all but stop and tool_calls)
-- report: SELECT r.dataset, count(*) AS rollouts,
--     count(*) FILTER (coalesce(list_contains(getvariable('finish_reasons'), s.finish_reason),
--     is_cut_off(s.finish_reason))) AS cut_off
--     FROM result AS r JOIN selected AS s USING (dataset, task_id, policy, rollout_index, copy)
--     GROUP BY r.dataset ORDER BY r.dataset
SELECT s.* REPLACE (
    CASE
        WHEN coalesce(list_contains(getvariable('finish_reasons'), s.finish_reason), is_cut_off(s.finish_reason))
            THEN s.reward * getvariable('coefficient')
        ELSE s.reward
    END AS reward
)
FROM selected AS s
