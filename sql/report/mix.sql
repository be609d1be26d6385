-- Lines, rollouts and generated tokens of each dataset in the files, and how many different rollouts those are. No
-- tokens where nobody counted any.
WITH of_line AS (
    SELECT split, row, min(dataset) AS dataset, sum(output_tokens) AS tokens FROM used GROUP BY split, row
),

rollouts_of AS (
    SELECT dataset, count(*) AS rollouts
    FROM (SELECT DISTINCT dataset, attempt_id FROM used)
    GROUP BY dataset
)

SELECT o.dataset, count(*) AS rows, any_value(r.rollouts) AS rollouts, sum(o.tokens)::BIGINT AS tokens
FROM of_line AS o
JOIN rollouts_of AS r USING (dataset)
GROUP BY o.dataset
ORDER BY o.dataset
