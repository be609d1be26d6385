-- Preference pairs ranked: {"context": [...], "completions": [{"rank": 0, "completion": [...]}, {"rank": 1, ...}]}
-- (NeMo RL PreferenceDataset; rank 0 is the better one). It reads the pairs that a pair step made.
-- target: preference_ranked
-- check: SELECT sort_key AS pair,
--     'this format has no place for tools: use build/dpo_messages; or set drop_invalid = true' AS fault
--     FROM result WHERE json = '{"tools":true}'
-- check: SELECT sort_key AS pair, 'its sides were not asked the same, or said the same' AS fault
--     FROM result WHERE json = '{}'
SELECT
    -- What is no pair becomes {}, which the check finds; so are tools, by the other one.
    CASE
        WHEN c.context_hash <> r.context_hash OR c.completion::VARCHAR = r.completion::VARCHAR THEN '{}'
        WHEN c.tools::VARCHAR <> '[]' THEN '{"tools":true}'
        ELSE '{"context":' || c.prompt || ',"completions":[{"rank":0,"completion":' || c.completion
            || '},{"rank":1,"completion":' || r.completion || '}]}'
    END AS json,
    [
        line_key(c.dataset, c.task_id, c.policy, c.rollout_index, 'chosen'),
        line_key(r.dataset, r.task_id, r.policy, r.rollout_index, 'rejected')
    ] AS keys,
    c.prompt_hash AS split_key,
    c.pair AS sort_key
FROM selected AS c
JOIN selected AS r USING (pair)
WHERE c.role = 'chosen' AND r.role = 'rejected'
