-- Preference pairs with their prompt and margin: {"prompt": [...], "chosen": [...], "rejected": [...], "margin"}.
-- For OpenRLHF's RewardDataset, reward models and DPO: --data.prompt_key prompt. OpenRLHF shows a model no tools, so a
-- pair that has them would train calls of what it cannot see.
-- It reads the pairs that a pair step made.
-- target: openrlhf
-- param drop_unfit BOOLEAN = false   leave out what the format cannot hold, rather than stop at it
-- check: SELECT sort_key AS pair, 'it has tools, or its sides were not asked the same; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR
            AND coalesce(c.tools::VARCHAR, '[]') = '[]'
        THEN '{"prompt":' || c.prompt || ',"chosen":' || c.completion || ',"rejected":' || r.completion
            || coalesce(',"margin":' || to_json(c.margin), '') || '}'
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
    AND (NOT getvariable('drop_unfit') OR coalesce(c.tools::VARCHAR, '[]') = '[]')
