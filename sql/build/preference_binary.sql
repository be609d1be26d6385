-- Preference pairs with the prompt as messages and the answers as text: {"prompt": [...], "chosen": text, "rejected":
-- text}. For NeMo RL's BinaryPreferenceDataset, which reads answers as text only. Reasoning is left out.
-- reads: pairs
-- target: preference_binary
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS pair,
--     'an answer is more than plain text, or it has tools: use build/preference_ranked; or set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN (shows_media(prompt, chosen) OR shows_media(rejected, '[]')) THEN media_line()
        WHEN comparable AND is_plain_answer(chosen) AND is_plain_answer(rejected)
            AND coalesce(tools::VARCHAR, '[]') = '[]'
        THEN concat(
            '{"prompt":', chat_text(prompt, 'object', 'key'), ',"chosen":', json_extract(chosen, '$[0].content'),
            ',"rejected":', json_extract(rejected, '$[0].content'), '}'
        )
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
WHERE NOT getvariable('drop_unfit')
    OR (NOT shows_media(prompt, '[]') AND is_plain_answer(chosen) AND is_plain_answer(rejected) AND coalesce(tools::VARCHAR, '[]') = '[]')
