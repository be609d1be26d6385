-- Prompts for reinforcement learning, one line for each selected task: {"messages": [...], "ground_truth", "dataset":
-- the verifier's name, "tools": [names]}. For open-instruct's RLVR; its tools are names of tools that its launch
-- configures. If any task has tools, a task without them gets an empty list, because open-instruct gives a line without
-- "tools" all configured tools. Lines without tools also work for ms-swift's GRPO (whose reward functions read a column
-- solution: --columns '{"ground_truth": "solution"}') and for OpenAI's reinforcement fine-tuning (whose graders read
-- {{item.ground_truth}}); with tools, both expect schemas instead of names. The prompt is the task's own, without a
-- policy's system prompt.
-- target: open_instruct
-- param verifier   VARCHAR = NULL      open-instruct's verifier, e.g. `gsm8k`; null: the dataset's name
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: SELECT sort_key AS task,
--     'the task has no expected answer, so a rule-based verifier cannot score it; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN t.answer IS NOT NULL THEN concat(
        '{"messages":', chat_text(t.prompt, 'object', 'key'), ',"ground_truth":', to_json(t.answer),
        ',"dataset":', to_json(coalesce(getvariable('verifier'), c.dataset)),
        ',"tools":' || coalesce(nullif(tool_names(t.tools), '[]'), CASE WHEN any_tools THEN '[]' END), '}'
    )
        ELSE '{}' END AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM tasks AS t
JOIN tasks_of('selected') AS c ON c.dataset = t.dataset AND c.task_id = t.task_id
CROSS JOIN (
    SELECT count(*) > 0 AS any_tools
    FROM tasks
    SEMI JOIN selected USING (dataset, task_id)
    WHERE tool_names(tools) <> '[]' AND (answer IS NOT NULL OR NOT getvariable('drop_unfit'))
)
WHERE t.answer IS NOT NULL OR NOT getvariable('drop_unfit')
