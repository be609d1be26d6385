-- Supervised fine-tuning: {"messages": [...], "tools": JSON text}, with the roles system, user, assistant, tool_call
-- and tool_response. For ms-swift. Reasoning is in <think> tags in the content, as ms-swift drops reasoning_content
-- without a word; the assistant's messages of the prompt have "loss": false.
-- target: ms_swift
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf takes rollouts without a reward as well
SELECT
    '{"messages":[' || array_to_string(
        swift_messages(messages_of(prompt), ',"loss":false') || swift_messages(messages_of(completion), ''), ','
    ) || ']' || coalesce(',"tools":' || tools_text(tools), '') || '}' AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM selected
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
