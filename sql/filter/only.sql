-- Keep the rollouts of some datasets, some policies, or both. A workspace may also hold rollouts of earlier recipes.
-- param datasets VARCHAR[] = NULL   datasets to keep; null: all
-- param policies VARCHAR[] = NULL   policies to keep; null: all
-- datasets: datasets
SELECT s.*, CASE
    WHEN NOT list_contains(getvariable('datasets'), s.dataset) THEN 'another dataset'
    WHEN NOT list_contains(getvariable('policies'), s.policy) THEN 'another policy'
END AS dropped
FROM selected AS s
