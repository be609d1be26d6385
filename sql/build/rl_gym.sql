-- Prompts for reinforcement learning with NeMo Gym: the row of each selected task, byte for byte, one line for a task.
-- target: rl_gym
-- param agent_name VARCHAR = NULL   the agent of rows that name none: added to them as agent_ref
-- check: SELECT sort_key AS task, 'it names no agent: set agent_name' AS fault
--     FROM result WHERE json_extract_string(json, '$.agent_ref.name') IS NULL
WITH chosen AS (
    SELECT dataset, task_id, list(
        {'dataset': dataset, 'task_id': task_id, 'policy': policy, 'rollout_index': rollout_index, 'role': 'evidence'}
        ORDER BY policy, rollout_index
    ) AS keys
    FROM (SELECT DISTINCT dataset, task_id, policy, rollout_index FROM selected)
    GROUP BY dataset, task_id
)

SELECT
    CASE
        WHEN getvariable('agent_name') IS NULL OR json_exists(t.row, '$.agent_ref') THEN trim(t.row::VARCHAR)
        ELSE trim(t.row::VARCHAR)[:-2] || ',"agent_ref":{"type":"responses_api_agents","name":'
            || to_json(getvariable('agent_name')) || '}}'
    END AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM chosen AS c
JOIN tasks AS t ON t.dataset = c.dataset AND t.task_id = c.task_id
