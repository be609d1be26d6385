-- TRL's SFTTrainer, trained on the completion only: {"prompt", "completion", "tools"?}, both text or both messages.
SELECT split, row, unnest(list_concat(
    message_faults(line.prompt, media := ['image']), message_faults(line.completion),
    argument_faults(line.prompt), argument_faults(line.completion), tool_faults(line.tools),
    found([
        image_fault(json, line.prompt || line.completion),
        error_if(
            prompt IS NULL OR prompt NOT IN ('ARRAY', 'VARCHAR'),
            'prompt is neither text nor a list of messages: TRL stops with a KeyError or TypeError; write one of them'
        ),
        error_if(
            completion IS NULL OR completion NOT IN ('ARRAY', 'VARCHAR'),
            'completion is neither text nor a list of messages: TRL stops with a KeyError or TypeError; write one '
            || 'of them'
        ),
        error_if(
            prompt <> completion,
            'prompt and completion differ in type (text vs. messages), which TRL cannot read; write both as messages'
        ),
        error_if(
            completion = 'ARRAY' AND line.completion[-1].role IS DISTINCT FROM 'assistant',
            'the completion does not end with the assistant: TRL trains on a turn that is not the model''s; drop '
            || 'the row'
        ),
        error_if(
            ends_empty(line.completion) OR (completion = 'VARCHAR' AND NOT filled(json_extract(json, '$.completion'))),
            'the completion is empty: the model learns to return nothing; drop the row'
        ),
        warning_if(
            line.prompt[-1].role = 'assistant',
            'the prompt ends with the assistant: TRL opens no new turn, so the completion continues it; move it there'
        )
    ])
), recursive := true)
FROM (
    SELECT split, row, json, type_of(json, 'prompt') AS prompt, type_of(json, 'completion') AS completion,
        from_json(json, '{"prompt":' || chat() || ',"completion":' || chat() || ',"tools":"JSON"}') AS line
    FROM lines
)
UNION ALL
SELECT * FROM mixed_types(['prompt', 'completion', 'tools'])
UNION ALL
SELECT * FROM date_texts(['$.completion[0].content'])
