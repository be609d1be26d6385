-- Token-level trajectories for offline and asynchronous reinforcement learning: {"trajectory_id", "group_id",
-- "task_id", "branch", "token_ids", "loss_mask", "logprobs", "reward", "advantage", "finish_reason", "policy", "model",
-- "temperature"}. Its columns map to those of prime-rl, SkyRL, slime, TRL, Tinker, open-instruct and verifiers. One
-- line for each branch of a rollout: a call whose prompt does not begin with the tokens of the previous call begins
-- another branch, e.g. if a chat template drops earlier reasoning. Generated tokens have loss_mask 1. logprobs are 0
-- for other tokens, and missing if they were not captured. advantage is present if a reward step added it.
-- target: trajectories
-- columns: token_ids INTEGER[], loss_mask UTINYINT[], logprobs FLOAT[], reward DOUBLE, advantage DOUBLE,
--     temperature DOUBLE
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS rollout, 'its token ids were not captured: collect with token_ids = true; or set '
--     || 'drop_unfit = true' AS fault FROM result WHERE json = '{}'
WITH rollout AS (
    FROM selected
    UNION ALL BY NAME
    SELECT NULL::DOUBLE AS advantage WHERE false
),

branches AS (
    SELECT * EXCLUDE (token_turns), unnest(coalesce(nullif(token_branches(token_turns), []), [NULL])) AS tokens,
        unnest(range(greatest(coalesce(len(branch_starts(token_turns)), 0), 1))) AS branch
    FROM rollout
    WHERE NOT getvariable('drop_unfit') OR (len(token_turns) > 0 AND NOT shows_media(prompt, completion))
)

SELECT
    CASE WHEN shows_media(prompt, completion) THEN media_line()
        WHEN tokens IS NOT NULL
        THEN concat(
            '{"trajectory_id":', to_json(concat_ws('/', dataset, task_id, policy, rollout_index, copy, branch)),
            ',"group_id":', to_json(concat_ws('/', dataset, task_id, policy)), ',"task_id":', to_json(task_id),
            ',"branch":', branch, ',"token_ids":', to_json(tokens.token_ids), ',"loss_mask":',
            to_json(tokens.loss_mask), ',"logprobs":' || to_json(tokens.logprobs), ',"reward":' || to_json(reward),
            ',"advantage":' || to_json(advantage), ',"finish_reason":' || to_json(finish_reason),
            ',"policy":', to_json(policy), ',"model":' || to_json(model),
            ',"temperature":' || nullif(json_extract(request, '$.temperature')::VARCHAR, 'null'),
            '}'
        )
        ELSE '{}' END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy, branch) AS sort_key
FROM branches
