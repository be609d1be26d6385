-- Prompts for reinforcement learning, one line for each selected task: {"prompt": [...], "label", "tools": [...],
-- "metadata": {"index", "data_source", "solve_rate"}, "datasource"}.
-- For slime (--input-key prompt --label-key label --metadata-key metadata --tool-key tools) and OpenRLHF's
-- PromptDataset (--data.input_key prompt --data.label_key label), which reads neither tools nor metadata.
-- The prompt is the task's own, without a policy's system prompt.
-- target: slime
SELECT
    concat(
        '{"prompt":', chat_text(t.prompt, 'object', 'key'), ',"label":' || to_json(t.answer),
        ',"tools":' || nullif(t.tools::VARCHAR, '[]'), ',"metadata":{"index":', to_json(c.task_id),
        ',"data_source":', to_json(c.dataset), ',"solve_rate":' || to_json(c.solve_rate), '},"datasource":',
        to_json(c.dataset), '}'
    ) AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM tasks AS t
JOIN tasks_of('selected') AS c ON c.dataset = t.dataset AND c.task_id = t.task_id
