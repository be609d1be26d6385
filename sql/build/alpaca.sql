-- Supervised fine-tuning on plain text: {"instruction", "output", "system", "history": [[question, answer], ...]}. For
-- LLaMA-Factory; dataset_info.json is next to it. The instruction is the last question, and the history is the
-- conversation before it.
-- target: alpaca
-- dataset_info: {"formatting": "alpaca",
--     "columns": {"prompt": "instruction", "response": "output", "system": "system", "history": "history"}}
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf also takes rollouts without a reward
-- param reasoning  BOOLEAN = false   put the reasoning before the output, in <think> tags; false: leave it out
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS rollout,
--     'tools, or turns that are not question and answer have no place in it: use build/sharegpt'
--     || '; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
WITH told AS (
    SELECT *, coalesce(tools::VARCHAR, '[]') = '[]' AND NOT shows_media(prompt, completion)
        AND json_array_length(completion) = 1
        AND regexp_full_match(
            array_to_string([role_of(m) FOR m IN messages_of(prompt)], ' '), '(system )?(user assistant )*user'
        ) AS fits,
        [m FOR m IN messages_of(prompt) IF role_of(m) <> 'system'] AS said
    FROM selected
    WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
)

SELECT
    CASE WHEN shows_media(prompt, completion) THEN media_line()
        WHEN fits THEN '{"instruction":' || json_extract(said[-1], '$.content')
        || ',"output":' || to_json(
            CASE WHEN getvariable('reasoning') THEN think_tags(json_extract(completion, '$[0]')) ELSE '' END
            || json_extract_string(completion, '$[0].content')
        )
        || coalesce(',"system":' || to_json(system_text(messages_of(prompt))), '')
        || CASE WHEN len(said) > 1 THEN ',"history":[' || array_to_string([
            '[' || json_extract(said[2 * i - 1], '$.content') || ',' || json_extract(said[2 * i], '$.content') || ']'
            FOR i IN range(1, len(said) // 2 + 1)
        ], ',') || ']' ELSE '' END || '}'
        ELSE '{}' END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM told
WHERE fits OR NOT getvariable('drop_unfit')
