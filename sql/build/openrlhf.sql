-- Preference pairs with their prompt and margin: {"prompt": [...], "chosen": [...], "rejected": [...], "margin"}. For
-- OpenRLHF's RewardDataset, reward models and DPO: --data.prompt_key prompt. OpenRLHF does not show tools to the model,
-- so pairs with tools do not fit: they would train calls of tools that the model cannot see.
-- reads: pairs
-- target: openrlhf
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: SELECT sort_key AS pair, 'it has tools, or its sides have different prompts; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN comparable AND coalesce(tools::VARCHAR, '[]') = '[]'
        THEN concat(
            '{"prompt":', chat_text(prompt, 'object', 'key'), ',"chosen":', chat_text(chosen, 'object', 'key'),
            ',"rejected":', chat_text(rejected, 'object', 'key'), ',"margin":' || to_json(margin),
            '}'
        )
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
WHERE NOT getvariable('drop_unfit') OR coalesce(tools::VARCHAR, '[]') = '[]'
