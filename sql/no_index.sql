-- What `compact` derives of merged files, for a workspace that has none of it: six relations on which views stand.
-- The tables themselves are what is recent then.

-- recent_attempts, recent_verdicts: the rows of the tables that no index was made of.
CREATE OR REPLACE VIEW recent_attempts AS
FROM attempts;

CREATE OR REPLACE VIEW recent_verdicts AS
FROM verdicts;

-- indexed_verdicts: the verdicts that indexes were made of.
CREATE OR REPLACE VIEW indexed_verdicts AS
FROM verdicts
WHERE false;

-- indexed_rollouts: each attempt of an index, none of which failed, with its newest verdict.
CREATE OR REPLACE VIEW indexed_rollouts AS
SELECT a.dataset, a.task_id, a.row_hash, a.policy, a.rollout_index, a.attempt_id, a.attempt, a.part, a.run_id,
    a.engine, a.model, a.finish_reason, a.turns, a.tool_calls, a.tool_errors, a.tool_names,
    a.input_tokens, a.output_tokens, a.reasoning_tokens, a.cached_tokens,
    a.started_at, a.seconds, a.model_seconds, a.tool_seconds, length(a.text) AS text_length,
    0::UBIGINT AS task_key, 0::UBIGINT AS rollout_key, 0::UBIGINT AS attempt_key, false AS repeated,
    v.verdict_id, v.verifier, v.verifier_version, v.reward, v.metrics, v.error AS verdict_error,
    v.seconds AS verify_seconds, false AS several
FROM attempts AS a
JOIN verdicts AS v ON v.attempt_id = a.attempt_id
WHERE false;

-- settled_tasks: of each task, as it was, the repeats that an index has: all before done_through, and those beyond it.
CREATE OR REPLACE VIEW settled_tasks AS
SELECT dataset, task_id, row_hash, policy, 0::INTEGER AS done_through, []::INTEGER[] AS beyond, 0::UBIGINT AS task_key
FROM attempts
WHERE false;

-- stray_verdicts: verdicts that indexes were made of, on attempts that are in none.
CREATE OR REPLACE VIEW stray_verdicts AS
SELECT dataset, attempt_id, verdict_id
FROM verdicts
WHERE false;
