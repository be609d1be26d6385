-- Supervised fine-tuning on the completion only: {"prompt": [...], "completion": [...], "tools": [...]}.
-- A picture of the prompt is the part {"type": "image"}, and "images" has the paths and URLs, as TRL reads them.
-- Where rows have pictures, the others have an empty list, as TRL stops at a batch of both that lacks it.
-- For TRL's SFTTrainer, which then trains nothing of the prompt, and prime-rl.
-- target: sft_prompt_completion
-- param min_reward DOUBLE = 0.8       lowest reward used; -inf takes rollouts without a reward as well
-- param drop_unfit BOOLEAN = false    leave out what the format cannot hold, rather than stop at it
-- param arguments  VARCHAR = 'object'   arguments of tool calls: object, or text, as received
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
WITH pictured AS (
    SELECT count(*) > 0 AS has_any FROM tasks
    SEMI JOIN (FROM selected WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')) USING (dataset, task_id)
    WHERE has_parts(prompt, '')
)

SELECT
    CASE WHEN fits_images(prompt, completion) AND NOT shows_media(completion, '[]')
        THEN concat(
            '{"prompt":', chat_text(imaged(prompt), getvariable('arguments'), 'key'), ',"completion":',
            chat_text(imaged(completion), getvariable('arguments'), 'key'),
            ',"tools":' || nullif(tools::VARCHAR, '[]'),
            CASE
                WHEN has_parts(prompt, completion) THEN images_of(prompt, completion)
                WHEN (SELECT has_any FROM pictured) THEN ',"images":[]'
            END,
            '}'
        )
        ELSE media_line() END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM selected
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
    AND (NOT getvariable('drop_unfit') OR (fits_images(prompt, completion) AND NOT shows_media(completion, '[]')))
