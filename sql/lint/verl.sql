-- verl. RLHFDataset: {"data_source", "prompt": [...], "ability", "reward_model": {"style", "ground_truth"},
-- "extra_info"?}; MultiTurnSFTDataset, in Parquet: {"messages": [...], "tools"?: list, "enable_thinking"?: boolean}.
-- verl 0.9.1 replaces the marks (<image>) in text contents with "images"; it uses list contents unchanged, with a medium
-- in each part.
SELECT split, row, unnest(list_concat(
    message_faults(talk, media := ['image', 'video', 'audio']), argument_faults(talk), tool_faults(line.tools),
    CASE WHEN NOT is_sft THEN media_faults(
        json, array_to_string([m.content::VARCHAR FOR m IN talk IF json_type(m.content) = 'VARCHAR'], ' '),
        'verl stops with an AssertionError'
    ) END,
    found([
        error_if(
            NOT is_sft AND coalesce(len(line.prompt), 0) = 0,
            'prompt is not a list of chat messages: verl stops with a TypeError; write messages, not text'
        ),
        error_if(
            is_sft AND coalesce(len(line.messages), 0) = 0,
            'messages is not a list of chat messages: verl fails on the row; write a list, not JSON text'
        ),
        error_if(
            any_holds([
                NOT json_exists(part, '$.' || (part->>'$.type')) FOR part IN
                flatten([json_extract(m.content, '$[*]') FOR m IN talk IF json_type(m.content) = 'ARRAY'])
                IF part->>'$.type' IN ('image', 'video', 'audio')
            ]),
            'a part of type image, video or audio does not hold it: verl fills marks in texts alone, and the model sees '
            || 'nothing there; write {"type": "image", "image": path}, or the mark <image> in a text'
        ),
        error_if(
            NOT is_sft AND line.prompt[-1].role = 'assistant',
            'the prompt ends with the assistant: the rollouts would begin after its answer; cut the last turn'
        ),
        error_if(
            NOT is_sft AND NOT coalesce(starts_with(line.data_source::VARCHAR, '"'), false),
            'no data_source: the loader accepts the row, but the reward manager stops with a KeyError in the first '
            || 'step; write it'
        ),
        error_if(
            NOT is_sft AND line.reward_model.ground_truth IS NULL,
            'no reward_model.ground_truth: the loader accepts the row, but the reward manager stops in the first '
            || 'step; write it'
        ),
        error_if(
            NOT is_sft AND extra_type <> 'OBJECT',
            'extra_info is not an object: verl stops with an AttributeError; write an object'
        ),
        error_if(
            is_sft AND line.messages[-1].role <> 'assistant',
            'the last turn is not the assistant''s: it is not trained; remove the turn or drop the row'
        ),
        error_if(
            is_sft AND ends_empty(line.messages),
            'the last answer is empty, so the model learns to return nothing; drop the row'
        ),
        error_if(
            is_sft AND starts_with(line.tools::VARCHAR, '"'),
            'tools are JSON text: verl stops with a ValueError; write a list, and one Parquet file for each list '
            || 'of tools'
        ),
        error_if(
            is_sft AND line.enable_thinking::VARCHAR NOT IN ('true', 'false'),
            'enable_thinking is neither true nor false: the template treats it as true; write one of them'
        ),
        warning_if(
            is_sft AND line.tools::VARCHAR = '[]'
            AND (SELECT bool_or(json_array_length(json, '$.tools') > 0 AND json_exists(json, '$.messages')) FROM lines),
            'no tools, but other rows have some: the chat templates of Llama 3 announce tools anyway; '
            || 'train such rows apart'
        ),
        warning_if(
            NOT is_sft AND line.tools IS NOT NULL,
            'tools: verl does not read them from the row; name them in the tool_config_path of its config'
        ),
        warning_if(
            NOT is_sft AND line.extra_info.index IS NULL,
            'no extra_info.index: verl gives each such row index 0, and its logs cannot tell them apart; write it'
        )
    ])
), recursive := true)
FROM (
    SELECT *, coalesce(line.messages, line.prompt) AS talk
    FROM (
        SELECT split, row, json_exists(json, '$.messages') AS is_sft, json, type_of(json, 'extra_info') AS extra_type,
            from_json(json, '{"prompt":' || chat() || ',"messages":' || chat() || ',"tools":"JSON",'
                || '"data_source":"JSON","reward_model":{"ground_truth":"JSON"},"extra_info":{"index":"JSON"},'
                || '"enable_thinking":"JSON"}') AS line
        FROM lines
    )
)
UNION ALL
SELECT * FROM mixed_types([
    'data_source', 'prompt', 'messages', 'ability', 'reward_model', '$.reward_model.ground_truth', 'extra_info',
    '$.extra_info.index'
])
UNION ALL
SELECT split, row, 'error',
    'no tools, but other rows have them: verl reads NaN and stops with a TypeError; write an empty list'
FROM (SELECT split, row, json_exists(json, '$.messages') AS is_sft, type_of(json, 'tools') AS tools FROM lines)
WHERE is_sft AND tools IS NULL
    AND (SELECT bool_or(type_of(json, 'tools') IS NOT NULL AND json_exists(json, '$.messages')) FROM lines)
UNION ALL
SELECT * FROM date_texts(['$.reward_model.ground_truth'])
