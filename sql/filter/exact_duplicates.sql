-- Drop rollouts with the same prompt and completion as an earlier one. Prompts also differ by a policy's own system
-- prompt, or by what an environment adds. The first rollout is kept, in the order of dataset, task, policy and index.
-- Copies that a mix made are not duplicates.
-- param per     VARCHAR = 'prompt'       scope of the search: prompt (all tasks with the same prompt) or task
-- param compare VARCHAR = 'completion'   what must be equal: completion (with reasoning and tool calls) or text
-- check: SELECT getvariable('per') AS per, 'prompt, task' AS must_be_one_of
--     WHERE getvariable('per') NOT IN ('prompt', 'task')
-- check: SELECT getvariable('compare') AS compare, 'completion, text' AS must_be_one_of
--     WHERE getvariable('compare') NOT IN ('completion', 'text')
WITH said AS (
    SELECT dataset, task_id, policy, rollout_index, copy,
        (if(getvariable('per') = 'prompt', prompt_hash, concat_ws('/', dataset, task_id)), context_hash) AS of_prompt,
        md5(CASE getvariable('compare') WHEN 'text' THEN text ELSE completion::VARCHAR END) AS answer_hash
    FROM selected
),

firsts AS (
    SELECT of_prompt, answer_hash, copy, min((dataset, task_id, policy, rollout_index)) AS first
    FROM said
    WHERE answer_hash IS NOT NULL
    GROUP BY of_prompt, answer_hash, copy
),

repeats AS (
    SELECT r.dataset, r.task_id, r.policy, r.rollout_index, r.copy
    FROM said AS r
    JOIN firsts AS f USING (of_prompt, answer_hash, copy)
    WHERE (r.dataset, r.task_id, r.policy, r.rollout_index) <> f.first
)

SELECT s.*, CASE WHEN r.task_id IS NOT NULL THEN 'same answer as an earlier rollout' END AS dropped
FROM selected AS s
LEFT JOIN repeats AS r USING (dataset, task_id, policy, rollout_index, copy)
