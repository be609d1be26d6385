-- Supervised fine-tuning on the completion only: {"prompt": [...], "completion": [...], "tools": [...]}.
-- For TRL's SFTTrainer, which then trains nothing of the prompt, and prime-rl.
-- target: sft_prompt_completion
-- param min_reward DOUBLE = 0.8       lowest reward used; -inf takes rollouts without a reward as well
-- param arguments  VARCHAR = 'object'   arguments of tool calls: object, or text, as received
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
SELECT
    '{"prompt":' || chat_text(prompt, getvariable('arguments'), 'key')
    || ',"completion":' || chat_text(completion, getvariable('arguments'), 'key')
    || coalesce(',"tools":' || nullif(tools::VARCHAR, '[]'), '') || '}' AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM selected
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
