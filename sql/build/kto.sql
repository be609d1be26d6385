-- Single answers with a verdict: {"prompt": [...], "completion": [...], "label": true or false, "tools": [...]}.
-- For TRL's KTOTrainer, unpaired. An answer is desirable where its reward is `min_reward` or more; what is between
-- `max_undesirable` and that is neither, and left out.
-- target: kto
-- param min_reward      DOUBLE = 0.5   lowest reward of a desirable answer
-- param max_undesirable DOUBLE = 0.5   an answer is undesirable where its reward is below this, and below min_reward
-- report: SELECT desirable, undesirable, round(least(1.0, 1.0 * undesirable / desirable), 4) AS desirable_weight,
--     round(least(1.0, 1.0 * desirable / undesirable), 4) AS undesirable_weight
--     FROM (
--         SELECT count(*) FILTER (json_extract_string(json, '$.label') = 'true') AS desirable,
--             count(*) FILTER (json_extract_string(json, '$.label') = 'false') AS undesirable
--         FROM result
--     )
SELECT
    '{"prompt":' || prompt || ',"completion":' || completion
    || ',"label":' || CASE WHEN reward >= getvariable('min_reward') THEN 'true' ELSE 'false' END
    || coalesce(',"tools":' || nullif(tools::VARCHAR, '[]'), '') || '}' AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM selected
WHERE reward >= getvariable('min_reward') OR reward < getvariable('max_undesirable')
