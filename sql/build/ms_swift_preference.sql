-- Preference pairs: {"messages": [..., the chosen answer], "rejected_messages": [..., the rejected one], "margin",
-- "tools": JSON text}. For ms-swift's DPO, ORPO, SimPO and reward models. Reasoning stands in <think> tags.
-- It reads the pairs that a pair step made.
-- target: ms_swift
-- check: SELECT sort_key AS pair, 'its sides were not asked the same, or said the same' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR
        THEN '{"messages":[' || array_to_string(swift_messages(spoken(c.prompt, c.completion), ''), ',')
            || '],"rejected_messages":[' || array_to_string(swift_messages(spoken(r.prompt, r.completion), ''), ',') || ']'
            || coalesce(',"margin":' || to_json(c.margin), '') || coalesce(',"tools":' || tools_text(c.tools), '') || '}'
        ELSE '{}' END AS json,
    [
        line_key(c.dataset, c.task_id, c.policy, c.rollout_index, 'chosen'),
        line_key(r.dataset, r.task_id, r.policy, r.rollout_index, 'rejected')
    ] AS keys,
    c.prompt_hash AS split_key,
    c.pair AS sort_key
FROM selected AS c
JOIN selected AS r USING (pair)
WHERE c.role = 'chosen' AND r.role = 'rejected'
