-- Preference pairs as whole conversations: {"chosen": [...], "rejected": [...], "margin", "chosen_rating",
-- "rejected_rating", "tools": [...]}. For TRL's RewardTrainer, OpenRLHF's reward models and open-instruct. The ratings
-- are the two rewards, and margin is their difference; pairs not made by reward have neither.
-- reads: pairs
-- target: reward_model
-- param arguments VARCHAR = 'object'   arguments of tool calls: object, or text, as received
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
-- check: SELECT sort_key AS pair, 'chosen and rejected have different prompts, or identical answers' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN comparable
        THEN concat(
            '{"chosen":', chat_text(joined(prompt, chosen), getvariable('arguments'), 'key'),
            ',"rejected":', chat_text(joined(prompt, rejected), getvariable('arguments'), 'key'),
            ',"margin":' || to_json(margin) || ',"chosen_rating":' || to_json(chosen_reward)
            || ',"rejected_rating":' || to_json(rejected_reward),
            ',"tools":' || nullif(tools::VARCHAR, '[]'), '}'
        )
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
