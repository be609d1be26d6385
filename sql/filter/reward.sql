-- Keep the rollouts whose reward is between two bounds, both inclusive. Rollouts without a reward are dropped.
-- param min_reward DOUBLE = 0.8     lowest reward kept
-- param max_reward DOUBLE = 'inf'   highest reward kept
SELECT s.*, CASE
    WHEN s.reward IS NULL THEN 'no reward'
    WHEN s.reward < getvariable('min_reward') THEN 'reward below min_reward'
    WHEN s.reward > getvariable('max_reward') THEN 'reward above max_reward'
END AS dropped
FROM selected AS s
