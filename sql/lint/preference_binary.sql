-- NeMo RL's BinaryPreferenceDataset: {"prompt": text or messages, "chosen": text, "rejected": text}.
SELECT split, row, unnest(list_concat(
    pair_faults(json_extract(json, '$.chosen'), json_extract(json, '$.rejected')), message_faults(prompt),
    argument_faults(prompt),
    found([
        media_fault_at(json, ['$.chosen', '$.rejected']),
        error_if(
            coalesce(type_of(json, 'prompt'), '') NOT IN ('VARCHAR', 'ARRAY'),
            'prompt is neither text nor a list of messages: NeMo RL fails on the row; write one of them'
        ),
        error_if(
            any_holds([type IS DISTINCT FROM 'VARCHAR' FOR type IN json_type(json, ['chosen', 'rejected'])]),
            'chosen or rejected is missing or not text: NeMo RL stops with a KeyError; use build/preference_ranked'
        ),
        warning_if(
            text_at(json, '$.rejected') = '',
            'rejected is empty: the pair only teaches the model to answer at all'
        ),
        warning_if(
            json_exists(json, '$.tools'), 'tools: NeMo RL does not read them here; use build/dpo_messages'
        )
    ])
), recursive := true)
FROM (
    SELECT split, row, json, from_json(json_extract(json, '$.prompt'), chat()) AS prompt FROM lines
)
UNION ALL
SELECT * FROM mixed_types(['prompt'])
UNION ALL
SELECT * FROM date_texts(['chosen', 'rejected'])
