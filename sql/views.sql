-- The views of a workspace. They read seven relations that `rolloutops sql --print` defines first:
--   task_log, attempts, verdicts, runs, jobs, label_log    the Parquet tables on disk, append-only
--   plan                                                   what the recipe wants of each dataset and policy:
--       dataset, policy, num_repeats, row_limit, max_attempts, verifier, verifier_version, equal_versions,
--       shard, shards: of every dataset, only the tasks whose ids hash to that shard; null for all tasks
-- If `compact` made indexes, index.sql then replaces five of these views with ones that read less and return the same.
-- Payload never goes through a window or a sort: keys are grouped, and the payload is joined back.

-- labels: what people say of rollouts. Of each attempt the newest row counts, whoever wrote it; the view label_log has
-- all of them, also those that were withdrawn.
CREATE OR REPLACE VIEW labels AS
SELECT * EXCLUDE (withdrawn)
FROM (
    FROM label_log
    QUALIFY row_number() OVER (PARTITION BY dataset, attempt_id ORDER BY created_at DESC, label_id DESC) = 1
)
WHERE NOT withdrawn;

-- human_verdicts: the scores of people as verdicts, for datasets whose verifier is `human`. `verdicts` has them too then.
CREATE OR REPLACE VIEW human_verdicts AS
SELECT label_id AS verdict_id, dataset, task_id, policy, rollout_index, attempt_id, 'human' AS verifier,
    '1' AS verifier_version, score AS reward, MAP {}::MAP(VARCHAR, DOUBLE) AS metrics,
    to_json({label: label, note: note, author: author}) AS details,
    NULL::VARCHAR AS error, NULL::VARCHAR AS error_message, NULL::DOUBLE AS seconds, false AS cached,
    NULL::VARCHAR AS run_id, NULL::DOUBLE AS cpu_seconds
FROM labels
WHERE score IS NOT NULL AND dataset IN (SELECT dataset FROM plan WHERE verifier = 'human');

-- edited_tasks: the newest version of each task that has more than one.
CREATE OR REPLACE VIEW edited_tasks AS
SELECT dataset, task_id, max(version) AS version
FROM task_log
WHERE version > 0
GROUP BY dataset, task_id;

-- tasks: the current tasks of the input. An edit appends a higher version; a removal appends a row with `removed` set.
CREATE OR REPLACE VIEW tasks AS
SELECT t.* EXCLUDE (removed)
FROM task_log AS t
ANTI JOIN edited_tasks AS e ON e.dataset = t.dataset AND e.task_id = t.task_id AND e.version > t.version
WHERE NOT t.removed;

-- dataset_verifiers: the verifier of each dataset.
CREATE OR REPLACE VIEW dataset_verifiers AS
SELECT DISTINCT dataset, verifier, verifier_version
FROM plan
WHERE verifier IS NOT NULL;

-- version_names: the current version of each verifier, and the names that verdicts of earlier commits have for it.
CREATE OR REPLACE VIEW version_names AS
SELECT DISTINCT dataset, verifier, verifier_version,
    unnest(list_prepend(verifier_version, coalesce(equal_versions, []))) AS name
FROM plan
WHERE verifier IS NOT NULL;

-- contested_attempts: a superset of the attempts whose rollout has several: here, all.
CREATE OR REPLACE VIEW contested_attempts AS
SELECT dataset, task_id, row_hash, policy, rollout_index, attempt_id
FROM attempts
WHERE error IS NULL;

-- repeated_attempts: attempts that do not count because their rollout has an earlier one. There are few.
CREATE OR REPLACE VIEW repeated_attempts AS
WITH repeated AS (
    SELECT dataset, task_id, policy, rollout_index
    FROM contested_attempts
    GROUP BY dataset, task_id, policy, rollout_index
    HAVING count(*) > 1
),
good AS (
    SELECT dataset, task_id, policy, rollout_index, attempt_id
    FROM contested_attempts
    SEMI JOIN repeated USING (dataset, task_id, policy, rollout_index)
    SEMI JOIN tasks USING (dataset, task_id, row_hash)
)
SELECT *
FROM good
ANTI JOIN (SELECT dataset, min(attempt_id) AS attempt_id FROM good GROUP BY dataset, task_id, policy, rollout_index)
    USING (dataset, attempt_id);

-- good_attempts: the one attempt that counts for each rollout.
CREATE OR REPLACE VIEW good_attempts AS
SELECT dataset, task_id, policy, rollout_index, attempt_id
FROM attempts
SEMI JOIN tasks USING (dataset, task_id, row_hash)
ANTI JOIN repeated_attempts USING (dataset, attempt_id)
WHERE error IS NULL;

-- named_verdicts: all verdicts, with one name for each verifier version. present: true if the verdict is of the
-- recipe's verifier in its current version.
CREATE OR REPLACE VIEW named_verdicts AS
SELECT v.* REPLACE (coalesce(n.verifier_version, v.verifier_version) AS verifier_version),
    n.dataset IS NOT NULL AS present
FROM verdicts AS v
LEFT JOIN version_names AS n
    ON n.dataset = v.dataset AND n.verifier = v.verifier AND n.name = v.verifier_version;

-- present_verdicts: the verdicts that may count. If the recipe names the verifier, those of that verifier in its
-- current version; otherwise all.
CREATE OR REPLACE VIEW present_verdicts AS
SELECT v.* EXCLUDE (present)
FROM named_verdicts AS v
LEFT JOIN dataset_verifiers AS j ON j.dataset = v.dataset
WHERE v.present OR j.dataset IS NULL;

-- contested_verdicts: a superset of the verdicts whose attempt has several: here, all.
CREATE OR REPLACE VIEW contested_verdicts AS
SELECT dataset, attempt_id, verdict_id
FROM verdicts;

-- older_verdicts: verdicts that do not count because their attempt has a newer one. There are few.
CREATE OR REPLACE VIEW older_verdicts AS
WITH repeated AS (
    SELECT dataset, attempt_id FROM contested_verdicts GROUP BY dataset, attempt_id HAVING count(*) > 1
),
several AS (
    SELECT dataset, attempt_id, verdict_id
    FROM present_verdicts
    SEMI JOIN repeated USING (dataset, attempt_id)
)
SELECT *
FROM several
ANTI JOIN (SELECT dataset, max(verdict_id) AS verdict_id FROM several GROUP BY dataset, attempt_id)
    USING (dataset, verdict_id);

-- good_verdicts: the verdict that counts for each attempt.
CREATE OR REPLACE VIEW good_verdicts AS
SELECT *
FROM present_verdicts
ANTI JOIN older_verdicts USING (dataset, verdict_id);

-- logged: each attempt that did not fail, with its current task and its verdict. A rollout may occur twice here, and
-- have two verdicts; this is rare.
CREATE OR REPLACE VIEW logged AS
WITH attempt AS (
    -- Rollouts of one context_hash were asked the same: the task's prompt and tools, unless the policy changed
    -- them. What is made of payload is made here, so that joins carry the numbers only.
    SELECT *, length(text) AS text_length, hash(text) AS text_hash, hash(completion::VARCHAR) AS completion_hash,
        md5(nullif(concat_ws(chr(31), prompt::VARCHAR, tools::VARCHAR), '')) AS context_hash
    FROM attempts
)
SELECT
    a.dataset, a.task_id, a.policy, a.rollout_index,
    v.reward, v.metrics, a.text, a.finish_reason, a.turns, a.tool_calls, a.tool_errors, a.tool_names,
    a.input_tokens, a.output_tokens, a.reasoning_tokens, a.cached_tokens,
    t.agent, t.answer, coalesce(a.prompt, t.prompt) AS prompt, a.completion, coalesce(a.tools, t.tools) AS tools, t.row, t.prompt_hash,
    coalesce(a.context_hash, t.prompt_hash) AS context_hash, a.text_length, a.text_hash, a.completion_hash,
    a.token_turns, a.request, a.response, a.engine, a.model, a.attempt, a.attempt_id, a.part, a.run_id,
    a.started_at, a.seconds, a.model_seconds, a.tool_seconds,
    v.verdict_id, v.seconds AS verify_seconds, v.verifier, v.verifier_version, v.error AS verdict_error, v.details,
    l.label, l.score AS label_score, l.note AS label_note
FROM attempt AS a
-- First: DuckDB knows how many attempts there are, so that it holds the labels, which are fewer, and streams these.
LEFT JOIN labels AS l ON l.dataset = a.dataset AND l.attempt_id = a.attempt_id
JOIN tasks AS t ON t.dataset = a.dataset AND t.task_id = a.task_id AND t.row_hash = a.row_hash
LEFT JOIN present_verdicts AS v ON v.dataset = a.dataset AND v.attempt_id = a.attempt_id
WHERE a.error IS NULL;

-- rollouts: one row for each rollout, with its task and its reward.
CREATE OR REPLACE VIEW rollouts AS
SELECT * EXCLUDE (verdict_id)
FROM logged
ANTI JOIN repeated_attempts USING (dataset, attempt_id)
ANTI JOIN older_verdicts USING (dataset, verdict_id);

-- rollout_facts: `rollouts` without large columns and without the task's columns.
CREATE OR REPLACE VIEW rollout_facts AS
SELECT
    dataset, task_id, policy, rollout_index, reward, metrics, finish_reason, turns, tool_calls, tool_errors, tool_names,
    input_tokens, output_tokens, reasoning_tokens, cached_tokens, text_length,
    engine, model, attempt, attempt_id, part, run_id, started_at, seconds, model_seconds, tool_seconds,
    verify_seconds, verifier, verifier_version, verdict_error
FROM rollouts;

-- wanted_tasks: every task that the recipe wants rollouts of, and how many by each policy.
CREATE OR REPLACE VIEW wanted_tasks AS
WITH places AS (
    SELECT dataset, task_id, row_number() OVER (PARTITION BY dataset ORDER BY part, line, task_id) AS place
    FROM tasks
    WHERE dataset IN (SELECT dataset FROM plan WHERE row_limit IS NOT NULL)
)
SELECT t.dataset, t.task_id, t.row_hash, t.part, t.line, p.policy, p.max_attempts, p.num_repeats
FROM tasks AS t
JOIN plan AS p ON p.dataset = t.dataset
LEFT JOIN places AS s ON s.dataset = t.dataset AND s.task_id = t.task_id
WHERE (p.row_limit IS NULL OR s.place <= p.row_limit)
    AND (p.shards IS NULL OR md5_number_lower(t.task_id) % p.shards = p.shard);

-- wanted: the keys of all rollouts that the recipe wants; with --shard, of the shard's tasks only.
CREATE OR REPLACE VIEW wanted AS
SELECT * EXCLUDE (num_repeats), unnest(range(num_repeats))::INTEGER AS rollout_index
FROM wanted_tasks;

-- remaining: wanted rollouts, perhaps without some that are done.
CREATE OR REPLACE VIEW remaining AS
FROM wanted;

-- done_rollouts: the rollouts that are done; here, all.
CREATE OR REPLACE VIEW done_rollouts AS
SELECT dataset, task_id, row_hash, policy, rollout_index
FROM attempts
WHERE error IS NULL;

-- open_jobs: batch jobs whose answers are not all in the tables yet. state: the last event of the job.
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

-- unfinished: the wanted rollouts that are not done: pending, submitted in a batch, or given up (`status`). `attempt`
-- is the number of the next attempt. `tries` is the number of attempts that count toward max_attempts: rate limits, an
-- endpoint that is down and refused keys do not. `state` is `status` in the words of earlier versions: owed, in_flight.
CREATE OR REPLACE VIEW unfinished AS
WITH failed AS (
    SELECT dataset, task_id, row_hash, policy, rollout_index,
        bool_or(final) AS refused,
        max(attempt) AS last_attempt,
        count(*) FILTER (WHERE error NOT IN ('forbidden', 'loading', 'rate_limited', 'unauthorized', 'unreachable')) AS tries,
        max_by(error, attempt) AS last_error
    FROM attempts
    WHERE error IS NOT NULL
    GROUP BY dataset, task_id, row_hash, policy, rollout_index
),
sent AS (
    SELECT DISTINCT dataset, task_id, row_hash, policy, rollout_index
    FROM under_way
)
SELECT w.dataset, w.task_id, w.row_hash, w.part, w.line, w.policy, w.rollout_index,
    coalesce(f.last_attempt, 0)::INTEGER + 1 AS attempt, coalesce(f.tries, 0)::INTEGER AS tries, f.last_error,
    CASE
        WHEN sent.task_id IS NOT NULL THEN 'submitted'
        WHEN f.refused OR f.tries >= w.max_attempts THEN 'given_up'
        ELSE 'pending'
    END AS status,
    CASE status WHEN 'submitted' THEN 'in_flight' WHEN 'pending' THEN 'owed' ELSE status END AS state
FROM remaining AS w
ANTI JOIN done_rollouts AS d
    ON d.dataset = w.dataset AND d.task_id = w.task_id AND d.row_hash = w.row_hash
    AND d.policy = w.policy AND d.rollout_index = w.rollout_index
LEFT JOIN failed AS f
    ON f.dataset = w.dataset AND f.task_id = w.task_id AND f.row_hash = w.row_hash
    AND f.policy = w.policy AND f.rollout_index = w.rollout_index
LEFT JOIN sent
    ON sent.dataset = w.dataset AND sent.task_id = w.task_id AND sent.row_hash = w.row_hash
    AND sent.policy = w.policy AND sent.rollout_index = w.rollout_index;

-- submitted: rollouts in submitted batch jobs. (Requests of a running collect stay pending until stored.)
CREATE OR REPLACE VIEW submitted AS
SELECT * EXCLUDE (status, state) FROM unfinished WHERE status = 'submitted';

-- pending: the rollouts that collect generates next.
CREATE OR REPLACE VIEW pending AS
SELECT * EXCLUDE (status, state) FROM unfinished WHERE status = 'pending';

-- given_up: rollouts that failed permanently or used all max_attempts.
CREATE OR REPLACE VIEW given_up AS
SELECT * EXCLUDE (status, state) FROM unfinished WHERE status = 'given_up';

-- wanted_states: all wanted rollouts with their status, including those that are done.
CREATE OR REPLACE VIEW wanted_states AS
SELECT * FROM unfinished
UNION ALL
SELECT w.dataset, w.task_id, w.row_hash, w.part, w.line, w.policy, w.rollout_index, NULL, NULL, NULL, 'done', 'done'
FROM wanted AS w
SEMI JOIN attempts AS a
    ON a.dataset = w.dataset AND a.task_id = w.task_id AND a.row_hash = w.row_hash
    AND a.policy = w.policy AND a.rollout_index = w.rollout_index AND a.error IS NULL;

-- unverified: rollouts without a verdict of their dataset's verifier in its current version. Which attempt counts is
-- looked up only for these: good_attempts groups the keys of all rollouts, which takes a third more memory.
CREATE OR REPLACE VIEW unverified AS
WITH verified AS (
    SELECT dataset, attempt_id
    FROM verdicts AS v
    SEMI JOIN version_names AS n
        ON n.dataset = v.dataset AND n.verifier = v.verifier AND n.name = v.verifier_version
),
lacking AS (
    SELECT a.dataset, a.task_id, a.policy, a.rollout_index, a.attempt_id, j.verifier, j.verifier_version
    FROM attempts AS a
    JOIN dataset_verifiers AS j ON j.dataset = a.dataset
    ANTI JOIN verified ON verified.dataset = a.dataset AND verified.attempt_id = a.attempt_id
    WHERE a.error IS NULL
),
asked AS (
    SELECT dataset, task_id, row_hash
    FROM tasks
    SEMI JOIN lacking USING (dataset, task_id)
),
good AS (
    SELECT dataset, task_id, policy, rollout_index, min(attempt_id) AS attempt_id
    FROM attempts
    SEMI JOIN asked USING (dataset, task_id, row_hash)
    WHERE error IS NULL
    GROUP BY dataset, task_id, policy, rollout_index
)
SELECT lacking.*
FROM lacking
SEMI JOIN good USING (dataset, attempt_id);

-- outdated: unverified rollouts that have a verdict of another version of the verifier, or of another verifier.
CREATE OR REPLACE VIEW outdated AS
SELECT u.*
FROM unverified AS u
SEMI JOIN verdicts AS v
    ON v.dataset = u.dataset AND v.attempt_id = u.attempt_id AND v.verifier_version IS NOT NULL;

-- failures: the attempts that failed. healed: true if their rollout succeeded in a later attempt.
CREATE OR REPLACE VIEW failures AS
WITH healed AS (
    SELECT DISTINCT dataset, task_id, policy, rollout_index
    FROM attempts
    SEMI JOIN (SELECT dataset, task_id, policy, rollout_index FROM attempts WHERE error IS NOT NULL)
        USING (dataset, task_id, policy, rollout_index)
    SEMI JOIN tasks USING (dataset, task_id, row_hash)
    WHERE error IS NULL
)
SELECT a.dataset, a.task_id, a.policy, a.rollout_index, a.attempt, a.error, a.error_message, a.final,
    h.task_id IS NOT NULL AS healed, a.engine, a.model, a.request, a.response, a.attempt_id, a.run_id,
    a.started_at, a.seconds
FROM attempts AS a
LEFT JOIN healed AS h
    ON h.dataset = a.dataset AND h.task_id = a.task_id AND h.policy = a.policy AND h.rollout_index = a.rollout_index
WHERE a.error IS NOT NULL;

-- task_stats: each task's rewards by policy. `judged` is `verified` under its name in earlier versions.
CREATE OR REPLACE VIEW task_stats AS
SELECT dataset, task_id, policy, count(*) AS rollouts, count(reward) AS verified,
    avg(reward) AS mean_reward, min(reward) AS min_reward, max(reward) AS max_reward, stddev_samp(reward) AS std_reward,
    verified AS judged
FROM rollouts
GROUP BY dataset, task_id, policy;

-- owed: `pending` under its name in earlier versions.
CREATE OR REPLACE VIEW owed AS
FROM pending;

-- in_flight: `submitted` under its name in earlier versions.
CREATE OR REPLACE VIEW in_flight AS
FROM submitted;

-- unjudged: `unverified` under its name in earlier versions.
CREATE OR REPLACE VIEW unjudged AS
FROM unverified;

-- judges: `dataset_verifiers` under its name in earlier versions.
CREATE OR REPLACE VIEW judges AS
FROM dataset_verifiers;
