-- Drop rollouts with a large share of repeated text, by Gopher's rules. The rules (Rae et al. 2021, arXiv 2112.11446,
-- table A1) measure lines and paragraphs that occurred before; the most frequent 2-, 3- and 4-gram of words, if it
-- occurs at least twice; and the words of 5- to 10-grams that occurred before, each as a share of all characters. They
-- apply to the reasoning and the text of each message that the model wrote. A limit of 1 disables its rule.
-- param lines           DOUBLE = 0.30   maximum share of lines that repeat an earlier one
-- param line_chars      DOUBLE = 0.20   maximum share of characters in repeated lines
-- param paragraphs      DOUBLE = 0.30   maximum share of paragraphs that repeat an earlier one
-- param paragraph_chars DOUBLE = 0.20   maximum share of characters in repeated paragraphs
-- param top_grams       DOUBLE[] = [0.20, 0.18, 0.16]   maximum shares of the most frequent 2-, 3- and 4-gram
-- param repeated_grams  DOUBLE[] = [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]   maximum shares of repeated 5- to 10-grams
-- check: SELECT getvariable('top_grams') AS top_grams, getvariable('repeated_grams') AS repeated_grams,
--     'must be three shares, of 2- to 4-grams, and six, of 5- to 10-grams' AS fault
--     WHERE len(getvariable('top_grams')) <> 3 OR len(getvariable('repeated_grams')) <> 6
WITH written AS MATERIALIZED (
    SELECT dataset, attempt_id, greatest(length(said), 1) AS size, spaced_words(said) AS words,
        list_filter(regexp_split_to_array(said, '\n+'), lambda part: part <> '') AS lines,
        list_filter(regexp_split_to_array(said, '\n{2,}'), lambda part: part <> '') AS paragraphs
    FROM (
        SELECT dataset, attempt_id, min(written_text(completion)) AS said
        FROM selected
        GROUP BY dataset, attempt_id
    )
),

-- What is not a first occurrence, by number and by characters; and the most frequent 2-gram.
shares AS MATERIALIZED (
    SELECT dataset, attempt_id, size, words,
        1 - len(list_distinct(lines)) / nullif(len(lines), 0) AS lines,
        (list_sum(list_transform(lines, lambda part: length(part)))
            - list_sum(list_transform(list_distinct(lines), lambda part: length(part)))) / size AS line_chars,
        1 - len(list_distinct(paragraphs)) / nullif(len(paragraphs), 0) AS paragraphs,
        (list_sum(list_transform(paragraphs, lambda part: length(part)))
            - list_sum(list_transform(list_distinct(paragraphs), lambda part: length(part)))) / size AS paragraph_chars,
        list_max(list_transform(
            map_entries(list_aggregate(
                list_transform(list_zip(words[:-2], words[2:]), lambda pair: pair[1] || ' ' || pair[2]), 'histogram'
            )),
            lambda gram: CASE WHEN gram.value > 1 THEN gram.value * length(gram.key) / size ELSE 0 END
        )) AS top_2
    FROM written
),

-- The longer the n-gram, the fewer rollouts can break its rule: a frequent 4-gram holds a frequent 2-gram.
longer AS (
    SELECT dataset, attempt_id, size, n, unnest(word_grams(words, n)) AS gram
    FROM shares, unnest([3, 4]) AS t (n)
    WHERE top_2 >= 0.4 * least(getvariable('top_grams')[2], getvariable('top_grams')[3])
),

top AS (
    SELECT dataset, attempt_id, n, max(share) AS share
    FROM (
        SELECT dataset, attempt_id, n, count(*) * length(gram) / size AS share
        FROM longer
        GROUP BY dataset, attempt_id, size, n, gram
        HAVING count(*) > 1
    )
    GROUP BY dataset, attempt_id, n
),

-- The n-grams of each rollout in sorted order: one that equals the one before it occurred earlier in the text. Longer
-- n-grams are looked for only where the 5-grams are enough to break a rule: a repeated one is made of repeated ones.
sorted_5 AS (
    SELECT dataset, attempt_id, size, words, list_sort(list_transform(
        grams, lambda gram, place: {'gram': gram, 'place': place}
    )) AS grams
    FROM (SELECT dataset, attempt_id, size, words, word_grams(words, 5) AS grams FROM shares)
    WHERE len(grams) > len(list_distinct(grams))
),

covered_5 AS MATERIALIZED (
    SELECT dataset, attempt_id, size, words, covered_share(words, repeated_places(grams), 5, size) AS share
    FROM sorted_5
),

sorted_longer AS (
    SELECT dataset, attempt_id, size, words, n, list_sort(list_transform(
        word_grams(words, n), lambda gram, place: {'gram': gram, 'place': place}
    )) AS grams
    FROM covered_5, unnest([6, 7, 8, 9, 10]) AS t (n)
    WHERE share > list_min(getvariable('repeated_grams')[2:]) AND share <= getvariable('repeated_grams')[1]
),

covered AS (
    SELECT dataset, attempt_id, 5 AS n, share FROM covered_5
    UNION ALL
    SELECT dataset, attempt_id, n, covered_share(words, repeated_places(grams), n, size) AS share
    FROM sorted_longer
),

broken AS (
    SELECT dataset, attempt_id, min(n) AS n
    FROM (
        SELECT dataset, attempt_id, 2 AS n FROM shares WHERE top_2 > getvariable('top_grams')[1]
        UNION ALL
        SELECT dataset, attempt_id, n FROM top WHERE share > getvariable('top_grams')[n - 1]
        UNION ALL
        SELECT dataset, attempt_id, n FROM covered WHERE share > getvariable('repeated_grams')[n - 4]
    )
    GROUP BY dataset, attempt_id
),

faults AS (
    SELECT s.dataset, s.attempt_id, CASE
        WHEN s.paragraphs > getvariable('paragraphs') THEN 'paragraphs that repeat'
        WHEN s.paragraph_chars > getvariable('paragraph_chars') THEN 'characters of paragraphs that repeat'
        WHEN s.lines > getvariable('lines') THEN 'lines that repeat'
        WHEN s.line_chars > getvariable('line_chars') THEN 'characters of lines that repeat'
        WHEN b.n <= 4 THEN format('one {}-gram repeated too often', b.n)
        WHEN b.n >= 5 THEN format('{}-grams that repeat', b.n)
    END AS fault
    FROM shares AS s
    LEFT JOIN broken AS b USING (dataset, attempt_id)
)

SELECT s.*, f.fault AS dropped
FROM selected AS s
LEFT JOIN faults AS f USING (dataset, attempt_id)
