-- Single answers with a label: {"messages": [...], "label": true or false, "tools": JSON text}. For ms-swift's KTO.
-- Messages are those of build/ms_swift, with reasoning in <think> tags. An answer is desirable if its reward is at
-- least `min_reward`, and undesirable if it is below `max_undesirable`; answers between the two are left out.
-- target: ms_swift
-- param min_reward      DOUBLE = 0.5   lowest reward of a desirable answer
-- param max_undesirable DOUBLE = 0.5   an answer is undesirable if its reward is below this and below min_reward
-- param drop_unfit      BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- report: SELECT * FROM kto_weights('result')
SELECT
    CASE WHEN fits_marks(messages) THEN concat(
        '{"messages":[', array_to_string(swift_messages(marked(messages), ''), ','), '],"label":', desirable,
        ',"tools":' || tools_text(tools), media_columns(messages), '}'
    )
        ELSE media_line() END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM (
    SELECT *, spoken(prompt, completion) AS messages,
        kto_label(reward, getvariable('min_reward'), getvariable('max_undesirable')) AS desirable
    FROM selected
)
WHERE desirable IS NOT NULL AND (NOT getvariable('drop_unfit') OR fits_marks(messages))
