-- ms-swift's AutoPreprocessor: {"messages": [...], "tools"?: JSON text or list, "rejected_response"?, "label"?,
-- "margin"?}; with rejected_response or rejected_messages a preference pair.
SELECT split, row, unnest(list_concat(
    message_faults(line.messages, media := ['image', 'video', 'audio', 'image_url', 'video_url', 'audio_url']),
    tool_faults(line.tools),
    media_faults(
        json, array_to_string([m.content::VARCHAR FOR m IN line.messages], ' '),
        'ms-swift puts media without a mark before the first question, and drops marks without media'
    ),
    found([
        no_messages('messages', line.messages),
        call_text_fault([m.content FOR m IN line.messages IF m.role = 'tool_call']),
        error_if(
            other_roles(line.messages, ['system', 'user', 'assistant', 'tool', 'tool_call', 'tool_response', 'developer']),
            'a role is not system, user, assistant, tool_call, tool_response or tool: '
            || 'ms-swift rejects the row; use role system'
        ),
        error_if(
            has_reasoning(line.messages),
            'reasoning_content: ms-swift drops it silently, and the model learns not to think; '
            || 'write it into content, in <think> tags'
        ),
        error_if(
            ends_empty(line.messages) AND json_extract(json, '$.label') IS DISTINCT FROM 'false'::JSON,
            'the last answer is empty, so the model learns to return nothing; drop the row'
        ),
        warning_if(
            line.messages[-1].role NOT IN ('assistant', 'tool_call') AND NOT json_exists(json, '$.solution'),
            'the last turn is not the assistant''s: only GRPO accepts such a row; for SFT remove the turn or drop '
            || 'the row'
        ),
        error_if(
            json_exists(json, '$.rejected_response') AND (
                type_of(json, 'rejected_response') IS NULL
                OR text_at(json, '$.rejected_response') = text_at(line.messages[-1].content, '$')
            ),
            'rejected_response is null or equals the answer: ms-swift raises a ValueError; drop the row'
        ),
        error_if(
            text_at(json, '$.rejected_messages') = text_at(json, '$.messages'),
            'rejected_messages equal messages: the pair teaches nothing; drop the row'
        ),
        error_if(
            type_of(json, 'label') <> 'BOOLEAN',
            'label is neither true nor false: KTO cannot read it; write true or false'
        ),
        error_if(
            json_exists(json, '$.label') AND line.messages[-1].role <> 'assistant',
            'the last turn of an answer with a label is not the assistant''s: KTO stops with an AssertionError; '
            || 'drop the row'
        )
    ])
), recursive := true)
FROM (SELECT split, row, json, from_json(json, '{"messages":' || chat() || ',"tools":"JSON"}') AS line FROM lines)
UNION ALL
SELECT * FROM mixed_types(['messages', 'tools', 'rejected_response', 'images', 'videos', 'audios'])
