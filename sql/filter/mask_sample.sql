-- Drop the rollouts that their environment masked. It set `mask_sample` because the reward is not valid, e.g. because a
-- sandbox was lost or a judge failed. They have no reward in any case; this step keeps them out of files that need no
-- reward, too.
SELECT s.*, CASE
    WHEN s.verdict_error = 'masked' OR s.metrics['mask_sample'] = 1 THEN 'masked by its environment'
END AS dropped
FROM selected AS s
