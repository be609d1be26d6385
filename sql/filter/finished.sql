-- Keep the rollouts that ended normally, not those truncated at a limit of tokens or steps.
-- param finish_reasons VARCHAR[] = ['stop']   finish reasons to keep
SELECT s.*, CASE
    WHEN s.finish_reason IS NULL THEN 'no finish_reason'
    WHEN NOT list_contains(getvariable('finish_reasons'), s.finish_reason) THEN 'finish_reason ' || s.finish_reason
END AS dropped
FROM selected AS s
