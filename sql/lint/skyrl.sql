-- SkyRL's PromptDataset: {"data_source", "prompt": [...], "env_class", "reward_spec": {"method", "ground_truth"},
-- "extra_info"?}. All keys but prompt and env_class are passed to the environment.
SELECT split, row, unnest(list_concat(
    message_faults(line.prompt), argument_faults(line.prompt),
    found([
        no_messages('prompt', line.prompt),
        error_if(
            line.prompt[-1].role = 'assistant',
            'the prompt ends with the assistant: the rollouts would begin after its answer; cut the last turn'
        ),
        error_if(
            type_of(json, 'env_class') IS NOT NULL AND type_of(json, 'env_class') <> 'VARCHAR',
            'env_class is not a text: SkyRL knows no such environment and stops; write the name of a registered one'
        ),
        warning_if(
            type_of(json, 'env_class') IS NULL,
            'no env_class: SkyRL uses the environment of its config for every row; write it if datasets are mixed'
        ),
        error_if(
            coalesce(text_at(json, '$.reward_spec.method'), '') NOT IN ('rule', 'reward_model'),
            'reward_spec.method is neither rule nor reward_model: environments stop with an AssertionError; write one'
        ),
        error_if(
            text_at(json, '$.reward_spec.method') = 'rule' AND type_of(json, '$.reward_spec.ground_truth') IS NULL,
            'no reward_spec.ground_truth: environments stop with an AssertionError when they begin; write it'
        ),
        warning_if(
            type_of(json, 'tools') IS NOT NULL,
            'tools: SkyRL does not show them to the model; write them into a system message, or offer them in the '
            || 'environment'
        )
    ])
), recursive := true)
FROM (SELECT split, row, json, from_json(json, '{"prompt":' || chat() || '}') AS line FROM lines)
UNION ALL
SELECT * FROM mixed_types([
    'data_source', 'prompt', 'env_class', 'reward_spec', '$.reward_spec.ground_truth', 'extra_info'
])
UNION ALL
SELECT * FROM date_texts(['$.reward_spec.ground_truth'])
