-- Drop the rollouts whose tool calls failed: more of them, or a larger share, than allowed. Rollouts without tool
-- calls are kept.
-- param max_errors BIGINT = 0     most tool calls that may have failed
-- param max_share  DOUBLE = 1.0   largest share of the tool calls that may have failed
SELECT s.*, CASE
    WHEN s.tool_errors > getvariable('max_errors') THEN 'more tool errors than max_errors'
    WHEN s.tool_errors > getvariable('max_share') * s.tool_calls THEN 'larger share of tool errors than max_share'
END AS dropped
FROM selected AS s
