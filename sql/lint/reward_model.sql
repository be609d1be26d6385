-- Reward models of TRL and OpenRLHF: {"prompt"?, "chosen", "rejected", "margin"?: number, "tools"?}, all text or all
-- messages; without a prompt chosen and rejected are whole conversations.
SELECT split, row, unnest(list_concat(
    message_faults(line.prompt), message_faults(line.chosen), message_faults(line.rejected),
    argument_faults(line.prompt), argument_faults(line.chosen), argument_faults(line.rejected),
    tool_faults(line.tools), pair_faults(chosen, rejected),
    found([
        error_if(
            coalesce(chosen_type, '') NOT IN ('ARRAY', 'VARCHAR') OR chosen_type IS DISTINCT FROM rejected_type
            OR chosen_type <> prompt_type,
            'prompt, chosen and rejected are not all text or all messages: TRL expects one form and fails; write '
            || 'all as messages'
        ),
        error_if(
            line.chosen[-1].role <> 'assistant' OR line.rejected[-1].role <> 'assistant',
            'an answer does not end with the assistant: a turn that is not the model''s is scored; drop the row'
        ),
        error_if(
            prompt_type IS NULL AND line.chosen[1] <> line.rejected[1],
            'chosen and rejected have different prompts: a pair needs one prompt; drop the row'
        ),
        warning_if(
            prompt_type IS NULL AND line.chosen[:-2] <> line.rejected[:-2],
            'chosen and rejected differ before the last turn: TRL scores whole conversations, but OpenRLHF and '
            || 'open-instruct '
            || 'treat the last turns as answers to one prompt; drop the row for them'
        ),
        error_if(
            line.margin IS NOT NULL AND TRY_CAST(line.margin::VARCHAR AS DOUBLE) IS NULL,
            'margin is not a number: the loss fails on it; write a number, or leave it out'
        ),
        error_if(
            TRY_CAST(text_at(line.margin, '$') AS DOUBLE) < 0,
            'margin is below 0: it asks the model to prefer the rejected answer; swap them'
        ),
        error_if(ends_empty(line.chosen), 'the chosen answer is empty: empty answers are rewarded; drop the row')
    ])
), recursive := true)
FROM (
    SELECT split, row, json_extract(json, '$.chosen') AS chosen, json_extract(json, '$.rejected') AS rejected,
        type_of(json, 'prompt') AS prompt_type, type_of(json, 'chosen') AS chosen_type,
        type_of(json, 'rejected') AS rejected_type,
        from_json(json, '{"prompt":' || chat() || ',"chosen":' || chat() || ',"rejected":' || chat()
            || ',"margin":"JSON","tools":"JSON"}') AS line
    FROM lines
)
UNION ALL
SELECT * FROM mixed_types(['prompt', 'chosen', 'rejected', 'margin', 'tools'])
