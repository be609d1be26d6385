-- Supervised fine-tuning on the completion only: {"prompt": [...], "completion": [...], "tools": [...]}. An image of
-- the prompt is a part {"type": "image"}, and "images" holds the paths and URLs, as TRL reads them. If some rows have
-- images, the others have an empty list, because TRL fails on a batch in which only some rows have the key. For TRL's
-- SFTTrainer, which then does not train on the prompt, and for prime-rl.
-- target: sft_prompt_completion
-- param min_reward DOUBLE = 0.8       lowest reward used; -inf also takes rollouts without a reward
-- param drop_unfit BOOLEAN = false    drop what the format cannot hold, instead of stopping
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
