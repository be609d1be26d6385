-- Prompts for reinforcement learning, one line for each selected task, in the columns that verl, SkyRL and TRL share:
-- {"data_source", "prompt": [...], "tools"?, "ability", "answer"?, "reward_model"?: {"style": "rule", "ground_truth"},
-- "extra_info": {"index": the task's id, "solve_rate"?}}.
-- The prompt is the task's own, without a policy's system prompt.
-- target: rl_prompts
-- param ability VARCHAR = NULL   the ability that the tasks test, e.g. `math`; null: the dataset's name
-- check: SELECT sort_key AS task, 'no prompt' AS fault FROM result WHERE json_array_length(json, '$.prompt') = 0
SELECT
    concat(
        '{"data_source":', to_json(c.dataset), ',"prompt":', chat_text(t.prompt, 'object', 'key'),
        ',"tools":' || nullif(t.tools::VARCHAR, '[]'), ',"ability":',
        to_json(coalesce(getvariable('ability'), c.dataset)), ',"answer":' || to_json(t.answer),
        ',"reward_model":{"style":"rule","ground_truth":' || to_json(t.answer) || '}', ',"extra_info":{"index":',
        to_json(c.task_id), ',"solve_rate":' || to_json(c.solve_rate), '}}'
    ) AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM tasks AS t
JOIN tasks_of('selected') AS c ON c.dataset = t.dataset AND c.task_id = t.task_id
