-- Preference pairs of one message: {"input": {"messages": [...], "tools": [...], "parallel_tool_calls": true},
-- "preferred_output": [...], "non_preferred_output": [...]}. For OpenAI's and Azure OpenAI's DPO. Only the keys that they
-- know: reasoning is left out, and a developer is the system.
-- It reads the pairs that a pair step made.
-- target: openai_preference
-- param drop_unfit BOOLEAN = false   leave out what the format cannot hold, rather than stop at it
-- check: SELECT sort_key AS pair, 'an answer is more than one message; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR
            AND json_array_length(c.completion) = 1 AND json_array_length(r.completion) = 1
        THEN '{"input":{"messages":['
            || array_to_string([chat_message(m, role_of(m), 'text', 'drop') FOR m IN messages_of(c.prompt)], ',') || ']'
            || coalesce(',"tools":' || nullif(c.tools::VARCHAR, '[]') || ',"parallel_tool_calls":true', '')
            || '},"preferred_output":['
            || array_to_string([chat_message(m, role_of(m), 'text', 'drop') FOR m IN messages_of(c.completion)], ',')
            || '],"non_preferred_output":['
            || array_to_string([chat_message(m, role_of(m), 'text', 'drop') FOR m IN messages_of(r.completion)], ',')
            || ']}'
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
        NOT getvariable('drop_unfit') OR (json_array_length(c.completion) = 1 AND json_array_length(r.completion) = 1)
    )
