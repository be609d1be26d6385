-- Supervised fine-tuning: {"messages": [...], "tools": JSON text}, with the roles system, user, assistant, tool_call
-- and tool_response, and "images", "videos" and "audios": paths and URLs, each with a mark in the text, e.g. <image>.
-- For ms-swift, which looks media up in ROOT_IMAGE_DIR. Reasoning is in <think> tags in the content, because ms-swift
-- drops reasoning_content silently; the assistant's messages of the prompt have "loss": false.
-- target: ms_swift
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf also takes rollouts without a reward
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
SELECT
    CASE WHEN fits_marks(messages) THEN '{"messages":[' || array_to_string(
        swift_messages(marked(messages_of(prompt)), ',"loss":false') || swift_messages(marked(messages_of(completion)), ''),
        ','
    ) || ']' || coalesce(',"tools":' || tools_text(tools), '') || media_columns(messages) || '}' ELSE media_line() END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM (SELECT *, spoken(prompt, completion) AS messages FROM selected)
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
    AND (NOT getvariable('drop_unfit') OR fits_marks(messages))
