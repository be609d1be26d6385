-- Preference pairs as plain text, as NeMo RL's BinaryPreferenceDataset reads them: {"prompt", "chosen", "rejected"}.
-- The prompt is its system and user texts, with an empty line between them. Reasoning is left out.
-- It reads the pairs that a pair step made.
-- target: dpo_strings
-- check: SELECT sort_key AS pair,
--     'more than plain text in one turn: use build/dpo_messages; or set drop_invalid = true' AS fault
--     FROM result
--     WHERE json <> '{}'
--         AND list_contains([x IS NULL FOR x IN json_extract_string(json, ['$.prompt', '$.chosen', '$.rejected'])], true)
-- check: SELECT sort_key AS pair, 'its sides were not asked the same, or said the same' AS fault
--     FROM result WHERE json = '{}'
SELECT
    -- What is no pair becomes {}, and what is not plain text becomes null: the checks find both.
    CASE
        WHEN c.context_hash <> r.context_hash OR c.completion::VARCHAR = r.completion::VARCHAR THEN '{}'
        ELSE json_object(
            'prompt', CASE
                WHEN c.tools::VARCHAR <> '[]' THEN NULL
                WHEN list_has_any(json_extract_string(c.prompt, '$[*].role'), ['assistant', 'tool']) THEN NULL
                WHEN list_contains([json_type(part) FOR part IN json_extract(c.prompt, '$[*].content')], 'ARRAY')
                    THEN NULL
                ELSE array_to_string(json_extract_string(c.prompt, '$[*].content'), chr(10) || chr(10))
            END,
            'chosen', CASE WHEN json_array_length(c.completion) = 1 THEN c.text END,
            'rejected', CASE WHEN json_array_length(r.completion) = 1 THEN r.text END
        )::VARCHAR
    END AS json,
    [
        line_key(c.dataset, c.task_id, c.policy, c.rollout_index, 'chosen'),
        line_key(r.dataset, r.task_id, r.policy, r.rollout_index, 'rejected')
    ] AS keys,
    c.prompt_hash AS split_key,
    c.pair AS sort_key
FROM selected AS c
JOIN selected AS r USING (pair)
WHERE c.role = 'chosen' AND r.role = 'rejected'
