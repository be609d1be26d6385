-- Single answers with a label, in turns: {"conversations": [{"from", "value"}, ...], "kto_tag": true or false,
-- "system", "tools": JSON text}. For LLaMA-Factory's KTO; dataset_info.json is next to it. Turns are those of
-- build/sharegpt; the label is for the last one, and an agent's earlier turns count as prompt. An answer is desirable
-- if its reward is at least `min_reward`, and undesirable if it is below `max_undesirable`; answers between the two are
-- left out. LLaMA-Factory calls the reported weights kto_chosen_weight and kto_rejected_weight.
-- target: llamafactory_preference
-- dataset_info: {"formatting": "sharegpt",
--     "columns": {"messages": "conversations", "kto_tag": "kto_tag", "system": "system", "tools": "tools",
--     "images": "images", "videos": "videos", "audios": "audios"}}
-- param min_reward      DOUBLE = 0.5      lowest reward of a desirable answer
-- param max_undesirable DOUBLE = 0.5      an answer is undesirable if its reward is below this and below min_reward
-- param drop_unfit      BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS rollout,
--     'text next to a tool call, or a second system message, does not fit into its turns'
--     || '; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
-- report: SELECT * FROM kto_weights('result')
SELECT
    CASE WHEN NOT fits_files(messages) THEN media_line()
        WHEN fits_sharegpt(messages) THEN concat(
            '{"conversations":[', sharegpt_turns(marked(messages)), '],"kto_tag":', tag,
            ',"system":' || to_json(system_text(messages)), ',"tools":' || tools_text(tools),
            media_columns(messages), '}'
        )
        ELSE '{}' END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM (
    SELECT *, spoken(prompt, completion) AS messages,
        kto_label(reward, getvariable('min_reward'), getvariable('max_undesirable')) AS tag
    FROM selected
)
WHERE tag IS NOT NULL AND (NOT getvariable('drop_unfit') OR fits_sharegpt(messages))
