-- Single answers with a label: {"prompt": [...], "completion": [...], "label": true or false, "tools": [...]}. For
-- TRL's KTOTrainer, unpaired. An answer is desirable if its reward is at least `min_reward`, and undesirable if it is
-- below `max_undesirable`; answers between the two are left out.
-- target: kto
-- param min_reward      DOUBLE = 0.5       lowest reward of a desirable answer
-- param max_undesirable DOUBLE = 0.5       an answer is undesirable if its reward is below this and below min_reward
-- param arguments       VARCHAR = 'object'   arguments of tool calls: object, or text, as received
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
-- report: SELECT * FROM kto_weights('result')
SELECT
    concat(
        '{"prompt":', chat_text(prompt, getvariable('arguments'), 'key'), ',"completion":',
        chat_text(completion, getvariable('arguments'), 'key'), ',"label":', desirable,
        ',"tools":' || nullif(tools::VARCHAR, '[]'), '}'
    ) AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM (SELECT *, kto_label(reward, getvariable('min_reward'), getvariable('max_undesirable')) AS desirable FROM selected)
WHERE desirable IS NOT NULL
