-- Preference pairs as conversations: {"prompt": [...], "chosen": [...], "rejected": [...], "tools": [...]}.
-- For TRL's DPOTrainer, CPO and ORPO, and OpenRLHF (--data.prompt_key prompt). It reads the pairs that a pair step made.
-- target: dpo_messages
-- param arguments VARCHAR = 'text'   arguments of tool calls: text, as received, or object
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
-- check: SELECT sort_key AS pair, 'its sides were not asked the same, or said the same' AS fault
--     FROM result WHERE json = '{}'
SELECT
    -- What is no pair becomes {}, which the check finds.
    CASE
        WHEN c.context_hash <> r.context_hash OR c.completion::VARCHAR = r.completion::VARCHAR THEN '{}'
        ELSE concat(
            '{"prompt":', chat_text(c.prompt, getvariable('arguments'), 'key'),
            ',"chosen":', chat_text(c.completion, getvariable('arguments'), 'key'),
            ',"rejected":', chat_text(r.completion, getvariable('arguments'), 'key'),
            ',"tools":' || nullif(c.tools::VARCHAR, '[]'), '}'
        )
    END AS json,
    [
        line_key(c.dataset, c.task_id, c.policy, c.rollout_index, 'chosen'),
        line_key(r.dataset, r.task_id, r.policy, r.rollout_index, 'rejected')
    ] AS keys,
    c.prompt_hash AS split_key,
    c.pair AS sort_key
FROM selected AS c
JOIN selected AS r USING (pair)
WHERE c.role = 'chosen' AND r.role = 'rejected'
