-- TRL's DPOTrainer, CPO, ORPO and RewardTrainer: {"prompt": [...], "chosen": [...], "rejected": [...], "tools"?}.
WITH looked AS MATERIALIZED (
    SELECT split, row, [
        list_type(line.prompt, json, 'prompt'), list_type(line.chosen, json, 'chosen'),
        list_type(line.rejected, json, 'rejected'), json_type(line.tools)
    ] AS types, list_concat(
        message_faults(line.prompt), message_faults(line.chosen), message_faults(line.rejected),
        argument_faults(line.prompt), argument_faults(line.chosen), argument_faults(line.rejected),
        tool_faults(line.tools), pair_faults(sides[1], sides[2]),
        found([
            no_messages('prompt', line.prompt),
            no_messages('chosen', line.chosen),
            no_messages('rejected', line.rejected),
            error_if(
                line.chosen[-1].role <> 'assistant' OR line.rejected[-1].role <> 'assistant',
                'an answer does not end with the assistant: TRL compares turns that are not the model''s; drop the row'
            ),
            error_if(
                ends_empty(line.chosen),
                'the chosen answer is empty: the model learns to return nothing; drop the row'
            ),
            warning_if(
                ends_empty(line.rejected),
                'the rejected answer is empty: the pair only teaches the model to answer at all'
            ),
            warning_if(
                line.prompt[-1].role = 'assistant',
                'the prompt ends with the assistant: TRL opens no new turn, so the answers continue it; move it '
                || 'into both'
            )
        ])
    ) AS faults
    FROM (
        SELECT split, row, json, json_extract(json, ['$.chosen', '$.rejected']) AS sides,
            from_json(json, '{"prompt":' || chat() || ',"chosen":' || chat() || ',"rejected":' || chat()
                || ',"tools":"JSON"}') AS line
        FROM lines
    )
)

SELECT split, row, unnest(faults, recursive := true) FROM looked
UNION ALL
SELECT * FROM other_types('looked', ['prompt', 'chosen', 'rejected', 'tools'])
UNION ALL
SELECT * FROM date_texts(['$.chosen[0].content', '$.rejected[0].content'])
