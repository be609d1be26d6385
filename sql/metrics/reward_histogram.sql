-- The distribution of rewards, by dataset and policy. A bin includes its lower edge and excludes its upper one, but the
-- last bin includes both, so that it contains a reward of 1. Rewards outside the edges, and rollouts without a reward,
-- have rows of their own.
-- param edges DOUBLE[] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]   edges of the bins, ascending
WITH given AS (
    SELECT dataset, policy, reward, count(*) AS rollouts FROM rollouts GROUP BY dataset, policy, reward
),

-- Bin 0 lies below the edges, bin len(edges) above them; the top edge belongs to the bin below it.
placed AS (
    SELECT dataset, policy, rollouts, CASE
        WHEN reward IS NULL THEN len(getvariable('edges')) + 1
        WHEN reward = getvariable('edges')[-1] THEN len(getvariable('edges')) - 1
        ELSE len(list_filter(getvariable('edges'), lambda edge: edge <= reward))
    END AS bin
    FROM given
),

bins AS (
    SELECT place AS bin, CASE place
        WHEN 0 THEN 'below ' || getvariable('edges')[1]
        WHEN len(getvariable('edges')) + 1 THEN 'no reward'
        WHEN len(getvariable('edges')) THEN 'above ' || getvariable('edges')[-1]
        ELSE '[' || getvariable('edges')[place] || ', ' || getvariable('edges')[place + 1]
            || if(place = len(getvariable('edges')) - 1, ']', ')')
    END AS reward
    FROM (SELECT unnest(range(len(getvariable('edges')) + 2)) AS place)
),

counted AS (
    SELECT groups.dataset, groups.policy, bins.bin, bins.reward, coalesce(sum(placed.rollouts), 0)::BIGINT AS rollouts
    FROM (SELECT DISTINCT dataset, policy FROM given) AS groups
    CROSS JOIN bins
    LEFT JOIN placed
        ON placed.dataset = groups.dataset AND placed.policy = groups.policy AND placed.bin = bins.bin
    GROUP BY groups.dataset, groups.policy, bins.bin, bins.reward
)

SELECT dataset, policy, reward, rollouts, rollouts / sum(rollouts) OVER (PARTITION BY dataset, policy) AS share
FROM counted
WHERE rollouts > 0 OR bin BETWEEN 1 AND len(getvariable('edges')) - 1
ORDER BY dataset, policy, bin
