-- Keep the rollouts that ended by themselves, not those that were cut off at a limit of tokens or steps.
-- param finish_reasons VARCHAR[] = ['stop']   the reasons kept
SELECT s.*
FROM selected AS s
WHERE list_contains(getvariable('finish_reasons'), s.finish_reason)
