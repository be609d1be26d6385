-- Preference pairs as whole conversations: {"chosen": [...], "rejected": [...], "margin", "chosen_rating",
-- "rejected_rating", "tools": [...]}. For TRL's RewardTrainer, OpenRLHF's reward models and open-instruct. margin is the
-- difference of the ratings, which are the two rewards; a pair without rewards has neither.
-- It reads the pairs that a pair step made.
-- target: reward_model
-- check: SELECT sort_key AS pair, 'its sides were not asked the same, or said the same' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR
        THEN '{"chosen":[' || array_to_string(spoken(c.prompt, c.completion), ',') || '],"rejected":['
            || array_to_string(spoken(r.prompt, r.completion), ',') || ']'
            || coalesce(',"margin":' || to_json(c.margin), '') || coalesce(',"chosen_rating":' || to_json(c.reward), '')
            || coalesce(',"rejected_rating":' || to_json(r.reward), '')
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
