-- The views of a workspace. They stand on six relations that `rolloutops sql --print` defines first:
--   task_log, attempts, verdicts, runs, jobs    the Parquet tables as they lie on disk, append-only
--   plan                                        what the recipe asks of each data set and policy:
--       dataset, policy, num_repeats, row_limit, max_attempts, verifier, verifier_version
-- Payload never goes through a window or a sort: keys are grouped, and the payload is joined back.

-- tasks: what the input holds now. An edit appends a higher version, a removal appends a row that says so.
CREATE OR REPLACE VIEW tasks AS
WITH newest AS (
    SELECT dataset, task_id, max(version) AS version
    FROM task_log
    GROUP BY dataset, task_id
)
SELECT task_log.* EXCLUDE (removed)
FROM task_log
SEMI JOIN newest USING (dataset, task_id, version)
WHERE NOT removed;

-- judges: the verifier of each data set.
CREATE OR REPLACE VIEW judges AS
SELECT DISTINCT dataset, verifier, verifier_version
FROM plan
WHERE verifier IS NOT NULL;

-- good_attempts: the one attempt that counts for each rollout, out of a log in which a rollout may occur twice.
CREATE OR REPLACE VIEW good_attempts AS
SELECT dataset, task_id, policy, rollout_index, min(attempt_id) AS attempt_id
FROM attempts
SEMI JOIN tasks USING (dataset, task_id, row_hash)
WHERE error IS NULL
GROUP BY dataset, task_id, policy, rollout_index;

-- good_verdicts: the verdict that counts for each attempt. Where the recipe names the verifier, that verifier in its
-- present version; else the newest.
CREATE OR REPLACE VIEW good_verdicts AS
SELECT v.dataset, v.attempt_id, max(v.verdict_id) AS verdict_id
FROM verdicts AS v
LEFT JOIN judges AS j ON j.dataset = v.dataset
WHERE j.dataset IS NULL OR (v.verifier = j.verifier AND v.verifier_version = j.verifier_version)
GROUP BY v.dataset, v.attempt_id;

-- rollouts: one row for each rollout, with its task and its reward.
CREATE OR REPLACE VIEW rollouts AS
WITH attempt AS (
    -- Rollouts of one context_hash were asked the very same: the task's prompt and tools, unless the policy changed
    -- them. What is made of payload is made here, so that joins carry the numbers only.
    SELECT *, length(text) AS text_length, hash(completion::VARCHAR) AS completion_hash,
        md5(nullif(concat_ws(chr(31), prompt::VARCHAR, tools::VARCHAR), '')) AS context_hash
    FROM attempts
),

verdict AS (
    SELECT verdicts.attempt_id, verdicts.reward, verdicts.metrics, verdicts.details, verdicts.verifier,
        verdicts.verifier_version, verdicts.error AS verdict_error, verdicts.seconds AS verify_seconds
    FROM verdicts
    SEMI JOIN good_verdicts USING (dataset, verdict_id)
)
SELECT
    a.dataset, a.task_id, a.policy, a.rollout_index,
    v.reward, v.metrics, a.text, a.finish_reason, a.turns, a.tool_calls, a.tool_errors, a.tool_names,
    a.input_tokens, a.output_tokens, a.reasoning_tokens, a.cached_tokens,
    t.agent, t.answer, coalesce(a.prompt, t.prompt) AS prompt, a.completion, coalesce(a.tools, t.tools) AS tools, t.row, t.prompt_hash,
    coalesce(a.context_hash, t.prompt_hash) AS context_hash, a.text_length, a.completion_hash,
    a.token_turns, a.request, a.response, a.engine, a.model, a.attempt, a.attempt_id, a.part, a.run_id,
    a.started_at, a.seconds, a.model_seconds, a.tool_seconds,
    v.verify_seconds, v.verifier, v.verifier_version, v.verdict_error, v.details
FROM attempt AS a
SEMI JOIN good_attempts AS g ON g.dataset = a.dataset AND g.attempt_id = a.attempt_id
JOIN tasks AS t ON t.dataset = a.dataset AND t.task_id = a.task_id
LEFT JOIN verdict AS v ON v.attempt_id = a.attempt_id;

-- wanted: every rollout that the recipe asks for, as keys.
CREATE OR REPLACE VIEW wanted AS
WITH places AS (
    SELECT dataset, task_id, row_hash, part, line,
        row_number() OVER (PARTITION BY dataset ORDER BY part, line, task_id) AS place
    FROM tasks
)
SELECT s.dataset, s.task_id, s.row_hash, s.part, s.place, p.policy, p.max_attempts,
    unnest(range(p.num_repeats))::INTEGER AS rollout_index
FROM places AS s
JOIN plan AS p ON p.dataset = s.dataset
WHERE p.row_limit IS NULL OR s.place <= p.row_limit;

-- open_jobs: batches that were begun and whose answers are not all in the tables yet. state: how far they came.
CREATE OR REPLACE VIEW open_jobs AS
WITH placed AS (
    SELECT *, list_position(['intended', 'uploaded', 'submitted', 'ended', 'dropped'], event) AS place
    FROM jobs
)
SELECT job_id, max_by(event, place) AS state, max(url) AS url, max(endpoint) AS endpoint, max(model) AS model,
    max(len(requests))::BIGINT AS requests, max(file_id) AS file_id, max(batch_id) AS batch_id,
    min(happened_at) AS began_at
FROM placed
GROUP BY job_id
HAVING max(place) < 4;

-- under_way: the rollouts that open jobs cover.
CREATE OR REPLACE VIEW under_way AS
WITH asked AS (
    SELECT job_id, unnest(requests) AS r
    FROM jobs
    SEMI JOIN open_jobs USING (job_id)
)
SELECT job_id, r.dataset AS dataset, r.task_id AS task_id, r.row_hash AS row_hash, r.policy AS policy,
    r.rollout_index AS rollout_index, r.attempt AS attempt
FROM asked;

-- wanted_states: each wanted rollout is done, in flight, owed or given up. `attempt` is the number of its next
-- attempt, `tries` how many count: an endpoint that was not reached, or refused for now, has not tried it.
CREATE OR REPLACE VIEW wanted_states AS
WITH tried AS (
    SELECT dataset, task_id, row_hash, policy, rollout_index,
        bool_or(error IS NULL) AS succeeded,
        bool_or(final AND error IS NOT NULL) AS refused,
        max(attempt) AS last_attempt,
        count(*) FILTER (WHERE error IS NULL OR error NOT IN ('rate_limited', 'unreachable')) AS tries,
        max_by(error, attempt) AS last_error
    FROM attempts
    GROUP BY dataset, task_id, row_hash, policy, rollout_index
),
sent AS (
    SELECT DISTINCT dataset, task_id, row_hash, policy, rollout_index
    FROM under_way
)
SELECT w.dataset, w.task_id, w.row_hash, w.part, w.place, w.policy, w.rollout_index,
    coalesce(t.last_attempt, 0)::INTEGER + 1 AS attempt, coalesce(t.tries, 0)::INTEGER AS tries, t.last_error,
    CASE
        WHEN t.succeeded THEN 'done'
        WHEN sent.task_id IS NOT NULL THEN 'in_flight'
        WHEN t.last_attempt IS NULL THEN 'owed'
        WHEN t.refused OR t.tries >= w.max_attempts THEN 'given_up'
        ELSE 'owed'
    END AS state
FROM wanted AS w
LEFT JOIN tried AS t
    ON t.dataset = w.dataset AND t.task_id = w.task_id AND t.row_hash = w.row_hash
    AND t.policy = w.policy AND t.rollout_index = w.rollout_index
LEFT JOIN sent
    ON sent.dataset = w.dataset AND sent.task_id = w.task_id AND sent.row_hash = w.row_hash
    AND sent.policy = w.policy AND sent.rollout_index = w.rollout_index;

-- in_flight: what a batch is under way for. What a running collect waits for is owed until its attempt is written.
CREATE OR REPLACE VIEW in_flight AS
SELECT * EXCLUDE (state) FROM wanted_states WHERE state = 'in_flight';

-- owed: what collect has to do.
CREATE OR REPLACE VIEW owed AS
SELECT * EXCLUDE (state) FROM wanted_states WHERE state = 'owed';

-- given_up: refused for good, or tried as often as allowed.
CREATE OR REPLACE VIEW given_up AS
SELECT * EXCLUDE (state) FROM wanted_states WHERE state = 'given_up';

-- unjudged: rollouts without a verdict of their data set's verifier in its present version.
CREATE OR REPLACE VIEW unjudged AS
WITH due AS (
    SELECT g.dataset, g.task_id, g.policy, g.rollout_index, g.attempt_id, j.verifier, j.verifier_version
    FROM good_attempts AS g
    JOIN judges AS j ON j.dataset = g.dataset
)
SELECT due.*
FROM due
ANTI JOIN verdicts USING (dataset, attempt_id, verifier, verifier_version);

-- failures: the attempts that failed, and whether their rollout came in the end.
CREATE OR REPLACE VIEW failures AS
SELECT a.dataset, a.task_id, a.policy, a.rollout_index, a.attempt, a.error, a.error_message, a.final,
    g.attempt_id IS NOT NULL AS healed, a.engine, a.model, a.request, a.response, a.attempt_id, a.run_id,
    a.started_at, a.seconds
FROM attempts AS a
LEFT JOIN good_attempts AS g
    ON g.dataset = a.dataset AND g.task_id = a.task_id AND g.policy = a.policy AND g.rollout_index = a.rollout_index
WHERE a.error IS NOT NULL;

-- task_stats: each task's rewards under each policy.
CREATE OR REPLACE VIEW task_stats AS
SELECT dataset, task_id, policy, count(*) AS rollouts, count(reward) AS judged,
    avg(reward) AS mean_reward, min(reward) AS min_reward, max(reward) AS max_reward, stddev_samp(reward) AS std_reward
FROM rollouts
GROUP BY dataset, task_id, policy;
