-- Preference pairs: {"messages": [..., the chosen answer], "rejected_messages": [..., the rejected one], "margin",
-- "tools": JSON text}. For ms-swift's DPO, ORPO, SimPO and reward models. Reasoning is in <think> tags. Media may be in
-- the prompt only, in the form of build/ms_swift.
-- reads: pairs
-- target: ms_swift
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS pair, 'chosen and rejected have different prompts, or identical answers' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN NOT fits THEN media_line()
        WHEN comparable
        THEN concat(
            '{"messages":[', array_to_string(swift_messages(marked(spoken(prompt, chosen)), ''), ','),
            '],"rejected_messages":[', array_to_string(swift_messages(marked(spoken(prompt, rejected)), ''), ','),
            ']', ',"margin":' || to_json(margin), ',"tools":' || tools_text(tools),
            media_columns(messages_of(prompt)), '}'
        )
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM (
    SELECT *, fits_marks(spoken(prompt, chosen) || messages_of(rejected))
        AND NOT shows_media(chosen, rejected) AS fits
    FROM pairs
)
WHERE fits OR NOT getvariable('drop_unfit')
