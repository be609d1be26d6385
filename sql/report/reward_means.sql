-- The mean reward of each dataset, of all its rollouts and of those in the files.
WITH rewards AS (
    SELECT dataset, 'all rollouts' AS part, reward FROM rollouts WHERE isfinite(reward)
    UNION ALL
    SELECT dataset, part, reward FROM used WHERE isfinite(reward)
)

SELECT dataset, part, count(*) AS rollouts, avg(reward) AS mean
FROM rewards
GROUP BY dataset, part
ORDER BY dataset, part
