-- Drop the tasks whose prompt is in a benchmark. The user's messages are compared by sequences of n words, in lower
-- case and split at white space. Rule `any`: one shared sequence is enough (open-r1). Rule `coverage`: the sequences
-- that a task shares with one benchmark text cover more than `threshold` of that text's words (Tulu 3, open-instruct).
-- Benchmark texts of fewer than n words cannot be found; the report counts them.
-- param files     VARCHAR[]                  the benchmark's files or globs: JSONL, JSON, CSV, TSV (.gz, .zst), Parquet
-- param field     VARCHAR = '$.question'     JSON path of the text in a row
-- param rule      VARCHAR = 'any'            any or coverage
-- param n         INTEGER = 8                length of the compared sequences, in words
-- param threshold DOUBLE = 0.5               rule coverage: maximum share of a text that may be covered
-- check: SELECT getvariable('rule') AS rule, 'any, coverage' AS must_be_one_of
--     WHERE getvariable('rule') NOT IN ('any', 'coverage')
-- check: SELECT filename AS file, getvariable('field') AS no_line_has_text_at
--     FROM rows_of(getvariable('files'))
--     GROUP BY filename HAVING count(json->>getvariable('field')) = 0
-- report: WITH lost AS (SELECT DISTINCT dataset, task_id FROM selected ANTI JOIN result USING (dataset, task_id)),
--     asked AS (SELECT dataset, task_id, unnest(list_distinct(word_grams(words, getvariable('n')))) AS gram
--     FROM (SELECT dataset, task_id, spaced_words(min(asked_text(prompt))) AS words
--     FROM selected SEMI JOIN lost USING (dataset, task_id) GROUP BY dataset, task_id)),
--     texts AS MATERIALIZED (SELECT filename, row_number() OVER () AS text_id,
--     coalesce(spaced_words(json->>getvariable('field')), []) AS words
--     FROM rows_of(getvariable('files'))),
--     places AS (SELECT text_id, unnest(word_grams(words, getvariable('n'))) AS gram,
--     unnest(range(1, len(words) - getvariable('n') + 2)) AS place FROM texts),
--     covered AS (SELECT DISTINCT text_id, dataset, task_id, unnest(range(place, place + getvariable('n'))) AS word
--     FROM places JOIN asked USING (gram)),
--     shares AS (SELECT text_id, count(*) AS words FROM covered GROUP BY text_id, dataset, task_id),
--     best AS (SELECT text_id, max(words) AS words FROM shares GROUP BY text_id)
--     SELECT filename AS file, count(*) AS texts, count(*) FILTER (len(t.words) < getvariable('n')) AS too_short,
--     count(*) FILTER (CASE getvariable('rule') WHEN 'any' THEN b.words > 0
--     ELSE b.words / len(t.words) > getvariable('threshold') END) AS found
--     FROM texts AS t LEFT JOIN best AS b USING (text_id) GROUP BY filename ORDER BY filename
WITH asked AS (
    SELECT dataset, task_id, unnest(list_distinct(word_grams(words, getvariable('n')))) AS gram
    FROM (
        SELECT dataset, task_id, spaced_words(min(asked_text(prompt))) AS words
        FROM selected
        GROUP BY dataset, task_id
    )
),

texts AS (
    SELECT filename, row_number() OVER () AS text_id, spaced_words(json->>getvariable('field')) AS words
    FROM rows_of(getvariable('files'))
),

benchmark AS (
    SELECT filename, text_id, len(words) AS size, unnest(word_grams(words, getvariable('n'))) AS gram,
        unnest(range(1, len(words) - getvariable('n') + 2)) AS place
    FROM texts
),

-- The words of a text, by their place, that one task's sequences cover.
covered AS (
    SELECT DISTINCT a.dataset, a.task_id, b.filename, b.text_id, b.size,
        unnest(range(b.place, b.place + getvariable('n'))) AS place
    FROM asked AS a
    JOIN benchmark AS b USING (gram)
),

shares AS (
    SELECT dataset, task_id, filename, text_id, count(*) / size AS share
    FROM covered
    GROUP BY dataset, task_id, filename, text_id, size
),

contaminated AS (
    SELECT dataset, task_id, min(filename) AS file
    FROM shares
    WHERE getvariable('rule') = 'any' OR share > getvariable('threshold')
    GROUP BY dataset, task_id
)

SELECT s.*, 'in ' || parse_filename(c.file) AS dropped
FROM selected AS s
LEFT JOIN contaminated AS c USING (dataset, task_id)
