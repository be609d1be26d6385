-- Drop the rollouts that their environment masked: it set `mask_sample`, because the reward measures nothing (a sandbox
-- was lost, a judge failed). Their reward is absent already; this keeps them out of files that need no reward, too.
SELECT s.*, CASE
    WHEN s.verdict_error = 'masked' OR s.metrics['mask_sample'] = 1 THEN 'masked by its environment'
END AS dropped
FROM selected AS s
