-- Preference pairs with the prompt as messages and the answers as text: {"prompt": [...], "chosen": text, "rejected":
-- text}. For NeMo RL's BinaryPreferenceDataset, which takes the answers as text only. Reasoning is left out.
-- It reads the pairs that a pair step made.
-- target: preference_binary
-- param drop_unfit BOOLEAN = false   leave out what the format cannot hold, rather than stop at it
-- check: SELECT sort_key AS pair,
--     'an answer is more than plain text, or it has tools: use build/preference_ranked; or set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR
            AND is_plain_answer(c.completion) AND is_plain_answer(r.completion)
            AND coalesce(c.tools::VARCHAR, '[]') = '[]'
        THEN '{"prompt":' || c.prompt || ',"chosen":' || json_extract(c.completion, '$[0].content')
            || ',"rejected":' || json_extract(r.completion, '$[0].content') || '}'
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
    AND (NOT getvariable('drop_unfit') OR (is_plain_answer(c.completion) AND is_plain_answer(r.completion)
        AND coalesce(c.tools::VARCHAR, '[]') = '[]'))
