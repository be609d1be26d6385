-- Keep the rollouts whose reward lies between two bounds, both included. Rollouts without a reward are dropped.
-- param min_reward DOUBLE = 0.8     lowest reward kept
-- param max_reward DOUBLE = 'inf'   highest reward kept
SELECT s.*
FROM selected AS s
WHERE s.reward BETWEEN getvariable('min_reward') AND getvariable('max_reward')
