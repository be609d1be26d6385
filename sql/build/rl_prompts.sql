-- Prompts for reinforcement learning, one line for each selected task, in the columns that verl, SkyRL and TRL share:
-- {"data_source", "prompt": [...], "tools"?, "ability", "answer"?, "reward_model"?: {"style": "rule", "ground_truth"},
-- "extra_info": {"index": the task's id, "solve_rate"?}}.
-- The prompt is the task's own, without a policy's system prompt.
-- target: rl_prompts
-- param ability VARCHAR = NULL   what the tasks ask for, as `math`; without it, the dataset's name
-- check: SELECT sort_key AS task, 'no prompt' AS fault FROM result WHERE json_array_length(json, '$.prompt') = 0
SELECT
    '{"data_source":' || to_json(c.dataset) || ',"prompt":' || chat_text(t.prompt, 'object', 'key')
    || coalesce(',"tools":' || nullif(t.tools::VARCHAR, '[]'), '')
    || ',"ability":' || to_json(coalesce(getvariable('ability'), c.dataset))
    || coalesce(',"answer":' || to_json(t.answer), '')
    || coalesce(',"reward_model":{"style":"rule","ground_truth":' || to_json(t.answer) || '}', '')
    || ',"extra_info":{"index":' || to_json(c.task_id) || coalesce(',"solve_rate":' || to_json(c.solve_rate), '')
    || '}}' AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM tasks_of('selected') AS c
JOIN tasks AS t ON t.dataset = c.dataset AND t.task_id = c.task_id
