-- Drop the rollouts with more failed tool calls, or a larger share of them, than allowed. Rollouts without tool calls
-- are kept. Rollouts for which failed calls are not known, e.g. imported ones, are kept too; the report counts them.
-- param max_errors BIGINT = 0     maximum failed tool calls
-- param max_share  DOUBLE = 1.0   maximum share of failed tool calls
-- report: SELECT dataset, count(*) FILTER (tool_calls > 0) AS with_calls,
--     count(*) FILTER (tool_errors > 0) AS with_failed_calls,
--     count(*) FILTER (tool_calls > 0 AND tool_errors IS NULL) AS not_told
--     FROM selected GROUP BY dataset ORDER BY dataset
SELECT s.*, CASE
    WHEN s.tool_errors > getvariable('max_errors') THEN 'more tool errors than max_errors'
    WHEN s.tool_errors > round(getvariable('max_share') * s.tool_calls, 9) THEN 'larger share of tool errors than max_share'
END AS dropped
FROM selected AS s
