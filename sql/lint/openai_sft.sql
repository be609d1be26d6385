-- OpenAI, Azure, Fireworks and Together: {"messages": [..., "weight"? of the assistant's], "tools"?,
-- "parallel_tool_calls"?}.
SELECT split, row, unnest(list_concat(
    message_faults(line.messages, media := linked_pictures(line.messages)), tool_faults(line.tools),
    found([
        no_messages('messages', line.messages),
        error_if(
            len(other_keys(json, ['messages', 'tools', 'parallel_tool_calls', 'functions'])) > 0,
            'a key that the format does not know: the upload is rejected; leave it out'
        ),
        error_if(
            any_holds([
                len(other_keys(m, [
                    'role', 'content', 'name', 'weight', 'tool_calls', 'tool_call_id', 'refusal', 'function_call'
                ])) > 0 FOR m IN json_extract(json, '$.messages[*]')
            ]),
            'a message has a key that the format does not know (e.g. reasoning_content): the upload is rejected; '
            || 'leave it out'
        ),
        error_if(
            other_roles(line.messages, ['system', 'user', 'assistant', 'tool', 'developer']),
            'a role is not system, user, assistant or tool: the upload is rejected; use role system'
        ),
        error_if(
            line.messages[-1].role <> 'assistant',
            'the last turn is not the assistant''s: the upload is rejected, or the row trains nothing; drop it'
        ),
        error_if(
            ends_empty(line.messages),
            'the last answer is empty, so the model learns to return nothing; drop the row'
        ),
        error_if(
            object_arguments(line.messages),
            'the arguments of a tool call are an object: the upload is rejected; write them as JSON text'
        ),
        error_if(
            any_holds([w NOT IN ('0', '1') FOR w IN json_extract_string(json, '$.messages[*].weight')]),
            'a weight is neither 0 nor 1: the upload is rejected; write one of them'
        ),
        error_if(
            len(json_extract(json, '$.messages[*].weight')) > 0 AND NOT list_contains([
                coalesce(text_at(m, '$.weight'), '1') <> '0'
                FOR m IN json_extract(json, '$.messages[*]') IF text_at(m, '$.role') = 'assistant'
            ], true),
            'every answer has weight 0: the row trains nothing; drop it'
        )
    ])
), recursive := true)
FROM (SELECT split, row, json, from_json(json, '{"messages":' || chat() || ',"tools":"JSON"}') AS line FROM lines)
UNION ALL
SELECT any_value(split), 1, 'warning', 'fewer than 10 lines: OpenAI wants 10 or more in the training file'
FROM lines HAVING count(*) < 10
