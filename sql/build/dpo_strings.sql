-- Preference pairs as plain text, as NeMo RL's BinaryPreferenceDataset reads them: {"prompt", "chosen", "rejected"}.
-- The prompt is its system and user texts, with an empty line between them. Reasoning is left out.
-- reads: pairs
-- target: dpo_strings
-- check: FROM refused_media('result', 'drop_invalid')
-- check: SELECT sort_key AS pair,
--     'more than plain text in one turn: use build/dpo_messages; or set drop_invalid = true' AS fault
--     FROM result
--     WHERE json NOT IN ('{}', media_line())
--         AND list_contains([x IS NULL FOR x IN json_extract_string(json, ['$.prompt', '$.chosen', '$.rejected'])], true)
-- check: SELECT sort_key AS pair, 'chosen and rejected have different prompts, or identical answers' AS fault
--     FROM result WHERE json = '{}'
SELECT
    -- What is not a pair becomes {}, and what is not plain text becomes null: the checks find both.
    CASE
        WHEN (shows_media(prompt, chosen) OR shows_media(rejected, '[]')) THEN media_line()
        WHEN NOT comparable THEN '{}'
        ELSE json_object(
            'prompt', CASE
                WHEN tools::VARCHAR <> '[]' THEN NULL
                WHEN list_has_any(json_extract_string(prompt, '$[*].role'), ['assistant', 'tool']) THEN NULL
                ELSE array_to_string(json_extract_string(prompt, '$[*].content'), chr(10) || chr(10))
            END,
            'chosen', CASE WHEN json_array_length(chosen) = 1 THEN chosen_text END,
            'rejected', CASE WHEN json_array_length(rejected) = 1 THEN rejected_text END
        )::VARCHAR
    END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
