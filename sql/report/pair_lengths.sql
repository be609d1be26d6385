-- Chosen and rejected answers by length: tokens where both sides of every pair have them, else characters.
-- One row: pairs, unit, mean difference, share of pairs whose chosen answer is longer, and 41 quantiles of each.
WITH sides AS (
    SELECT split, row, max(output_tokens) FILTER (part = 'chosen') AS chosen_tokens,
        max(output_tokens) FILTER (part = 'rejected') AS rejected_tokens,
        max(characters) FILTER (part = 'chosen') AS chosen_characters,
        max(characters) FILTER (part = 'rejected') AS rejected_characters
    FROM used
    GROUP BY split, row
),

unit AS (
    SELECT bool_and(coalesce(chosen_tokens, 0) > 0 AND coalesce(rejected_tokens, 0) > 0) AS tokens FROM sides
),

lengths AS (
    SELECT tokens, if(tokens, chosen_tokens, chosen_characters) AS chosen,
        if(tokens, rejected_tokens, rejected_characters) AS rejected
    FROM sides, unit
)

SELECT count(*) AS pairs, if(any_value(tokens), 'tokens', 'characters') AS unit,
    avg(chosen - rejected) AS chosen_longer_by, avg((chosen > rejected)::INTEGER) AS share_chosen_longer,
    quantile_cont(chosen, [n / 40 FOR n IN range(41)]) AS chosen,
    quantile_cont(rejected, [n / 40 FOR n IN range(41)]) AS rejected
FROM lengths
WHERE chosen IS NOT NULL AND rejected IS NOT NULL
