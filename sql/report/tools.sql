-- The tools that were called most.
SELECT tool, count(*) AS calls
FROM (SELECT unnest(tool_names) AS tool FROM rollouts WHERE tool_calls > 0)
GROUP BY tool
ORDER BY calls DESC, tool
LIMIT 12
