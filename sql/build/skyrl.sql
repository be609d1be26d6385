-- Prompts for reinforcement learning, one line for each selected task: {"data_source", "prompt": [...], "env_class",
-- "reward_spec": {"method": "rule", "ground_truth"}, "extra_info": {"index", "solve_rate"}}. For SkyRL's PromptDataset,
-- which passes all keys but prompt and env_class to the environment. The prompt is the task's own, without a policy's
-- system prompt.
-- target: skyrl
-- param env_class  VARCHAR = NULL      SkyRL's environment, e.g. `gsm8k`; null: the dataset's name
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: SELECT sort_key AS task,
--     'the task has no expected answer, so a rule-based verifier cannot score it; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN t.answer IS NOT NULL THEN concat(
        '{"data_source":', to_json(c.dataset), ',"prompt":', chat_text(t.prompt, 'object', 'key'),
        ',"env_class":', to_json(coalesce(getvariable('env_class'), c.dataset)),
        ',"reward_spec":{"method":"rule","ground_truth":', to_json(t.answer), '},"extra_info":{"index":',
        to_json(c.task_id), ',"solve_rate":' || to_json(c.solve_rate), '}}'
    )
        ELSE '{}' END AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM tasks AS t
JOIN tasks_of('selected') AS c ON c.dataset = t.dataset AND c.task_id = t.task_id
WHERE t.answer IS NOT NULL OR NOT getvariable('drop_unfit')
