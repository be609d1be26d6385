-- Preference pairs as whole conversations: {"chosen": [...], "rejected": [...], "margin", "chosen_rating",
-- "rejected_rating", "tools": [...]}. For TRL's RewardTrainer, OpenRLHF's reward models and open-instruct. margin is the
-- difference of the ratings, which are the two rewards; pairs that do not go by rewards have neither.
-- It reads the pairs that a pair step made.
-- target: reward_model
-- param arguments VARCHAR = 'text'   arguments of tool calls: text, as received, or object
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
-- check: SELECT sort_key AS pair, 'its sides were not asked the same, or said the same' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR
        THEN '{"chosen":' || chat_text(joined(c.prompt, c.completion), getvariable('arguments'), 'key')
            || ',"rejected":' || chat_text(joined(r.prompt, r.completion), getvariable('arguments'), 'key')
            || coalesce(',"margin":' || to_json(c.margin) || ',"chosen_rating":' || to_json(c.reward)
                || ',"rejected_rating":' || to_json(r.reward), '')
            || coalesce(',"tools":' || nullif(c.tools::VARCHAR, '[]'), '') || '}'
        ELSE '{}' END AS json,
    [
        line_key(c.dataset, c.task_id, c.policy, c.rollout_index, 'chosen'),
        line_key(r.dataset, r.task_id, r.policy, r.rollout_index, 'rejected')
    ] AS keys,
    c.prompt_hash AS split_key,
    c.pair AS sort_key
FROM selected AS c
JOIN selected AS r USING (pair)
WHERE c.role = 'chosen' AND r.role = 'rejected'
