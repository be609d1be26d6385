-- Prompts for reinforcement learning, one line for each selected task: {"data_source", "prompt": [...], "ability",
-- "reward_model": {"style": "rule", "ground_truth"}, "extra_info": {"index", "solve_rate"}, "agent_name"}. A prompt
-- with media has "images": [{"image": path or URL}] and "videos", each with a mark in the text, e.g. <image>. If some
-- prompts have media, the contents of the others are lists of parts, because some templates of vision models drop plain
-- text. For verl's RLHFDataset, in Parquet with lists and structs. verl reads tools from its own config. The prompt is
-- the task's own, without a policy's system prompt.
-- target: verl
-- format: parquet
-- columns: data_source VARCHAR, ability VARCHAR
-- param ability    VARCHAR = NULL      the ability that the tasks test, e.g. `math`; null: the dataset's name
-- param agent_name VARCHAR = NULL      verl's agent loop, e.g. `tool_agent`; null: the one of its config
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS task,
--     'the task has no expected answer, so a rule-based verifier cannot score it; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
WITH pictured AS (
    SELECT count(*) > 0 AS has_any FROM tasks SEMI JOIN selected USING (dataset, task_id)
    WHERE has_parts(prompt, '')
)

SELECT
    CASE WHEN NOT fits THEN media_line()
        WHEN t.answer IS NOT NULL
        THEN concat(
            '{"data_source":', to_json(c.dataset), ',"prompt":',
            chat_text(
                CASE WHEN has_media(asked) THEN marked_text(t.prompt)
                    WHEN (SELECT has_any FROM pictured) THEN parted_text(t.prompt)
                    ELSE t.prompt END, 'object', 'key'
            ),
            ',"ability":', to_json(coalesce(getvariable('ability'), c.dataset)),
            ',"reward_model":{"style":"rule","ground_truth":', to_json(t.answer), '},"extra_info":{"index":',
            to_json(c.task_id), ',"solve_rate":' || to_json(c.solve_rate), '}',
            ',"agent_name":' || to_json(getvariable('agent_name')),
            ',"images":' || to_json(nullif([{'image': i} FOR i IN media_of(asked, 'image')], [])),
            ',"videos":' || to_json(nullif([{'video': v} FOR v IN media_of(asked, 'video')], [])),
            '}'
        )
        ELSE '{}' END AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM tasks_of('selected') AS c
JOIN (
    SELECT *, messages_of(prompt) AS asked,
        fits_marks(messages_of(prompt)) AND len(media_of(messages_of(prompt), 'audio')) = 0 AS fits
    FROM tasks
) AS t ON t.dataset = c.dataset AND t.task_id = c.task_id
WHERE (fits AND t.answer IS NOT NULL) OR NOT getvariable('drop_unfit')
