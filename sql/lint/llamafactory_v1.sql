-- LLaMA-Factory v1: {"messages": [{"role", "content": [{"type", "value"}, ...], "loss_weight"?}, ...], "tools"?: JSON
-- text}.
SELECT split, row, unnest(found([
    developer_fault(talk),
    call_text_fault([part->'$.value' FOR part IN parts IF text_at(part, '$.type') = 'tool_call']),
    two_turns_fault(any_holds([
        coalesce(pair[1].role = 'assistant' AND pair[2].role = 'assistant', false)
        AND NOT list_contains(json_extract_string(pair[1].content, '$[*].type'), 'tool_call')
        FOR pair IN list_zip(talk[:-2], talk[2:])
    ])),
    error_if(
        coalesce(len(talk), 0) = 0,
        'messages is not a list of {"role", "content"}: LLaMA-Factory fails on the row; write such a list'
    ),
    error_if(
        any_holds([coalesce(m.role, '?') NOT IN ('system', 'user', 'assistant', 'tool', 'developer') FOR m IN talk]),
        'a role is not system, user, assistant or tool: LLaMA-Factory leaves the message out '
        || 'silently; use role system'
    ),
    error_if(
        any_holds([json_type(m.content) IS DISTINCT FROM 'ARRAY' FOR m IN talk])
        OR any_holds([json_type(part, '$.value') IS DISTINCT FROM 'VARCHAR' FOR part IN parts]),
        'content is not a list of {"type", "value"} with text: LLaMA-Factory stops with a TypeError; write such parts'
    ),
    error_if(
        any_holds([
            text_at(part, '$.type') NOT IN ('text', 'reasoning', 'tool_call', 'image_url', 'video_url', 'audio_url')
            FOR part IN parts
        ]),
        'a part is of a type that LLaMA-Factory does not know: it stops with a ValueError; write text, reasoning or '
        || 'tool_call'
    ),
    error_if(
        any_holds([
            list_has_any(json_extract_string(m.content, '$[*].type'), ['reasoning', 'tool_call']) FOR m IN talk
            IF m.role <> 'assistant'
        ]),
        'reasoning or a tool call outside the assistant''s messages: LLaMA-Factory stops with a ValueError; write text'
    ),
    error_if(
        any_holds([
            NOT is_call_text(json_extract(part, '$.value')) FOR part IN parts IF text_at(part, '$.type') = 'tool_call'
        ]),
        'a tool_call is not JSON text of {"name", "arguments"}: LLaMA-Factory stops with a ValueError; write it in '
        || 'this form'
    ),
    error_if(
        any_holds([m.loss_weight IS NULL FOR m IN talk]) AND any_holds([m.loss_weight IS NOT NULL FOR m IN talk]),
        'a message has no loss_weight but others have one: datasets makes it null, and LLaMA-Factory stops with a '
        || 'TypeError; write 0 or 1'
    ),
    error_if(
        NOT any_holds([m.role = 'assistant' AND coalesce(m.loss_weight, 1) > 0 FOR m IN talk]),
        'no answer has a loss_weight: the row trains nothing; drop it'
    ),
    error_if(
        talk[-1].role = 'assistant' AND NOT any_holds([
            text_at(part, '$.type') <> 'reasoning' AND text_at(part, '$.value') <> ''
            FOR part IN json_extract(talk[-1].content, '$[*]')
        ]),
        'the last answer is empty, so the model learns to return nothing; drop the row'
    ),
    error_if(
        type_of(json, 'tools') IS NOT NULL AND NOT is_tools_text(json_extract(json, '$.tools')),
        'tools is not JSON text of a list: LLaMA-Factory parses text, and Arrow pads lists with nulls; write JSON text'
    )
]), recursive := true)
FROM (
    SELECT *, json_extract(json, '$.messages[*].content[*]') AS parts
    FROM (
        SELECT split, row, json, from_json(
            json_extract(json, '$.messages'), '[{"role":"VARCHAR","content":"JSON","loss_weight":"DOUBLE"}]'
        ) AS talk
        FROM lines
    )
)
UNION ALL
SELECT * FROM mixed_types(['messages', 'tools'])
