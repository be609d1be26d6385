-- Prompts for reinforcement learning with NeMo Gym: the row of each selected task, unchanged, one line per task.
-- target: rl_gym
-- param agent_name VARCHAR = NULL   agent for rows that name none; added to them as agent_ref
-- check: SELECT sort_key AS task, 'it names no agent: set agent_name' AS fault
--     FROM result WHERE json_extract_string(json, '$.agent_ref.name') IS NULL
SELECT
    CASE
        WHEN getvariable('agent_name') IS NULL OR json_exists(t.row, '$.agent_ref') THEN trim(t.row::VARCHAR)
        ELSE trim(t.row::VARCHAR)[:-2] || ',"agent_ref":{"type":"responses_api_agents","name":'
            || to_json(getvariable('agent_name')) || '}}'
    END AS json,
    c.keys,
    t.prompt_hash AS split_key,
    concat_ws('/', c.dataset, c.task_id) AS sort_key
FROM tasks AS t
JOIN tasks_of('selected') AS c ON c.dataset = t.dataset AND c.task_id = t.task_id
