-- LLaMA-Factory, formatting sharegpt: {"conversations": [{"from", "value"}, ...], "system"?: text,
-- "tools"?: JSON text, "images"?, "videos"?, "audios"?: [path]}.
-- It skips a row whose turns do not alternate, with a line in its log, and trains on the others.
SELECT split, row, unnest(list_concat(
    media_faults(json, turns::VARCHAR, 'LLaMA-Factory stops with a ValueError'), found([
    media_fault([t.value FOR t IN turns], []),
    call_text_fault([t.value FOR t IN turns IF t."from" = 'function_call']),
    error_if(
        coalesce(len(turns), 0) = 0,
        'conversations is not a list of turns: LLaMA-Factory fails on the row; write [{"from", "value"}]'
    ),
    error_if(
        NOT regexp_full_match(
            array_to_string([coalesce(t."from", '?') FOR t IN turns], ' '),
            '(system )?((human|observation) (gpt|function_call) )*(human|observation) (gpt|function_call)'
        ),
        'turns do not alternate human or observation with gpt or function_call, up to a last one of these: '
        || 'LLaMA-Factory skips the row; join turns of one side, drop an open end'
    ),
    error_if(
        any_holds([t.value IS NULL OR NOT starts_with(t.value::VARCHAR, '"') FOR t IN turns]),
        'a value is not a text: the templates of LLaMA-Factory fail on it; write text'
    ),
    error_if(
        any_holds([NOT is_call_text(t.value) FOR t IN turns IF t."from" = 'function_call']),
        'a function_call is not JSON text of {"name", "arguments"}: LLaMA-Factory stops with a RuntimeError; write '
        || 'it in this form'
    ),
    error_if(
        turns[-1]."from" = 'gpt' AND NOT filled(turns[-1].value),
        'the last answer is empty, so the model learns to return nothing; drop the row'
    ),
    error_if(
        type_of(json, 'system') <> 'VARCHAR',
        'system is not a text: the templates of LLaMA-Factory fail on it; write text'
    ),
    error_if(
        type_of(json, 'tools') IS NOT NULL AND NOT is_tools_text(json_extract(json, '$.tools')),
        'tools is not JSON text of a list: LLaMA-Factory parses text, and Arrow pads lists with nulls; write JSON text'
    )
])), recursive := true)
FROM (
    SELECT split, row, json,
        from_json(json_extract(json, '$.conversations'), '[{"from":"VARCHAR","value":"JSON"}]') AS turns
    FROM lines
)
UNION ALL
SELECT * FROM mixed_types(['system', 'tools', 'images', 'videos', 'audios'])
