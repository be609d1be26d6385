-- Supervised fine-tuning on whole conversations: {"messages": [...], "tools": [...]}, one line for each rollout. For
-- verl's MultiTurnSFTDataset (0.9.1, and 0.10.0.dev at 1dda039), which reads Parquet with lists and structs, not JSON.
-- A struct has the same keys in all rows, so lines of different shape are in different files (list them all in
-- data.train_files), and a line whose own tools, calls or content parts have different keys does not fit. Messages with
-- different keys (e.g. only some with tool_calls) need transformers 5.24 or later, which drops their nulls. If some
-- rollouts have tools, the others have an empty list, because verl fails on rows without one.
-- target: verl
-- format: parquet
-- files: by shape
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf also takes rollouts without a reward
-- param arguments  VARCHAR = 'object'  arguments of tool calls: object, or text, as received
-- param reasoning  VARCHAR = 'key'   reasoning as key (reasoning_content), think (tags in the content) or drop
-- param null_keys  BOOLEAN = false   write messages with different keys, filled with nulls: for transformers 5.24 or later
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
-- check: SELECT getvariable('reasoning') AS reasoning, 'key, think or drop' AS must_be
--     WHERE getvariable('reasoning') NOT IN ('key', 'think', 'drop')
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS rollout,
--     'its tools, tool calls or content parts have different keys, which Parquet fills with nulls that the model sees'
--     || '; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
-- check: SELECT sort_key AS rollout,
--     'its messages have different keys, which Parquet fills with nulls: chat templates of Llama 3.1, gpt-oss and '
--     || 'DeepSeek fail on them before transformers 5.24; with that or later set null_keys = true, else '
--     || 'drop_unfit = true' AS fault
--     FROM result WHERE json = '{"null_keys":true}'
WITH good AS (
    SELECT * FROM selected
    WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
),

lined AS MATERIALIZED (
    SELECT
        concat(
            '{"messages":',
            chat_text(joined(prompt, completion), getvariable('arguments'), getvariable('reasoning')), CASE
            WHEN (SELECT bool_or(tools::VARCHAR <> '[]') FROM good) THEN ',"tools":' || coalesce(tools::VARCHAR, '[]')
            ELSE ''
            END,
            '}'
        ) AS json,
        [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
        prompt_hash AS split_key,
        concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key,
        shows_media(prompt, completion) AS shows_media
    FROM good
),

unfit AS (
    SELECT sort_key, bool_or(place <> '$.messages[]') AS below_messages
    FROM uneven_places('lined')
    GROUP BY sort_key
)

SELECT
    CASE
        WHEN l.shows_media THEN media_line()
        WHEN u.below_messages THEN '{}'
        WHEN u.sort_key IS NOT NULL AND NOT getvariable('null_keys') THEN '{"null_keys":true}'
        ELSE l.json
    END AS json,
    l.keys,
    l.split_key,
    l.sort_key
FROM lined AS l
LEFT JOIN unfit AS u ON u.sort_key = l.sort_key
WHERE NOT getvariable('drop_unfit')
    OR (NOT l.shows_media AND (
        u.sort_key IS NULL OR (getvariable('null_keys') AND NOT u.below_messages)
    ))
