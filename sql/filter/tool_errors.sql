-- Drop the rollouts whose tool calls failed: more of them, or a larger share, than allowed. Rollouts without tool
-- calls are kept, and so are those of which nobody tells whether their calls failed, as imported ones: the report
-- counts them.
-- param max_errors BIGINT = 0     most tool calls that may have failed
-- param max_share  DOUBLE = 1.0   largest share of the tool calls that may have failed
-- report: SELECT dataset, count(*) FILTER (tool_calls > 0) AS with_calls,
--     count(*) FILTER (tool_errors > 0) AS with_failed_calls,
--     count(*) FILTER (tool_calls > 0 AND tool_errors IS NULL) AS not_told
--     FROM selected GROUP BY dataset ORDER BY dataset
SELECT s.*, CASE
    WHEN s.tool_errors > getvariable('max_errors') THEN 'more tool errors than max_errors'
    WHEN s.tool_errors > round(getvariable('max_share') * s.tool_calls, 9) THEN 'larger share of tool errors than max_share'
END AS dropped
FROM selected AS s
