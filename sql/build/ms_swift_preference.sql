-- Preference pairs: {"messages": [..., the chosen answer], "rejected_messages": [..., the rejected one], "margin",
-- "tools": JSON text}. For ms-swift's DPO, ORPO, SimPO and reward models. Reasoning is in <think> tags.
-- reads: pairs
-- target: ms_swift
-- check: SELECT sort_key AS pair, 'chosen and rejected have different prompts, or identical answers' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN comparable
        THEN '{"messages":[' || array_to_string(swift_messages(spoken(prompt, chosen), ''), ',')
            || '],"rejected_messages":[' || array_to_string(swift_messages(spoken(prompt, rejected), ''), ',') || ']'
            || coalesce(',"margin":' || to_json(margin), '') || coalesce(',"tools":' || tools_text(tools), '') || '}'
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
