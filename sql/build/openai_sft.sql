-- Supervised fine-tuning by a provider: {"messages": [...], "tools": [...]}, with "weight": 0 on the assistant's
-- messages of the prompt, so that only the rollout is trained. For OpenAI, Azure OpenAI, Fireworks and Together. Keys
-- that they do not know are left out, e.g. reasoning; the role developer becomes system.
-- target: openai_sft
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf also takes rollouts without a reward
SELECT
    '{"messages":[' || array_to_string([
        CASE WHEN role_of(m) = 'assistant' THEN chat_message(m, 'assistant', 'text', 'drop')[:-2] || ',"weight":0}'
            ELSE chat_message(m, role_of(m), 'text', 'drop') END
        FOR m IN messages_of(prompt)
    ] || [
        CASE WHEN role_of(m) = 'assistant' THEN chat_message(m, 'assistant', 'text', 'drop')[:-2] || ',"weight":1}'
            ELSE chat_message(m, role_of(m), 'text', 'drop') END
        FOR m IN messages_of(completion)
    ], ',') || ']' || coalesce(',"tools":' || nullif(tools::VARCHAR, '[]'), '') || '}' AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM selected
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
