-- Pairs of text, for TRL without a chat template, verl's RMDataset and NeMo RL's BinaryPreferenceDataset:
-- {"prompt": text, "chosen": text, "rejected": text}.
SELECT split, row, unnest(list_concat(
    pair_faults(json_extract(json, '$.chosen'), json_extract(json, '$.rejected')),
    found([
        media_fault_at(json, ['$.prompt', '$.chosen', '$.rejected']),
        error_if(
            any_holds([type IS DISTINCT FROM 'VARCHAR' FOR type IN json_type(json, ['prompt', 'chosen', 'rejected'])]),
            'prompt, chosen or rejected is missing or not text: NeMo RL and verl stop with a KeyError; write text'
        ),
        warning_if(
            text_at(json, '$.rejected') = '',
            'rejected is empty: the pair only teaches the model to answer at all'
        ),
        warning_if(
            json_exists(json, '$.tools'), 'tools: loaders of text pairs do not read them; use build/dpo_messages'
        )
    ])
), recursive := true)
FROM lines
UNION ALL
SELECT * FROM date_texts(['prompt', 'chosen', 'rejected'])
