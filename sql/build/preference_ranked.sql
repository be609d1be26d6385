-- Preference pairs ranked: {"context": [...], "completions": [{"rank": 0, "completion": [...]}, {"rank": 1, ...}]}
-- (NeMo RL PreferenceDataset; rank 0 is the better one).
-- reads: pairs
-- target: preference_ranked
-- check: SELECT sort_key AS pair,
--     'this format has no place for tools: use build/dpo_messages; or set drop_invalid = true' AS fault
--     FROM result WHERE json = '{"tools":true}'
-- check: SELECT sort_key AS pair, 'chosen and rejected have different prompts, or identical answers' AS fault
--     FROM result WHERE json = '{}'
SELECT
    -- What is not a pair becomes {}, which the check finds; so are tools, by the other one.
    CASE
        WHEN NOT comparable THEN '{}'
        WHEN tools::VARCHAR <> '[]' THEN '{"tools":true}'
        ELSE concat(
            '{"context":', chat_text(prompt, 'object', 'key'), ',"completions":[{"rank":0,"completion":',
            chat_text(chosen, 'object', 'key'), '},{"rank":1,"completion":', chat_text(rejected, 'object', 'key'),
            '}]}'
        )
    END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
