-- Drop the rollouts that repeat themselves: the same paragraph or sentence many times, as a model does in a loop (the
-- rules and numbers of open-instruct's filter_ngram_repetitions). The rules apply to the reasoning and the text of each
-- message that the model wrote. Paragraphs of fewer than 10 characters, and sentences of one word or of fewer than 5
-- characters, do not count. A sentence with signs of math or code may occur twice as often.
-- param paragraphs       INTEGER = 10   drop a rollout in which a paragraph occurs this often
-- param math_paragraphs  INTEGER = 20   the same for a paragraph with signs of math or code
-- param line_paragraphs  INTEGER = 40   the same for a paragraph of several lines
-- param sentences_in_row INTEGER = 4    drop a rollout in which a sentence occurs this often in a row
-- param sentences        INTEGER = 40   drop a rollout in which a sentence occurs this often anywhere
WITH written AS (
    SELECT dataset, attempt_id, min(written_text(completion)) AS said
    FROM selected
    GROUP BY dataset, attempt_id
),

blocks AS (
    SELECT dataset, attempt_id, 'paragraph' AS kind, string_split(said, chr(10) || chr(10)) AS parts
    FROM written
    UNION ALL
    SELECT dataset, attempt_id, 'sentence' AS kind, regexp_split_to_array(said, '[.!?]+') AS parts
    FROM written
),

trimmed AS (
    SELECT dataset, attempt_id, kind,
        list_filter(
            list_transform(parts, lambda part: trim(part, ' ' || chr(9) || chr(10) || chr(13))), lambda part: part <> ''
        ) AS parts
    FROM blocks
),

-- Only where some parts are equal are they looked at one by one.
places AS (
    SELECT dataset, attempt_id, kind, unnest(parts) AS part, unnest(range(len(parts))) AS place
    FROM trimmed
    WHERE len(parts) - len(list_distinct(parts)) + 1 >= least(
        getvariable('paragraphs'), getvariable('math_paragraphs'), getvariable('line_paragraphs'),
        getvariable('sentences_in_row'), getvariable('sentences')
    )
),

-- Equal parts one after the other have the same difference between their place and their number.
numbered AS (
    SELECT dataset, attempt_id, kind, part,
        place - row_number() OVER (PARTITION BY dataset, attempt_id, kind, part ORDER BY place) AS run
    FROM places
    WHERE length(part) >= CASE kind WHEN 'paragraph' THEN 10 ELSE 5 END
        AND (kind = 'paragraph' OR regexp_matches(part, '\s'))
),

runs AS (
    SELECT dataset, attempt_id, kind, part, count(*) AS times
    FROM numbered
    GROUP BY dataset, attempt_id, kind, part, run
),

repeated AS (
    SELECT dataset, attempt_id, kind, part, sum(times) AS times, max(times) AS in_row,
        regexp_matches(part, '[-=+*/^()\[\]{}<>|&~!@#$%\\]') AS is_math, contains(part, chr(10)) AS has_lines
    FROM runs
    GROUP BY dataset, attempt_id, kind, part
),

faults AS (
    SELECT dataset, attempt_id, min(CASE
        WHEN kind = 'paragraph' AND times >= CASE
            WHEN has_lines THEN getvariable('line_paragraphs')
            WHEN is_math THEN getvariable('math_paragraphs')
            ELSE getvariable('paragraphs')
        END THEN 'a paragraph repeated too often'
        WHEN kind = 'sentence' AND in_row >= getvariable('sentences_in_row') * (1 + is_math::INTEGER)
            THEN 'a sentence repeated in a row'
        WHEN kind = 'sentence' AND times >= getvariable('sentences') * (1 + is_math::INTEGER) AND length(part) >= 10
            THEN 'a sentence repeated too often'
    END) AS fault
    FROM repeated
    GROUP BY dataset, attempt_id
)

SELECT s.*, f.fault AS dropped
FROM selected AS s
LEFT JOIN faults AS f USING (dataset, attempt_id)
