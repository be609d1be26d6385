-- Whether longer answers get higher rewards, by dataset and policy. The row `(all)` has the rank correlation of reward
-- and length (Spearman's, ties with their mean rank), between -1 and 1; the other rows are bins of the rollouts by
-- length, of about equal size.
-- param length VARCHAR = 'output_tokens'   unit of length: output_tokens, or characters (of the last message)
-- param bins   INTEGER = 5                 number of bins
WITH measured AS (
    SELECT dataset, policy, reward, CASE getvariable('length')
        WHEN 'output_tokens' THEN output_tokens
        WHEN 'characters' THEN text_length
        ELSE error('length = ''' || getvariable('length') || ''': there are output_tokens and characters')
    END AS length
    FROM rollouts
    WHERE reward IS NOT NULL
),

-- Equal lengths are in one bin and share a rank, and so do equal rewards: values are counted first, and ranked then.
lengths AS (
    SELECT dataset, policy, length, sum(count(*)) OVER same AS upto, sum(count(*)) OVER whole AS n,
        sum(count(*)) OVER same - (count(*) - 1) / 2 AS rank
    FROM measured
    WHERE length IS NOT NULL
    GROUP BY dataset, policy, length
    WINDOW same AS (PARTITION BY dataset, policy ORDER BY length), whole AS (PARTITION BY dataset, policy)
),

rewards AS (
    SELECT dataset, policy, reward, sum(count(*)) OVER same - (count(*) - 1) / 2 AS rank
    FROM measured
    WHERE length IS NOT NULL
    GROUP BY dataset, policy, reward
    WINDOW same AS (PARTITION BY dataset, policy ORDER BY reward)
),

placed AS (
    SELECT m.dataset, m.policy, m.length, m.reward, l.rank AS length_rank, r.rank AS reward_rank,
        ceil(l.upto * getvariable('bins') / l.n)::INTEGER AS bin
    FROM measured AS m
    JOIN lengths AS l ON l.dataset = m.dataset AND l.policy = m.policy AND l.length = m.length
    JOIN rewards AS r ON r.dataset = m.dataset AND r.policy = m.policy AND r.reward = m.reward
),

lines AS (
    SELECT dataset, policy, 0 AS bin, '(all)' AS length, count(*) AS rollouts, avg(length) AS mean_length,
        avg(reward) AS mean_reward, corr(length_rank, reward_rank) AS rank_correlation
    FROM placed
    GROUP BY dataset, policy
    UNION ALL
    SELECT dataset, policy, bin, min(length) || ' to ' || max(length), count(*), avg(length), avg(reward), NULL
    FROM placed
    GROUP BY dataset, policy, bin
)

SELECT dataset, policy, length, rollouts, mean_length, mean_reward,
    if(isnan(rank_correlation), NULL, rank_correlation) AS rank_correlation
FROM lines
ORDER BY dataset, policy, bin
