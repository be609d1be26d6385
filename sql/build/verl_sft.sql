-- Supervised fine-tuning on whole conversations: {"messages": [...], "tools": [...]}, one line for each rollout.
-- For verl's MultiTurnSFTDataset, in Parquet. Tools are real lists, and rollouts with different tools are in different
-- files, as one file would fill them up with nulls; name them all in data.train_files. Where some rollouts have tools,
-- the others have an empty list, as verl stops at rows without one.
-- target: verl
-- format: parquet
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf takes rollouts without a reward as well
-- param arguments  VARCHAR = 'object'  arguments of tool calls: object, or text, as received
-- param reasoning  VARCHAR = 'key'   reasoning as key (reasoning_content), think (tags in the content), or drop
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
-- check: SELECT getvariable('reasoning') AS reasoning, 'key, think or drop' AS must_be
--     WHERE getvariable('reasoning') NOT IN ('key', 'think', 'drop')
WITH good AS (
    FROM selected
    WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
)

SELECT
    '{"messages":' || chat_text(joined(prompt, completion), getvariable('arguments'), getvariable('reasoning')) || CASE
        WHEN (SELECT bool_or(tools::VARCHAR <> '[]') FROM good) THEN ',"tools":' || coalesce(tools::VARCHAR, '[]')
        ELSE ''
    END || '}' AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM good
