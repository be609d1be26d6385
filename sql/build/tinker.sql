-- Preference pairs as comparisons: {"comparison": {"prompt_conversation": [...], "completion_A": [...], "completion_B":
-- [...]}, "label": "A" or "B"}. For the Tinker cookbook's ComparisonBuilderFromJsonl. Which side is A is decided by the
-- seed, so that a place says nothing. Content is a list of parts, reasoning one of type thinking.
-- It reads the pairs that a pair step made.
-- target: tinker
-- param seed       BIGINT = 42         decides which side is A
-- param drop_unfit BOOLEAN = false   leave out what the format cannot hold, rather than stop at it
-- check: SELECT sort_key AS pair, 'it calls tools, which the loader cannot read; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
SELECT
    CASE WHEN c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR
            AND NOT calls_tools(c.completion) AND NOT calls_tools(r.completion)
            AND NOT calls_tools(c.prompt)
        THEN '{"comparison":{"prompt_conversation":[' || array_to_string([
                chat_message(m, json_extract_string(m, '$.role'), 'text', 'part') FOR m IN messages_of(c.prompt)
            ], ',') || '],"completion_A":[' || array_to_string([
                chat_message(m, json_extract_string(m, '$.role'), 'text', 'part')
                FOR m IN messages_of(
                    CASE WHEN unit(c.pair, getvariable('seed')) < 0.5 THEN c.completion ELSE r.completion END
                )
            ], ',') || '],"completion_B":[' || array_to_string([
                chat_message(m, json_extract_string(m, '$.role'), 'text', 'part')
                FOR m IN messages_of(
                    CASE WHEN unit(c.pair, getvariable('seed')) < 0.5 THEN r.completion ELSE c.completion END
                )
            ], ',') || ']},"label":"' || CASE WHEN unit(c.pair, getvariable('seed')) < 0.5 THEN 'A' ELSE 'B' END || '"}'
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
    AND (NOT getvariable('drop_unfit')
        OR NOT (calls_tools(c.completion) OR calls_tools(r.completion) OR calls_tools(c.prompt)))
