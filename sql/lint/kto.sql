-- TRL's KTOTrainer: {"prompt", "completion", "label": true or false}, prompt and completion both text or both messages.
SELECT split, row, unnest(list_concat(
    message_faults(line.prompt), message_faults(line.completion), argument_faults(line.prompt),
    argument_faults(line.completion), tool_faults(line.tools),
    found([
        error_if(
            coalesce(prompt, '') NOT IN ('ARRAY', 'VARCHAR') OR coalesce(completion, '') NOT IN ('ARRAY', 'VARCHAR'),
            'prompt or completion is neither text nor a list of messages: TRL fails on the row; write one of them'
        ),
        error_if(
            prompt <> completion,
            'prompt and completion differ in type (text vs. messages), which TRL cannot read; write both as messages'
        ),
        error_if(
            type_of(json, 'label') IS DISTINCT FROM 'BOOLEAN',
            'label is neither true nor false: TRL treats any other value as true; write one of them'
        ),
        error_if(
            completion = 'ARRAY' AND line.completion[-1].role IS DISTINCT FROM 'assistant',
            'the completion does not end with the assistant: TRL trains on a turn that is not the model''s; drop '
            || 'the row'
        ),
        error_if(
            json_extract(json, '$.label') = 'true'
            AND (ends_empty(line.completion) OR (completion = 'VARCHAR' AND text_at(json, '$.completion') = '')),
            'a desirable completion is empty: the model learns to return nothing; drop the row'
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
SELECT split, 1, 'warning', 'desirable to undesirable is ' || yes || ' to ' || total - yes
    || ': TRL wants their weighted numbers in 1 to 4/3; set desirable_weight or undesirable_weight'
FROM (
    SELECT split, count(*) AS total, count(*) FILTER (json_extract_string(json, '$.label') = 'true') AS yes
    FROM lines GROUP BY split
)
WHERE yes < total - yes OR 3 * yes > 4 * (total - yes)
UNION ALL
SELECT * FROM date_texts(['$.completion[0].content'])
