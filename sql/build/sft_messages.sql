-- Supervised fine-tuning on whole conversations: {"messages": [...], "tools": [...]}, one line for each rollout.
-- param min_reward      DOUBLE = 0.8      lowest reward used; -inf takes rollouts without a reward as well
-- param drop_unfinished BOOLEAN = false   leave out what does not end with the assistant, rather than stop at it
-- check: SELECT sort_key AS rollout, json_extract_string(json, '$.messages[#-1].role') AS ends_with,
--     'set drop_unfinished = true' AS remedy
--     FROM result WHERE json_extract_string(json, '$.messages[#-1].role') IS DISTINCT FROM 'assistant'
SELECT
    -- Spliced as text: every message, tool and number stays as it was, and nothing is padded with nulls.
    '{"messages":['
    || concat_ws(',', nullif(trim(prompt::VARCHAR, '[]'), ''), nullif(trim(completion::VARCHAR, '[]'), ''))
    || ']' || coalesce(',"tools":' || nullif(tools::VARCHAR, '[]'), '') || '}' AS json,
    [{
        'dataset': dataset, 'task_id': task_id, 'policy': policy, 'rollout_index': rollout_index, 'role': 'completion'
    }] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM selected
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
    AND (NOT getvariable('drop_unfinished') OR json_extract_string(completion, '$[#-1].role') = 'assistant')
