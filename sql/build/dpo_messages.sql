-- Preference pairs as conversations: {"prompt": [...], "chosen": [...], "rejected": [...], "tools": [...]}.
-- For TRL's DPOTrainer, CPO and ORPO, and OpenRLHF (--data.prompt_key prompt).
-- reads: pairs
-- target: dpo_messages
-- param arguments VARCHAR = 'object'   arguments of tool calls: object, or text, as received
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
-- check: SELECT sort_key AS pair, 'chosen and rejected have different prompts, or identical answers' AS fault
--     FROM result WHERE json = '{}'
SELECT
    -- What is not a pair becomes {}, which the check finds.
    CASE
        WHEN NOT comparable THEN '{}'
        ELSE concat(
            '{"prompt":', chat_text(prompt, getvariable('arguments'), 'key'),
            ',"chosen":', chat_text(chosen, getvariable('arguments'), 'key'),
            ',"rejected":', chat_text(rejected, getvariable('arguments'), 'key'),
            ',"tools":' || nullif(tools::VARCHAR, '[]'), '}'
        )
    END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
