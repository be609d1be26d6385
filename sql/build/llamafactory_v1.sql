-- Supervised fine-tuning in typed parts: {"messages": [{"role", "content": [{"type", "value"}], "loss_weight"}],
-- "tools": JSON text}. For LLaMA-Factory v1 (USE_V1=1, without a converter, which would lose history, system and
-- reasoning). The type of a part is text, reasoning or tool_call (JSON text of {"name", "arguments"}). Only the rollout
-- is trained.
-- target: llamafactory_v1
-- param min_reward DOUBLE = 0.8      lowest reward used; -inf also takes rollouts without a reward
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
SELECT
    CASE WHEN shows_media(prompt, completion) THEN media_line()
        ELSE '{"messages":[' || array_to_string(
            [typed_message(m, 0) FOR m IN messages_of(prompt)]
            || [typed_message(m, (role_of(m) = 'assistant')::INTEGER) FOR m IN messages_of(completion)], ','
        ) || ']' || coalesce(',"tools":' || tools_text(tools), '') || '}' END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM selected
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
    AND NOT (getvariable('drop_unfit') AND shows_media(prompt, completion))
