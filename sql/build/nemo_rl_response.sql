-- Prompts for reinforcement learning as plain text, one line for each selected task: {"input": text, "output": the
-- expected answer}. For NeMo RL's ResponseDataset with math_hf_data_processor. The input is the user text of the task's
-- prompt; set system texts in the trainer's prompt file.
-- target: nemo_rl_response
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS task,
--     'its prompt is more than one question of plain text, or it has no expected answer'
--     || '; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN shows_media(t.prompt, '[]') THEN media_line()
        WHEN is_question(t.prompt) AND coalesce(t.tools::VARCHAR, '[]') = '[]' AND t.answer IS NOT NULL
        THEN '{"input":' || to_json(asked_text(t.prompt)) || ',"output":' || to_json(t.answer) || '}'
        ELSE '{}' END AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM tasks AS t
JOIN tasks_of('selected') AS c ON c.dataset = t.dataset AND c.task_id = t.task_id
WHERE NOT getvariable('drop_unfit')
    OR (is_question(t.prompt) AND coalesce(t.tools::VARCHAR, '[]') = '[]' AND t.answer IS NOT NULL)
