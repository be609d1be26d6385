-- Preference pairs of one message: {"input": {"messages": [...], "tools": [...], "parallel_tool_calls": true},
-- "preferred_output": [...], "non_preferred_output": [...]}. For OpenAI's and Azure OpenAI's DPO. Keys that they do not
-- know are left out, e.g. reasoning; the role developer becomes system.
-- reads: pairs
-- target: openai_preference
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: SELECT sort_key AS pair, 'an answer is more than one message; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN comparable AND json_array_length(chosen) = 1 AND json_array_length(rejected) = 1
        THEN concat(
            '{"input":{"messages":[',
            array_to_string([chat_message(m, role_of(m), 'text', 'drop') FOR m IN messages_of(prompt)], ','),
            ']', ',"tools":' || nullif(tools::VARCHAR, '[]') || ',"parallel_tool_calls":true',
            '},"preferred_output":[',
            array_to_string([chat_message(m, role_of(m), 'text', 'drop') FOR m IN messages_of(chosen)], ','),
            '],"non_preferred_output":[',
            array_to_string([chat_message(m, role_of(m), 'text', 'drop') FOR m IN messages_of(rejected)], ','),
            ']}'
        )
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
WHERE NOT getvariable('drop_unfit') OR (json_array_length(chosen) = 1 AND json_array_length(rejected) = 1)
