-- Chosen and rejected answers by length: tokens where both sides of every pair have them, else characters.
-- One row: pairs, unit, mean difference, shares of pairs whose chosen answer is longer and shorter, and 41 quantiles of
-- each.
SELECT count(*) AS pairs, any_value(unit) AS unit,
    avg(chosen - rejected) AS chosen_longer_by, avg((chosen > rejected)::INTEGER) AS share_chosen_longer,
    avg((chosen < rejected)::INTEGER) AS share_chosen_shorter,
    quantile_cont(chosen, [n / 40 FOR n IN range(41)]) AS chosen,
    quantile_cont(rejected, [n / 40 FOR n IN range(41)]) AS rejected
FROM pair_sizes('used')
WHERE chosen IS NOT NULL AND rejected IS NOT NULL
