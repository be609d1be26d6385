-- Views of views.sql in another form, for a workspace with an index: they read the index and what is newer. They use the
-- tables and six more relations: indexed_rollouts, settled_tasks, stray_verdicts (rows of indexes), indexed_verdicts (the
-- verdicts that the indexes were made from), recent_attempts, recent_verdicts (all other rows).

-- contested_attempts: a superset of the attempts whose rollout has several: all recent ones, and those in the index
-- whose rollout also has a recent one, or several in the index.
CREATE OR REPLACE VIEW contested_attempts AS
WITH recent AS (
    SELECT dataset, task_id, row_hash, policy, rollout_index, attempt_id
    FROM recent_attempts
    WHERE error IS NULL
),
recent_keys AS (
    SELECT DISTINCT md5_number_lower(concat_ws(chr(31), task_id, policy, rollout_index)) AS rollout_key FROM recent
)
FROM recent
UNION ALL
SELECT dataset, task_id, row_hash, policy, rollout_index, attempt_id
FROM indexed_rollouts
SEMI JOIN recent_keys USING (rollout_key)
UNION ALL
SELECT dataset, task_id, row_hash, policy, rollout_index, attempt_id
FROM indexed_rollouts
ANTI JOIN recent_keys USING (rollout_key)
WHERE repeated;

-- contested_verdicts: a superset of the verdicts whose attempt has several: all recent ones, those of attempts that are
-- not in the index, and those of attempts that have several or a recent one.
CREATE OR REPLACE VIEW contested_verdicts AS
WITH recent_keys AS (
    SELECT DISTINCT md5_number_lower(attempt_id) AS attempt_key FROM recent_verdicts
    UNION
    SELECT DISTINCT md5_number_lower(attempt_id) FROM stray_verdicts
),
unclear AS (
    SELECT dataset, attempt_id
    FROM indexed_rollouts
    SEMI JOIN recent_keys USING (attempt_key)
    UNION ALL
    SELECT dataset, attempt_id
    FROM indexed_rollouts
    ANTI JOIN recent_keys USING (attempt_key)
    WHERE several
    UNION ALL
    SELECT dataset, attempt_id
    FROM stray_verdicts
)
SELECT dataset, attempt_id, verdict_id
FROM recent_verdicts
UNION ALL
SELECT dataset, attempt_id, verdict_id
FROM indexed_verdicts
SEMI JOIN unclear USING (dataset, attempt_id);

-- rollout_facts: `rollouts` without large columns and without the task's columns. Rollouts with an unchanged task, one
-- attempt and one verdict are read from the index; all others are computed from the tables.
CREATE OR REPLACE VIEW rollout_facts AS
WITH gone AS (
    SELECT DISTINCT task_key
    FROM settled_tasks AS s
    ANTI JOIN tasks AS t ON t.dataset = s.dataset AND t.task_id = s.task_id AND t.row_hash = s.row_hash
),
contested AS (
    SELECT md5_number_lower(attempt_id) AS attempt_key FROM repeated_attempts
    UNION
    SELECT md5_number_lower(attempt_id) FROM recent_verdicts
    UNION
    SELECT md5_number_lower(attempt_id) FROM stray_verdicts
    UNION
    SELECT attempt_key FROM indexed_rollouts WHERE several
),
clear AS (
    SELECT i.* EXCLUDE (verifier_version),
        coalesce(n.verifier_version, i.verifier_version) AS verifier_version,
        j.dataset IS NULL OR n.dataset IS NOT NULL AS present
    FROM indexed_rollouts AS i
    ANTI JOIN gone AS g ON g.task_key = i.task_key
    ANTI JOIN contested AS c ON c.attempt_key = i.attempt_key
    LEFT JOIN dataset_verifiers AS j ON j.dataset = i.dataset
    LEFT JOIN version_names AS n
        ON n.dataset = i.dataset AND n.verifier = i.verifier AND n.name = i.verifier_version
),
unclear AS (
    SELECT * FROM indexed_rollouts SEMI JOIN gone USING (task_key)
    UNION ALL
    SELECT * FROM indexed_rollouts ANTI JOIN gone USING (task_key) SEMI JOIN contested USING (attempt_key)
),
unclear_now AS (
    SELECT *
    FROM unclear
    SEMI JOIN tasks USING (dataset, task_id, row_hash)
    ANTI JOIN repeated_attempts USING (dataset, attempt_id)
),
others AS (
    SELECT dataset, task_id, policy, rollout_index, text_length, attempt_id, attempt, part, run_id, engine, model,
        finish_reason, turns, tool_calls, tool_errors, tool_names, input_tokens, output_tokens, reasoning_tokens,
        cached_tokens, started_at, seconds, model_seconds, tool_seconds
    FROM unclear_now
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index, length(text), attempt_id, attempt, part, run_id, engine, model,
        finish_reason, turns, tool_calls, tool_errors, tool_names, input_tokens, output_tokens, reasoning_tokens,
        cached_tokens, started_at, seconds, model_seconds, tool_seconds
    FROM recent_attempts
    SEMI JOIN tasks USING (dataset, task_id, row_hash)
    ANTI JOIN repeated_attempts USING (dataset, attempt_id)
    WHERE error IS NULL
),
needed AS (
    SELECT dataset, attempt_id FROM unclear_now
    UNION
    SELECT dataset, attempt_id FROM stray_verdicts
),
found AS (
    SELECT * FROM recent_verdicts
    UNION ALL
    SELECT * FROM indexed_verdicts SEMI JOIN needed USING (dataset, attempt_id)
),
verdict AS (
    SELECT v.* REPLACE (coalesce(n.verifier_version, v.verifier_version) AS verifier_version)
    FROM found AS v
    ANTI JOIN older_verdicts AS o ON o.dataset = v.dataset AND o.verdict_id = v.verdict_id
    LEFT JOIN dataset_verifiers AS j ON j.dataset = v.dataset
    LEFT JOIN version_names AS n
        ON n.dataset = v.dataset AND n.verifier = v.verifier AND n.name = v.verifier_version
    WHERE j.dataset IS NULL OR n.dataset IS NOT NULL
)
SELECT dataset, task_id, policy, rollout_index,
    CASE WHEN present THEN reward END AS reward, CASE WHEN present THEN metrics END AS metrics,
    finish_reason, turns, tool_calls, tool_errors, tool_names,
    input_tokens, output_tokens, reasoning_tokens, cached_tokens, text_length,
    engine, model, attempt, attempt_id, part, run_id, started_at, seconds, model_seconds, tool_seconds,
    CASE WHEN present THEN verify_seconds END AS verify_seconds, CASE WHEN present THEN verifier END AS verifier,
    CASE WHEN present THEN verifier_version END AS verifier_version,
    CASE WHEN present THEN verdict_error END AS verdict_error
FROM clear
UNION ALL
SELECT a.dataset, a.task_id, a.policy, a.rollout_index, v.reward, v.metrics,
    a.finish_reason, a.turns, a.tool_calls, a.tool_errors, a.tool_names,
    a.input_tokens, a.output_tokens, a.reasoning_tokens, a.cached_tokens, a.text_length,
    a.engine, a.model, a.attempt, a.attempt_id, a.part, a.run_id, a.started_at, a.seconds, a.model_seconds,
    a.tool_seconds, v.seconds, v.verifier, v.verifier_version, v.error
FROM others AS a
LEFT JOIN verdict AS v ON v.dataset = a.dataset AND v.attempt_id = a.attempt_id;

-- remaining: wanted rollouts that the index does not list as done. Most tasks have none.
CREATE OR REPLACE VIEW remaining AS
SELECT w.* EXCLUDE (num_repeats), unnest(range(coalesce(s.done_through, 0), w.num_repeats))::INTEGER AS rollout_index
FROM wanted_tasks AS w
LEFT JOIN settled_tasks AS s
    ON s.dataset = w.dataset AND s.task_id = w.task_id AND s.row_hash = w.row_hash AND s.policy = w.policy
WHERE coalesce(s.done_through, 0) < w.num_repeats;

-- done_rollouts: the rollouts of `remaining` that are done, and more.
CREATE OR REPLACE VIEW done_rollouts AS
SELECT dataset, task_id, row_hash, policy, rollout_index
FROM recent_attempts
WHERE error IS NULL
UNION ALL
SELECT dataset, task_id, row_hash, policy, unnest(beyond)
FROM settled_tasks
WHERE len(beyond) > 0;
