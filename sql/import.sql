-- Imported rows, as keys: which are new, whose rollouts they are, and which index each gets
-- (rolloutops/ingest/import_rollouts.py). Stands on the views of a workspace, on the variable `dataset`, and on the
-- staged rows:
--   asked    tasks: ident, input_key, place, ng_task, empty, row_hash, prompt_hash, answer, twin, request_model, payload
--   ended    rollouts: ordinal, digest, source, ident, input_key, needs_input, policy, ng_task, ng_rollout, ng_attempt,
--            twin, model, session, engine, completion

-- fresh_rows: the rows that the workspace does not have. copy: which of several equal rows it is, from 1.
CREATE TABLE fresh_rows AS
WITH named AS (
    SELECT ordinal, digest, source, ident, input_key, needs_input, policy, ng_task, ng_rollout, ng_attempt, prompt_hash,
        origin, line, twin, model, error IS NOT NULL AS failed,
        row_number() OVER (PARTITION BY digest ORDER BY ordinal) AS copy
    FROM ended
)
SELECT n.*, format('import-{}-{:04d}', digest, copy) AS attempt_id
FROM named AS n
ANTI JOIN (
    -- That of a session that has grown has further dashes.
    SELECT regexp_replace(attempt_id, '^import-+', 'import-') AS attempt_id
    FROM attempts
    WHERE dataset = getvariable('dataset')
) AS a
    ON a.attempt_id = format('import-{}-0001', n.digest);

-- other_batches: files of answers that are named like no file of requests, and have ids that no request has. Where they
-- share ids with requests, these are those of another batch all the same.
CREATE TABLE other_batches AS
SELECT e.origin, count(*) AS answers, count(*) FILTER (a.input_key IS NULL) AS without_request
FROM ended AS e
LEFT JOIN (SELECT DISTINCT input_key FROM asked WHERE input_key IS NOT NULL) AS a ON a.input_key = e.input_key
ANTI JOIN (SELECT twin FROM asked WHERE twin IS NOT NULL) AS t ON t.twin = e.twin
WHERE e.needs_input AND e.ng_task IS NULL AND e.input_key IS NOT NULL
GROUP BY e.origin
HAVING count(*) FILTER (a.input_key IS NULL) > 0;

-- requests: the request that an answer of a batch belongs to. Several may have its custom_id: then the one whose file is
-- named alike, else the one whose model answered. Where that is none or several, it is not known (place is null); nor
-- where another file's answer is of the request's model, and this one is not.
CREATE MACRO model_name(model) AS lower(regexp_replace(model, '^.*/', ''));
CREATE TABLE requests AS
WITH candidates AS (
    SELECT f.ordinal, f.input_key, f.origin, f.model, a.place, a.ident, a.request_model,
        coalesce(a.twin = f.twin, false) AS alike,
        coalesce(
            model_name(f.model) = model_name(a.request_model)
            OR starts_with(model_name(f.model), model_name(a.request_model) || '-'),
            false
        ) AS same_model
    FROM fresh_rows AS f
    JOIN asked AS a ON a.input_key = f.input_key
    WHERE f.needs_input AND f.ng_task IS NULL
),
scored AS (
    SELECT *, 2 * alike::INTEGER + same_model::INTEGER AS score,
        max(2 * alike::INTEGER + same_model::INTEGER) OVER (PARTITION BY ordinal) AS best
    FROM candidates
),
chosen AS (
    SELECT ordinal, any_value(input_key) AS input_key, any_value(origin) AS origin, any_value(model) AS model,
        min(place) AS place, min(ident) AS ident, min(ident) = max(ident) AS single, bool_or(same_model) AS same_model,
        bool_or(alike) AS alike, any_value(request_model) AS request_model
    FROM scored
    WHERE score = best
    GROUP BY ordinal
)
SELECT c.ordinal, CASE WHEN c.single AND o.ordinal IS NULL AND b.origin IS NULL THEN c.place END AS place,
    CASE WHEN c.single AND o.ordinal IS NULL AND b.origin IS NULL THEN c.ident END AS ident,
    (
        SELECT list(DISTINCT a.origin ORDER BY a.origin) FROM asked AS a WHERE a.input_key = c.input_key
    ) AS files,
    o.ordinal IS NOT NULL AS of_another,
    CASE WHEN b.origin IS NOT NULL THEN format(
        'its custom_id ''{}'' has a request here, but {} of the {} answers in this file have none, so it is of another '
        || 'batch: import the requests of this batch too',
        substr(c.input_key, strpos(c.input_key, '/') + 1), b.without_request, b.answers
    ) END AS why
FROM chosen AS c
LEFT JOIN other_batches AS b ON b.origin = c.origin
LEFT JOIN (
    SELECT DISTINCT c.ordinal
    FROM chosen AS c
    JOIN chosen AS o ON o.place = c.place AND o.origin <> c.origin AND o.same_model
    WHERE NOT c.same_model AND NOT c.alike AND c.model IS NOT NULL AND c.request_model IS NOT NULL
) AS o ON o.ordinal = c.ordinal;

-- resolved: what each row was asked: what it names, else what its file's first rollout of the task index was, else what
-- it holds itself. Files that were joined may use one index for two tasks: there the index says nothing. The policy of
-- a row that names no model is the one that most rows of its file have.
CREATE TABLE resolved AS
WITH by_key AS (
    SELECT input_key, min(ident) AS ident
    FROM asked
    WHERE input_key IS NOT NULL
    GROUP BY input_key
    HAVING min(ident) = max(ident)
),
told AS (
    SELECT e.source, e.ng_task, e.ng_rollout, coalesce(k.ident, e.ident) AS ident
    FROM ended AS e
    LEFT JOIN by_key AS k ON k.input_key = e.input_key
    WHERE e.ng_task IS NOT NULL AND e.ng_rollout IS NOT NULL AND coalesce(k.ident, e.ident) IS NOT NULL
),
joined AS (
    SELECT source, ng_task FROM told GROUP BY source, ng_task, ng_rollout HAVING min(ident) <> max(ident)
),
by_index AS (
    SELECT source, ng_task, arg_min(ident, ng_rollout) AS ident
    FROM told
    ANTI JOIN joined USING (source, ng_task)
    GROUP BY source, ng_task
),
named AS (
    SELECT source, policy, row_number() OVER (PARTITION BY source ORDER BY count(*) DESC, policy) AS place
    FROM ended
    WHERE policy IS NOT NULL
    GROUP BY source, policy
)
SELECT f.* EXCLUDE (ident, policy), coalesce(f.policy, n.policy, 'imported') AS policy,
    -- Equal rows are one rollout, also where only one of them is next to its materialized input.
    first_value(CASE WHEN r.ordinal IS NOT NULL THEN r.ident ELSE coalesce(k.ident, i.ident, f.ident) END) OVER (
        PARTITION BY f.digest ORDER BY k.ident IS NULL, f.copy
    ) AS ident
FROM fresh_rows AS f
LEFT JOIN requests AS r ON r.ordinal = f.ordinal
LEFT JOIN by_key AS k ON k.input_key = f.input_key
LEFT JOIN by_index AS i ON i.source = f.source AND i.ng_task = f.ng_task
LEFT JOIN named AS n ON n.place = 1 AND n.source IS NOT DISTINCT FROM f.source;

CREATE TABLE unknown_tasks AS
SELECT r.origin, r.line, any_value(q.why) AS why, any_value(r.input_key) AS input_key, any_value(q.files) AS files,
    any_value(q.of_another) AS of_another
FROM resolved AS r
LEFT JOIN requests AS q ON q.ordinal = r.ordinal
WHERE r.ident IS NULL
GROUP BY r.origin, r.line;

-- firsts: the row that stands for each task that is asked for.
CREATE TABLE firsts AS
WITH chosen AS (
    SELECT ident, min(place) AS place
    FROM asked
    SEMI JOIN resolved USING (ident)
    GROUP BY ident
)
SELECT DISTINCT ON (ident) asked.ident, asked.place, row_hash, prompt_hash, answer, ng_task, empty, own_id, verified
FROM asked
SEMI JOIN chosen USING (ident, place);

-- known_tasks: the dataset's tasks.
CREATE TABLE known_tasks AS
SELECT task_id, row_hash, part, prompt_hash, answer, TRY_CAST(json_extract(row, '$._ng_task_index') AS BIGINT) AS ng_task
FROM tasks
WHERE dataset = getvariable('dataset');

-- conflicts: tasks with an id of their own that another task has: in the workspace, or earlier in these files.
CREATE TABLE conflicts AS
SELECT f.ident, any_value(f.own_id) AS own_id
FROM firsts AS f
LEFT JOIN known_tasks AS k ON k.task_id = f.own_id
LEFT JOIN (
    SELECT own_id, arg_min(ident, place) AS ident FROM firsts WHERE own_id IS NOT NULL GROUP BY own_id
) AS o ON o.own_id = f.own_id
WHERE f.own_id IS NOT NULL
    AND (o.ident <> f.ident OR k.prompt_hash <> f.prompt_hash OR k.answer <> f.answer)
GROUP BY f.ident;

-- unresolved: rows whose task is not known, or cannot be.
CREATE TABLE unresolved AS
SELECT * FROM unknown_tasks
UNION ALL
SELECT r.origin, r.line, format(
        'its id ''{}'' is that of another task, with another prompt or expected answer', any_value(c.own_id)
    ), NULL, NULL, NULL
FROM resolved AS r
JOIN conflicts AS c ON c.ident = r.ident
GROUP BY r.origin, r.line;

-- matches: the task that the workspace has for what is asked. The same row is the same task; so is the only one with
-- the same prompt that does not contradict in its answer, its index or what else a verifier reads of it. A prompt that
-- many tasks share says nothing. Where tasks have ids of their own, the id is the task.
CREATE TABLE matches AS
WITH same AS (
    SELECT f.ident, min(k.task_id) AS task_id
    FROM firsts AS f
    JOIN known_tasks AS k ON k.row_hash = f.row_hash
    GROUP BY f.ident
),
telling AS (
    SELECT prompt_hash FROM known_tasks GROUP BY prompt_hash HAVING count(*) <= 100
),
alike AS (
    SELECT f.ident, k.task_id, f.verified
    FROM firsts AS f
    JOIN telling AS t ON t.prompt_hash = f.prompt_hash
    JOIN known_tasks AS k ON k.prompt_hash = f.prompt_hash
    WHERE NOT f.empty
        AND coalesce(k.answer = f.answer, true)
        AND coalesce(k.ng_task = f.ng_task, true)
),
contradicting AS (
    SELECT DISTINCT ident, task_id
    FROM (
        SELECT a.ident, a.task_id, json_extract(t.row, '$."' || e.key || '"')::VARCHAR AS known, e.value::VARCHAR AS own
        FROM alike AS a
        JOIN tasks AS t ON t.dataset = getvariable('dataset') AND t.task_id = a.task_id,
            json_each(a.verified) AS e
        WHERE a.verified <> '{}'
    )
    WHERE known <> own AND known <> 'null'
),
single AS (
    SELECT ident, min(task_id) AS task_id
    FROM alike
    ANTI JOIN contradicting USING (ident, task_id)
    GROUP BY ident
    HAVING count(*) = 1
)
SELECT f.ident, coalesce(f.own_id, s.task_id, a.task_id, f.row_hash) AS task_id,
    CASE WHEN f.own_id IS NULL THEN s.task_id IS NULL AND a.task_id IS NULL ELSE k.task_id IS NULL END AS new
FROM firsts AS f
ANTI JOIN conflicts AS c ON c.ident = f.ident
LEFT JOIN same AS s ON s.ident = f.ident
LEFT JOIN single AS a ON a.ident = f.ident
LEFT JOIN known_tasks AS k ON k.task_id = f.own_id;

-- new_tasks: numbered in the order of the files. version: above that of an earlier task of this id.
CREATE TABLE new_tasks AS
WITH once AS (
    SELECT m.task_id, min(f.place) AS place, arg_min(f.ident, f.place) AS ident
    FROM matches AS m
    JOIN firsts AS f ON f.ident = m.ident
    WHERE m.new
    GROUP BY m.task_id
),
before AS (
    SELECT task_id, max(version) + 1 AS version
    FROM task_log
    WHERE dataset = getvariable('dataset')
    GROUP BY task_id
)
SELECT DISTINCT ON (o.task_id) o.task_id, f.ident, o.place, f.row_hash, f.prompt_hash,
    coalesce(b.version, 0)::INTEGER AS version,
    dense_rank() OVER (ORDER BY o.place & 1099511627775, o.place, o.task_id) - 1 AS number
FROM once AS o
JOIN firsts AS f ON f.ident = o.ident
LEFT JOIN before AS b ON b.task_id = o.task_id;

-- session_pairs: sessions, and what the same agent did at the same task: keys only. The longest are left out, as they
-- would have to be in memory whole.
CREATE TABLE session_pairs AS
SELECT r.ordinal, r.digest, e.session, m.task_id, r.policy, a.rollout_index, a.attempt, a.attempt_id
FROM resolved AS r
JOIN matches AS m ON m.ident = r.ident
JOIN ended AS e ON e.ordinal = r.ordinal
JOIN attempts AS a ON a.task_id = m.task_id AND a.policy = r.policy AND a.engine = e.engine
WHERE e.session IS NOT NULL AND length(e.completion) < 50_000_000 AND r.copy = 1
    AND a.dataset = getvariable('dataset') AND a.error IS NULL;

-- grown: sessions that are here already and have grown since: the id is in what was imported, and the conversation goes
-- on where that ended (its last message may have grown too). The longest takes the rollout's index, and counts: of the
-- attempts of one rollout the first by its id does, and a further dash comes before all else.
CREATE TABLE grown AS
WITH shorter AS (
    SELECT p.* EXCLUDE (session), length(e.completion) AS characters,
        e.completion::JSON::JSON[] AS own, a.completion::JSON[] AS before
    FROM session_pairs AS p
    JOIN ended AS e ON e.ordinal = p.ordinal
    JOIN attempts AS a ON a.attempt_id = p.attempt_id
    WHERE a.dataset = getvariable('dataset') AND length(e.completion) > length(a.completion::VARCHAR)
        AND contains(a.response::VARCHAR, p.session)
),
replaced AS (
    SELECT ordinal, task_id, policy, rollout_index, any_value(digest) AS digest, any_value(characters) AS characters,
        max(attempt) + 1 AS attempt, regexp_extract(min(attempt_id), '^import(-+)', 1) AS dashes
    FROM shorter
    WHERE own[:len(before) - 1] = before[:len(before) - 1]
    GROUP BY ordinal, task_id, policy, rollout_index
),
longest AS (
    SELECT DISTINCT ON (task_id, policy, rollout_index) *
    FROM replaced
    ORDER BY characters DESC, ordinal
)
SELECT DISTINCT ON (ordinal) ordinal, rollout_index, attempt, format('import{}-{}-0001', dashes, digest) AS attempt_id
FROM longest
ORDER BY rollout_index;

-- fresh: the new rows with their task and their index. A failed try belongs to the index that it names, and an equal
-- row to its first; the others keep their index where nobody has it, or get the next free one.
CREATE TABLE fresh AS
WITH rows_of_tasks AS (
    SELECT r.*, m.task_id
    FROM resolved AS r
    JOIN matches AS m ON m.ident = r.ident
),
taken AS (
    SELECT DISTINCT a.task_id, a.policy, a.rollout_index
    FROM attempts AS a
    SEMI JOIN rows_of_tasks USING (task_id, policy)
    WHERE a.dataset = getvariable('dataset') AND a.error IS NULL
),
claims AS (
    SELECT *, row_number() OVER (PARTITION BY task_id, policy, ng_rollout ORDER BY ordinal) AS turn
    FROM rows_of_tasks
    ANTI JOIN grown USING (ordinal)
    WHERE copy = 1 AND NOT (failed AND ng_rollout IS NOT NULL)
),
kept AS (
    SELECT c.ordinal, c.task_id, c.policy, c.ng_rollout AS rollout_index
    FROM claims AS c
    ANTI JOIN taken AS t
        ON t.task_id = c.task_id AND t.policy = c.policy AND t.rollout_index = c.ng_rollout
    WHERE c.turn = 1 AND c.ng_rollout BETWEEN 0 AND 2147483647
),
highest AS (
    SELECT task_id, policy, max(rollout_index) AS rollout_index
    FROM (SELECT * FROM taken UNION ALL SELECT task_id, policy, rollout_index FROM kept)
    GROUP BY task_id, policy
),
others AS (
    SELECT c.ordinal,
        coalesce(h.rollout_index, -1)
        + row_number() OVER (PARTITION BY c.task_id, c.policy ORDER BY c.ordinal) AS rollout_index
    FROM claims AS c
    ANTI JOIN kept USING (ordinal)
    LEFT JOIN highest AS h ON h.task_id = c.task_id AND h.policy = c.policy
),
numbered AS (
    SELECT ordinal, rollout_index FROM kept
    UNION ALL
    SELECT ordinal, rollout_index FROM others
),
first_copies AS (
    SELECT r.digest, n.rollout_index
    FROM rows_of_tasks AS r
    JOIN numbered AS n ON n.ordinal = r.ordinal
    WHERE r.copy = 1
)
SELECT r.* EXCLUDE (ident, attempt_id), coalesce(g.attempt_id, r.attempt_id) AS attempt_id,
    coalesce(g.rollout_index, n.rollout_index, f.rollout_index, r.ng_rollout, 0)::INTEGER AS rollout_index,
    coalesce(g.attempt, coalesce(r.ng_attempt, 0) + r.copy)::INTEGER AS attempt
FROM rows_of_tasks AS r
LEFT JOIN grown AS g ON g.ordinal = r.ordinal
LEFT JOIN numbered AS n ON n.ordinal = r.ordinal
LEFT JOIN first_copies AS f ON r.copy > 1 AND f.digest = r.digest;
