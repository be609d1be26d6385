-- OpenRLHF's RewardDataset, for reward models and DPO: {"prompt"?, "chosen": [...], "rejected": [...], "margin"?}; its
-- PromptDataset and SFTDataset read the other lines: {"messages"}, or {"prompt" or "input", "label"?}.
SELECT split, row, unnest(list_concat(
    message_faults(line.messages), message_faults(line.prompt), message_faults(line.chosen),
    message_faults(line.rejected), argument_faults(line.messages), argument_faults(line.prompt),
    argument_faults(line.chosen), argument_faults(line.rejected), CASE WHEN is_pair THEN pair_faults(chosen, rejected) END,
    found([
        error_if(
            NOT is_pair AND coalesce(len(line.messages), 0) = 0 AND prompt_type IS NULL AND input_type IS NULL,
            'neither chosen and rejected nor messages, prompt or input: OpenRLHF stops with a KeyError; use one of '
            || 'these names'
        ),
        error_if(
            is_pair AND (coalesce(chosen_type, '') NOT IN ('ARRAY', 'VARCHAR')
                OR chosen_type IS DISTINCT FROM rejected_type OR chosen_type <> prompt_type),
            'prompt, chosen and rejected are not all text or all messages: OpenRLHF stops with a TypeError; write '
            || 'all as messages'
        ),
        error_if(
            line.chosen[-1].role <> 'assistant' OR line.rejected[-1].role <> 'assistant'
            OR (NOT is_pair AND line.messages[-1].role <> 'assistant'),
            'an answer does not end with the assistant: OpenRLHF treats another turn as the answer; drop the row'
        ),
        error_if(
            prompt_type IS NULL AND line.chosen[:-2] <> line.rejected[:-2],
            'chosen and rejected differ before the last turn: OpenRLHF uses the prompt of chosen for both; drop the row'
        ),
        error_if(
            starts_with(line.margin::VARCHAR, '"'),
            'margin is not a number: the loss fails on it; write a number, or leave it out'
        ),
        error_if(
            ends_empty(line.chosen) OR ends_empty(line.messages),
            'the last answer is empty, so the model learns to return nothing; drop the row'
        ),
        warning_if(
            line.tools IS NOT NULL,
            'tools: OpenRLHF does not show them to the model, which learns to call what it cannot see; write them '
            || 'into a '
            || 'system message'
        )
    ])
), recursive := true)
FROM (
    SELECT split, row, json_extract(json, '$.chosen') AS chosen, json_extract(json, '$.rejected') AS rejected,
        type_of(json, 'prompt') AS prompt_type, type_of(json, 'input') AS input_type,
        type_of(json, 'chosen') AS chosen_type, type_of(json, 'rejected') AS rejected_type,
        chosen_type IS NOT NULL OR rejected_type IS NOT NULL AS is_pair,
        from_json(json, '{"prompt":' || chat() || ',"chosen":' || chat() || ',"rejected":' || chat()
            || ',"messages":' || chat() || ',"margin":"JSON","tools":"JSON"}') AS line
    FROM lines
)
UNION ALL
SELECT * FROM mixed_types(['prompt', 'chosen', 'rejected', 'margin', 'messages', 'input', 'label'])
UNION ALL
SELECT * FROM date_texts(['label', '$.chosen[0].content', '$.rejected[0].content'])
