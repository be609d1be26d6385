-- Supervised fine-tuning on exactly the tokens that the policy read and generated: {"input_ids", "attention_mask",
-- "labels"}, with -100 for tokens that are not trained. For TRL and Axolotl; with mask = "loss_mask" {"input_ids",
-- "loss_mask"} for SkyRL. One line for each branch of a rollout, as in build/trajectories. Only generated tokens are
-- trained.
-- target: pretokenized
-- columns: input_ids INTEGER[], attention_mask UTINYINT[], loss_mask UTINYINT[], labels INTEGER[]
-- param mask       VARCHAR = 'labels'  labels, or loss_mask
-- param min_reward DOUBLE = 0.8        lowest reward used; -inf also takes rollouts without a reward
-- param drop_unfit BOOLEAN = false    drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT getvariable('mask') AS mask, 'labels or loss_mask' AS must_be
--     WHERE getvariable('mask') NOT IN ('labels', 'loss_mask')
-- check: SELECT sort_key AS rollout, 'its token ids were not captured: collect with token_ids = true; or set '
--     || 'drop_unfit = true' AS fault FROM result WHERE json = '{}'
WITH branches AS (
    SELECT * EXCLUDE (token_turns), unnest(coalesce(nullif(token_branches(token_turns), []), [NULL])) AS tokens,
        unnest(range(greatest(coalesce(len(branch_starts(token_turns)), 0), 1))) AS branch
    FROM selected
    WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
        AND (NOT getvariable('drop_unfit') OR (len(token_turns) > 0 AND NOT shows_media(prompt, completion)))
)

SELECT
    CASE WHEN shows_media(prompt, completion) THEN media_line()
        WHEN tokens IS NULL THEN '{}'
        ELSE '{"input_ids":' || to_json(tokens.token_ids) || CASE getvariable('mask')
            WHEN 'loss_mask' THEN ',"loss_mask":' || to_json(tokens.loss_mask)
            ELSE ',"attention_mask":' || to_json(list_resize([]::INTEGER[], len(tokens.token_ids), 1))
                || ',"labels":' || to_json([
                    CASE WHEN pair[2] = 1 THEN pair[1] ELSE -100 END
                    FOR pair IN list_zip(tokens.token_ids, tokens.loss_mask)
                ])
        END || '}'
    END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy, branch) AS sort_key
FROM branches
