-- Find prompts that are nearly the same, assign them to clusters, and keep one task of each cluster. Adds the column
-- `cluster`: a build with split_by = "cluster" has no near-duplicates in two splits. MinHash with bands, as in
-- datatrove: 14 bands of 8 hashes of word 5-grams find a pair of similarity s with probability 1 - (1 - s^8)^14: 0.92
-- at 0.8, 0.05 at 0.5. The user's messages are compared. Pairs are joined into clusters; the task whose prompt has the
-- smallest hash is kept, with all its rollouts.
-- param words    INTEGER = 5          length of the hashed sequences, in words
-- param bands    INTEGER = 14         number of bands; prompts that agree in one of them are near-duplicates
-- param rows     INTEGER = 8          hashes per band
-- param common   DOUBLE = 1.0         ignore word sequences found in more than this share of the prompts (templates)
-- param keep_all BOOLEAN = false      only add the column cluster, and keep every task
-- report: SELECT (SELECT count(DISTINCT (dataset, task_id)) FROM selected) AS tasks,
--     count(DISTINCT cluster) AS clusters, count(DISTINCT (dataset, task_id)) AS tasks_kept FROM result
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT dataset, task_id, min(prompt_hash) AS prompt_hash,
        regexp_extract_all(lower(min(asked_text(prompt))), '[\pL\pN]+') AS tokens
    FROM selected
    GROUP BY dataset, task_id
),

-- One node for each different text; a prompt without any words, as of images only, meets none but its equals.
named AS MATERIALIZED (
    SELECT dataset, task_id, tokens,
        md5(CASE len(tokens) WHEN 0 THEN prompt_hash ELSE array_to_string(tokens, ' ') END) AS node
    FROM asked
),

grams AS MATERIALIZED (
    SELECT node, list_distinct(list_transform(
        word_grams(tokens, least(len(tokens), getvariable('words'))),
        lambda gram: (md5_number_lower(gram) % 4294967296)::BIGINT
    )) AS hashes
    FROM (SELECT node, any_value(tokens) AS tokens FROM named WHERE len(tokens) > 0 GROUP BY node)
),

frequent AS (
    SELECT coalesce(list(hash), []) AS known
    FROM (
        SELECT hash
        FROM (SELECT unnest(hashes) AS hash FROM grams WHERE getvariable('common') < 1)
        GROUP BY hash
        HAVING count(*) > getvariable('common') * (SELECT count(*) FROM grams)
    )
),

telling AS (
    SELECT node, CASE
        WHEN getvariable('common') < 1 THEN list_filter(hashes, lambda h: NOT list_contains(frequent.known, h))
        ELSE hashes
    END AS hashes
    FROM grams, frequent
),

-- Hash functions h -> (a * h + b) % p over 32 bits; p is the first prime above 2^32, and a * h + b fits into 64 bits.
functions AS (
    SELECT list({
        'a': 1 + (md5_number_lower('a' || i) % 2147483646)::BIGINT,
        'b': (md5_number_lower('b' || i) % 4294967311)::BIGINT
    } ORDER BY i) AS fs
    FROM range(getvariable('bands') * getvariable('rows')) AS t (i)
),

signatures AS MATERIALIZED (
    SELECT node, list_transform(
        functions.fs, lambda f: list_min(list_transform(hashes, lambda h: (f.a * h + f.b) % 4294967311))
    ) AS signature
    FROM telling, functions
    WHERE len(hashes) > 0
),

bands AS MATERIALIZED (
    SELECT node, band, signature[band * getvariable('rows') + 1:(band + 1) * getvariable('rows')] AS key
    FROM signatures, range(getvariable('bands')) AS t (band)
),

-- Each node is joined to the smallest one that agrees with it.
pairs AS (
    SELECT DISTINCT b.node, f.first
    FROM bands AS b
    JOIN (SELECT band, key, min(node) AS first FROM bands GROUP BY band, key HAVING count(*) > 1) AS f USING (band, key)
    WHERE b.node <> f.first
),

edges AS MATERIALIZED (
    SELECT node AS a, first AS b FROM pairs
    UNION ALL
    SELECT first AS a, node AS b FROM pairs
),

-- Connected components: every node takes its neighbors' smallest label, until none changes.
labels (node, label) USING KEY (node) AS (
    SELECT a, least(a, min(b)) FROM edges GROUP BY a
    UNION
    SELECT e.a, min(l.label)
    FROM labels AS l
    JOIN edges AS e ON e.b = l.node
    JOIN recurring.labels AS own ON own.node = e.a
    WHERE l.label < own.label
    GROUP BY e.a
),

clusters AS (
    SELECT n.dataset, n.task_id, n.node, coalesce(l.label, n.node) AS cluster
    FROM named AS n
    LEFT JOIN labels AS l USING (node)
),

firsts AS (
    SELECT cluster, min((dataset, task_id)) AS first
    FROM clusters
    WHERE node = cluster
    GROUP BY cluster
)

SELECT s.*, c.cluster, CASE
    WHEN NOT getvariable('keep_all') AND (c.dataset, c.task_id) <> f.first THEN 'near-duplicate of another prompt'
END AS dropped
FROM selected AS s
JOIN clusters AS c USING (dataset, task_id)
JOIN firsts AS f USING (cluster)
