-- Preference pairs as comparisons: {"comparison": {"prompt_conversation": [...], "completion_A": [...], "completion_B":
-- [...]}, "label": "A" or "B"}. For the Tinker cookbook's ComparisonBuilderFromJsonl. The seed decides which side is A,
-- so that the position carries no information. Content is a list of parts; reasoning is a part of type thinking.
-- reads: pairs
-- target: tinker
-- param seed       BIGINT = 42         seed of the choice of side A
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: SELECT sort_key AS pair, 'it calls tools, which the loader cannot read; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN comparable AND NOT calls_tools(chosen) AND NOT calls_tools(rejected) AND NOT calls_tools(prompt)
        THEN '{"comparison":{"prompt_conversation":[' || array_to_string([
                chat_message(m, role_of(m), 'text', 'part') FOR m IN messages_of(prompt)
            ], ',') || '],"completion_A":[' || array_to_string([
                chat_message(m, role_of(m), 'text', 'part')
                FOR m IN messages_of(
                    CASE WHEN unit(pair, getvariable('seed')) < 0.5 THEN chosen ELSE rejected END
                )
            ], ',') || '],"completion_B":[' || array_to_string([
                chat_message(m, role_of(m), 'text', 'part')
                FOR m IN messages_of(
                    CASE WHEN unit(pair, getvariable('seed')) < 0.5 THEN rejected ELSE chosen END
                )
            ], ',') || ']},"label":"' || CASE WHEN unit(pair, getvariable('seed')) < 0.5 THEN 'A' ELSE 'B' END || '"}'
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
WHERE NOT getvariable('drop_unfit')
    OR NOT (calls_tools(chosen) OR calls_tools(rejected) OR calls_tools(prompt))
