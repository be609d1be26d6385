-- open-instruct (e6c3044). RLVR: {"messages": [...], "ground_truth": text or list, "dataset": name of the verifier, or
-- a list, "tools"?: [names]}; preference: {"chosen": [...], "rejected": [...]}, whole conversations whose last turn differs.
SELECT split, row, unnest(list_concat(
    message_faults(talk), message_faults(line.rejected), argument_faults(talk), argument_faults(line.rejected),
    CASE WHEN is_pair THEN tool_faults(line.tools) END,
    CASE WHEN is_pair THEN pair_faults(chosen, rejected) END,
    found([
        error_if(
            NOT is_pair AND coalesce(len(line.messages), 0) = 0,
            'messages is not a list of chat messages: open-instruct stops with an AssertionError; write such a list'
        ),
        error_if(
            NOT is_pair AND coalesce(truth_type, '') NOT IN ('VARCHAR', 'ARRAY'),
            'ground_truth is neither text nor a list: the verifier fails on the row; write text, also for numbers'
        ),
        error_if(
            NOT is_pair AND coalesce(dataset_type, '') NOT IN ('VARCHAR', 'ARRAY'),
            'no dataset: open-instruct chooses the verifier by it and gives no reward; write its name, e.g. math '
            || 'or gsm8k'
        ),
        error_if(
            truth_type = 'ARRAY' AND dataset_type = 'ARRAY'
            AND json_array_length(json, '$.dataset') <> json_array_length(json, '$.ground_truth'),
            'dataset and ground_truth are lists of different lengths: each verifier needs its own; write one for each'
        ),
        error_if(
            NOT is_pair AND line.tools IS NOT NULL AND (
                json_type(line.tools) <> 'ARRAY'
                OR any_holds([json_type(t) <> 'VARCHAR' FOR t IN json_extract(line.tools, '$[*]')])
            ),
            'tools are not a list of names: open-instruct stops with a TypeError, as it looks each up among the tools '
            || 'that it was started with; write their names'
        ),
        warning_if(
            NOT is_pair AND len(line.messages) > 1 AND line.messages[-1].role = 'assistant',
            'messages end with the assistant: open-instruct drops that turn; remove it from the row'
        ),
        error_if(
            is_pair AND (line.chosen[:-2] <> line.rejected[:-2] OR len(line.chosen) <> len(line.rejected)),
            'chosen and rejected differ before the last turn: open-instruct treats the last turns as answers to one '
            || 'prompt; drop the row'
        ),
        error_if(
            is_pair AND (coalesce(len(line.chosen), 0) = 0 OR coalesce(len(line.rejected), 0) = 0),
            'chosen or rejected is not a list of chat messages: open-instruct stops with a ValueError; write such lists'
        ),
        error_if(
            line.chosen[-1].role <> 'assistant' OR line.rejected[-1].role <> 'assistant',
            'an answer does not end with the assistant: open-instruct drops the row, as no token is trained'
        )
    ])
), recursive := true)
FROM (
    SELECT *, coalesce(line.messages, line.chosen) AS talk
    FROM (
        SELECT split, row, json, json_extract(json, '$.chosen') AS chosen, json_extract(json, '$.rejected') AS rejected,
            type_of(json, 'ground_truth') AS truth_type, type_of(json, 'dataset') AS dataset_type,
            chosen IS NOT NULL OR rejected IS NOT NULL AS is_pair,
            from_json(json, '{"messages":' || chat() || ',"chosen":' || chat() || ',"rejected":' || chat()
                || ',"tools":"JSON"}') AS line
        FROM lines
    )
)
UNION ALL
SELECT * FROM mixed_types(['messages', 'ground_truth', 'dataset', 'chosen', 'rejected', 'tools'])
UNION ALL
SELECT * FROM date_texts(['ground_truth'])
