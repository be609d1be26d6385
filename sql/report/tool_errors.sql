-- Tool calls, and how many of them failed, where the engine tells.
SELECT series, sum(tool_calls) AS calls, sum(tool_errors) AS failed, sum(tool_errors) / sum(tool_calls) AS share
FROM rollouts
WHERE tool_calls > 0 AND tool_errors IS NOT NULL
GROUP BY series
ORDER BY series
