-- LLaMA-Factory, formatting alpaca: {"instruction", "input"?, "output", "system"?, "history"?:
-- [[question, answer], ...]}.
SELECT split, row, unnest(found([
    media_fault_at(json, ['$.instruction', '$.input', '$.output']),
    error_if(
        NOT filled(json_extract(json, '$.instruction')) AND NOT filled(json_extract(json, '$.input')),
        'neither instruction nor input: the prompt is empty in LLaMA-Factory; write the question as instruction'
    ),
    error_if(
        any_holds([type NOT IN ('VARCHAR', 'NULL') FOR type IN json_type(json, ['instruction', 'input', 'system'])]),
        'instruction, input or system is not a text: LLaMA-Factory stops with a TypeError; write text'
    ),
    error_if(
        type_of(json, 'output') IS DISTINCT FROM 'VARCHAR',
        'output is not a text: LLaMA-Factory treats the row as unanswered and skips it; write text'
    ),
    error_if(text_at(json, '$.output') = '', 'output is empty: the model learns to return nothing; drop the row'),
    error_if(
        any_holds([json_array_length(turn) IS DISTINCT FROM 2 FOR turn IN json_extract(json, '$.history[*]')])
        OR type_of(json, 'history') <> 'ARRAY',
        'history is not a list of [question, answer]: LLaMA-Factory stops with a ValueError; write pairs of text'
    )
]), recursive := true)
FROM lines
UNION ALL
SELECT * FROM mixed_types(['instruction', 'input', 'output', 'system', 'history'])
UNION ALL
SELECT * FROM date_texts(['instruction', 'input', 'output'])
