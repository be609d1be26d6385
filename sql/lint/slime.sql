-- slime with --input-key prompt --label-key label --metadata-key metadata --tool-key tools: {"prompt", "label"?,
-- "metadata"?: object, "tools"?}; for SFT prompt or messages end with the assistant.
SELECT split, row, unnest(list_concat(
    prompt_faults(prompt, line.prompt), message_faults(line.prompt), argument_faults(line.prompt), tool_faults(line.tools),
    found([
        error_if(
            type_of(json, 'metadata') <> 'OBJECT',
            'metadata is not an object: slime stops with a TypeError; write an object'
        ),
        warning_if(
            line.prompt[-1].role = 'assistant',
            'the prompt ends with the assistant: that is right for SFT only; for RL cut the last turn'
        ),
        warning_if(
            type_of(json, 'label') IS NULL AND line.prompt[-1].role IS DISTINCT FROM 'assistant',
            'no label: a rule-based reward has nothing to compare with; write the expected answer'
        )
    ])
), recursive := true)
FROM (
    SELECT split, row, json, type_of(json, 'prompt') AS prompt,
        from_json(json, '{"prompt":' || chat() || ',"tools":"JSON"}') AS line
    FROM lines
)
UNION ALL
SELECT * FROM mixed_types(['prompt', 'label', 'metadata', 'tools'])
UNION ALL
SELECT * FROM date_texts(['label'])
