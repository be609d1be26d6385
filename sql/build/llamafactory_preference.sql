-- Preference pairs in turns: {"conversations": [...], "chosen": {"from", "value"}, "rejected": {...}, "system", "tools"}.
-- For LLaMA-Factory's DPO, KTO-paired, ORPO and reward models; dataset_info.json lies beside it. Reasoning stands in
-- <think> tags. Both answers are one message: where rollouts are longer, their first steps differ and there is no pair.
-- It reads the pairs that a pair step made.
-- target: llamafactory_preference
-- dataset_info: {"formatting": "sharegpt", "ranking": true,
--     "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system",
--     "tools": "tools"}}
-- param drop_unfit BOOLEAN = false   leave out what the format cannot hold, rather than stop at it
-- check: SELECT sort_key AS pair,
--     'an answer is more than one message of text, or one call; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR
            AND json_array_length(c.completion) = 1 AND json_array_length(r.completion) = 1
            AND fits_sharegpt(spoken(c.prompt, c.completion)) AND fits_sharegpt(spoken(r.prompt, r.completion))
        THEN '{"conversations":[' || sharegpt_turns(messages_of(c.prompt)) || '],"chosen":'
            || sharegpt_turns(messages_of(c.completion)) || ',"rejected":' || sharegpt_turns(messages_of(r.completion))
            || coalesce(',"system":' || to_json(system_text(messages_of(c.prompt))), '')
            || coalesce(',"tools":' || tools_text(c.tools), '') || '}'
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
    AND (
        NOT getvariable('drop_unfit')
        OR (json_array_length(c.completion) = 1 AND json_array_length(r.completion) = 1
            AND fits_sharegpt(spoken(c.prompt, c.completion)) AND fits_sharegpt(spoken(r.prompt, r.completion)))
    )
