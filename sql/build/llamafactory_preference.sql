-- Preference pairs in turns: {"conversations": [...], "chosen": {"from", "value"}, "rejected": {...}, "system",
-- "tools"}. For LLaMA-Factory's DPO, KTO-paired, ORPO and reward models; dataset_info.json is next to it. Reasoning is
-- in <think> tags. Each answer is one message: longer rollouts differ in their first steps and make no pair.
-- reads: pairs
-- target: llamafactory_preference
-- dataset_info: {"formatting": "sharegpt", "ranking": true,
--     "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system",
--     "tools": "tools", "images": "images", "videos": "videos", "audios": "audios"}}
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS pair,
--     'an answer is more than one message of text, or one call; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN shows_media(chosen, rejected)
            OR NOT fits_files(spoken(prompt, chosen) || messages_of(rejected)) THEN media_line()
        WHEN comparable AND json_array_length(chosen) = 1 AND json_array_length(rejected) = 1
            AND fits_sharegpt(spoken(prompt, chosen)) AND fits_sharegpt(spoken(prompt, rejected))
        THEN concat(
            '{"conversations":[', sharegpt_turns(marked(messages_of(prompt))), '],"chosen":',
            sharegpt_turns(messages_of(chosen)), ',"rejected":', sharegpt_turns(messages_of(rejected)),
            ',"system":' || to_json(system_text(messages_of(prompt))), ',"tools":' || tools_text(tools),
            media_columns(messages_of(prompt)), '}'
        )
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
WHERE NOT getvariable('drop_unfit')
    OR (json_array_length(chosen) = 1 AND json_array_length(rejected) = 1
        AND NOT shows_media(chosen, rejected)
        AND fits_sharegpt(spoken(prompt, chosen)) AND fits_sharegpt(spoken(prompt, rejected)))
