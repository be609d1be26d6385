-- LLaMA-Factory with ranking = true: {"conversations": [..., the question last], "chosen": {"from", "value"},
-- "rejected": {...}, "system"?, "tools"?}; with kto_tag: {"conversations": [..., the answer last], "kto_tag"}.
SELECT split, row, unnest(list_concat(
    media_faults(json, line::VARCHAR, 'LLaMA-Factory stops with a ValueError'), found([
    media_fault([turn.value FOR turn IN line.conversations] || [line.chosen.value, line.rejected.value], []),
    call_text_fault([
        turn.value FOR turn IN (line.conversations || [line.chosen, line.rejected]) IF turn."from" = 'function_call'
    ]),
    error_if(
        coalesce(len(line.conversations), 0) = 0,
        'conversations is not a list of turns: LLaMA-Factory fails on the row; write [{"from", "value"}]'
    ),
    error_if(
        NOT is_kto AND NOT regexp_full_match(
            turns, '(system )?((human|observation) (gpt|function_call) )*(human|observation)'
        ),
        'turns do not alternate, or the last one is not human or observation: LLaMA-Factory skips the row; put the '
        || 'answers '
        || 'into chosen and rejected only, join turns of one side'
    ),
    error_if(
        is_kto AND NOT regexp_full_match(
            turns, '(system )?((human|observation) (gpt|function_call) )*(human|observation) (gpt|function_call)'
        ),
        'turns do not alternate, or the last one is not gpt or function_call: LLaMA-Factory skips the row; drop it'
    ),
    error_if(
        is_kto AND type_of(json, 'kto_tag') IS DISTINCT FROM 'BOOLEAN',
        'kto_tag is neither true nor false: LLaMA-Factory treats the row as plain SFT; write one of them'
    ),
    error_if(
        NOT is_kto AND (line.chosen."from" IS NULL OR line.rejected."from" IS NULL),
        'chosen or rejected is not {"from", "value"}: LLaMA-Factory treats the row as plain SFT; write both in '
        || 'this form'
    ),
    error_if(
        list_contains([speaker NOT IN ('gpt', 'function_call') FOR speaker IN [
            line.chosen."from", line.rejected."from"
        ]], true),
        'chosen or rejected is not from gpt or function_call: LLaMA-Factory stops with a KeyError, or trains it; '
        || 'write gpt'
    ),
    error_if(
        list_contains([value IS NULL OR NOT starts_with(value::VARCHAR, '"') FOR value IN
            [turn.value FOR turn IN line.conversations] || CASE WHEN is_kto THEN [] ELSE
            [line.chosen.value, line.rejected.value] END
        ], true),
        'a value is not a text: the templates of LLaMA-Factory fail on it; write text'
    ),
    error_if(
        line.chosen.value::VARCHAR = line.rejected.value::VARCHAR,
        'chosen equals rejected: the pair teaches nothing; drop the row'
    ),
    error_if(
        json_extract_string(json, '$.kto_tag') = 'true' AND line.conversations[-1].value::VARCHAR = '""',
        'a desirable answer is empty: LLaMA-Factory treats it as an undesirable one; drop the row'
    ),
    error_if(line.chosen.value::VARCHAR = '""', 'chosen is empty: the model learns to return nothing; drop the row'),
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
    SELECT split, row, json, line, json_exists(json, '$.kto_tag') AS is_kto,
        array_to_string([coalesce(turn."from", '?') FOR turn IN line.conversations], ' ') AS turns
    FROM (
        SELECT split, row, json, from_json(json, '{"conversations":[{"from":"VARCHAR","value":"JSON"}],'
            || '"chosen":{"from":"VARCHAR","value":"JSON"},"rejected":{"from":"VARCHAR","value":"JSON"}}') AS line
        FROM lines
    )
)
UNION ALL
SELECT * FROM mixed_types(['system', 'tools', 'chosen', 'rejected', 'kto_tag', 'images', 'videos', 'audios'])
UNION ALL
SELECT * FROM date_texts(['$.chosen.value', '$.rejected.value'])
