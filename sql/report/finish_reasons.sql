-- Why rollouts ended.
SELECT series, coalesce(finish_reason, '(not said)') AS finish_reason, count(*) AS rollouts
FROM rollouts
GROUP BY ALL
ORDER BY ALL
