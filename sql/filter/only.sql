-- Keep the rollouts of some datasets, some policies, or both. A workspace holds those of earlier recipes too.
-- param datasets VARCHAR[] = NULL   the datasets kept; NULL is all
-- param policies VARCHAR[] = NULL   the policies kept; NULL is all
-- datasets: datasets
SELECT s.*, CASE
    WHEN NOT list_contains(getvariable('datasets'), s.dataset) THEN 'another dataset'
    WHEN NOT list_contains(getvariable('policies'), s.policy) THEN 'another policy'
END AS dropped
FROM selected AS s
