-- Supervised fine-tuning on one turn of plain text: {"input": "...", "output": "..."} (NeMo RL ResponseDataset).
-- The input is the prompt's system and user texts, with an empty line between them; the output is the answer's text.
-- target: sft_input_output
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf also takes rollouts without a reward
-- param reasoning  BOOLEAN = false   put the reasoning before the output, in <think> tags; false: leave it out
-- check: FROM refused_media('result', 'drop_invalid')
-- check: SELECT sort_key AS rollout,
--     'more than plain text in one turn: use build/sft_messages; or set drop_invalid = true' AS fault
--     FROM result WHERE json <> media_line()
--         AND (json_extract_string(json, '$.input') IS NULL OR json_extract_string(json, '$.output') IS NULL)
SELECT
    -- What is not plain text becomes null, which the check finds.
    CASE WHEN shows_media(prompt, completion) THEN media_line() ELSE json_object(
        'input', CASE
            WHEN tools::VARCHAR <> '[]' THEN NULL
            WHEN list_has_any(json_extract_string(prompt, '$[*].role'), ['assistant', 'tool']) THEN NULL
            ELSE array_to_string(json_extract_string(prompt, '$[*].content'), chr(10) || chr(10))
        END,
        'output', CASE
            WHEN json_array_length(completion) <> 1 THEN NULL
            WHEN getvariable('reasoning') AND json_exists(completion, '$[0].reasoning_content')
                THEN format(
                    E'<think>\n{}\n</think>\n\n{}', json_extract_string(completion, '$[0].reasoning_content'), text
                )
            ELSE text
        END
    )::VARCHAR END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM selected
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
