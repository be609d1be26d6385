-- Preference pairs ranked: {"context": [...], "completions": [{"rank": 0, "completion": [...]}, {"rank": 1, ...}]}
-- (NeMo RL PreferenceDataset; rank 0 is the better one).
-- Each task's best rollout against its worst. Both answer the very same prompt with the same tools; equal rewards and
-- equal answers make no pair.
-- param min_margin        DOUBLE = 0        least difference of the two rewards
-- param min_chosen_reward DOUBLE = '-inf'   lowest reward of a chosen answer
-- param pairs_per_task    INTEGER = 1       best with worst, second best with second worst, and so on
-- param same_policy       BOOLEAN = false   pair only answers of one policy
-- param seed              BIGINT = 42       decides between equal rewards
-- report: SELECT count(*) AS pairs, round(avg(chosen - rejected), 2) AS chosen_longer_by,
--     round(avg((chosen > rejected)::INTEGER), 4) AS share_chosen_longer
--     FROM (
--         SELECT length(json_extract_string(json, '$.completions[0].completion')) AS chosen,
--             length(json_extract_string(json, '$.completions[1].completion')) AS rejected
--         FROM result
--     )
-- check: SELECT count(*) AS pairs_with_tools, 'this format has no place for tools: use build/dpo_messages' AS fault
--     FROM result JOIN selected AS s ON s.dataset = keys[1].dataset AND s.task_id = keys[1].task_id
--         AND s.policy = keys[1].policy AND s.rollout_index = keys[1].rollout_index
--     WHERE s.tools::VARCHAR <> '[]' HAVING count(*) > 0
WITH ranked AS (
    SELECT *,
        row_number() OVER (PARTITION BY dataset, task_id, pool ORDER BY reward DESC, lot) AS from_best,
        row_number() OVER (PARTITION BY dataset, task_id, pool ORDER BY reward, lot) AS from_worst
    FROM (
        SELECT dataset, task_id, policy, rollout_index, min(copy) AS copy, min(reward) AS reward,
            CASE WHEN getvariable('same_policy') THEN policy ELSE '' END AS pool,
            md5(concat_ws('/', dataset, task_id, policy, rollout_index) || ':' || getvariable('seed')) AS lot
        FROM selected
        WHERE reward IS NOT NULL
        GROUP BY dataset, task_id, policy, rollout_index
    )
),

pairs AS (
    SELECT b.dataset, b.task_id, b.policy AS best_policy, b.rollout_index AS best_index, b.copy AS best_copy,
        w.policy AS worst_policy, w.rollout_index AS worst_index, w.copy AS worst_copy
    FROM ranked AS b
    JOIN ranked AS w
        ON w.dataset = b.dataset AND w.task_id = b.task_id AND w.pool = b.pool AND w.from_worst = b.from_best
    WHERE b.from_best <= getvariable('pairs_per_task') AND b.reward > w.reward
        AND b.reward - w.reward >= getvariable('min_margin') AND b.reward >= getvariable('min_chosen_reward')
)

SELECT
    '{"context":' || c.prompt || ',"completions":[{"rank":0,"completion":' || c.completion
    || '},{"rank":1,"completion":' || r.completion || '}]}' AS json,
    [
        {'dataset': p.dataset, 'task_id': p.task_id, 'policy': p.best_policy, 'rollout_index': p.best_index,
            'role': 'chosen'},
        {'dataset': p.dataset, 'task_id': p.task_id, 'policy': p.worst_policy, 'rollout_index': p.worst_index,
            'role': 'rejected'}
    ] AS keys,
    c.prompt_hash AS split_key,
    concat_ws('/', p.dataset, p.task_id, p.best_policy, p.best_index, p.worst_policy, p.worst_index) AS sort_key
FROM pairs AS p
JOIN selected AS c
    ON c.dataset = p.dataset AND c.task_id = p.task_id AND c.policy = p.best_policy
    AND c.rollout_index = p.best_index AND c.copy = p.best_copy
JOIN selected AS r
    ON r.dataset = p.dataset AND r.task_id = p.task_id AND r.policy = p.worst_policy
    AND r.rollout_index = p.worst_index AND r.copy = p.worst_copy
WHERE c.prompt::VARCHAR = r.prompt::VARCHAR AND c.tools::VARCHAR IS NOT DISTINCT FROM r.tools::VARCHAR
    AND c.completion::VARCHAR <> r.completion::VARCHAR
