-- Supervised fine-tuning in turns: {"conversations": [{"from", "value"}, ...], "system", "tools": JSON text, "images",
-- "videos", "audios": paths}. Each medium has a mark in the text, e.g. <image>; LLaMA-Factory looks media up in
-- media_dir. For LLaMA-Factory; dataset_info.json is next to it. Tool calls are JSON text of {"name", "arguments"},
-- reasoning is in <think> tags before the answer or call, and the results of several tools in a row are one turn.
-- target: sharegpt
-- dataset_info: {"formatting": "sharegpt",
--     "columns": {"messages": "conversations", "system": "system", "tools": "tools",
--     "images": "images", "videos": "videos", "audios": "audios"}}
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf also takes rollouts without a reward
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS rollout,
--     'text next to a tool call, or a second system message, does not fit into its turns'
--     || '; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN NOT fits_files(messages) THEN media_line()
        WHEN fits_sharegpt(messages) THEN concat(
            '{"conversations":[', sharegpt_turns(marked(messages)), ']',
            ',"system":' || to_json(system_text(messages)), ',"tools":' || tools_text(tools),
            media_columns(messages), '}'
        )
        ELSE '{}' END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM (SELECT *, spoken(prompt, completion) AS messages FROM selected)
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
    AND (NOT getvariable('drop_unfit') OR fits_sharegpt(messages))
