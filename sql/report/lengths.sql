-- The mean reward by the tokens that were generated, each bin half as long again as the one before; with twice its
-- standard error to either side.
WITH measured AS (
    SELECT series, output_tokens, reward, floor(ln(output_tokens) / ln(1.5)) AS bin
    FROM rollouts
    WHERE output_tokens > 0 AND isfinite(reward)
)

SELECT series, avg(output_tokens) AS tokens, count(*) AS rollouts, avg(reward) AS mean,
    avg(reward) - 1.96 * coalesce(stddev_samp(reward), 0) / sqrt(count(*)) AS low,
    avg(reward) + 1.96 * coalesce(stddev_samp(reward), 0) / sqrt(count(*)) AS high
FROM measured
GROUP BY series, bin
HAVING count(*) >= 5
ORDER BY series, bin
