-- Reduce the reward of answers that come near the token limit (DAPO's soft overlong penalty, as in NeMo RL). Up to
-- max_tokens - buffer there is no penalty; from there it grows linearly to `penalty` at max_tokens, and continues to
-- grow beyond.
-- param max_tokens BIGINT = 16384   generated tokens at which the full penalty applies
-- param buffer     BIGINT = 4096    tokens before max_tokens over which the penalty grows
-- param penalty    DOUBLE = 1       the full penalty
-- check: SELECT getvariable('buffer') AS buffer, 'must be from 1 to max_tokens' AS fault
--     WHERE NOT getvariable('buffer') BETWEEN 1 AND getvariable('max_tokens')
-- report: SELECT dataset, count(*) AS rollouts, count(*) FILTER (overlong_penalty < 0) AS penalized,
--     min(overlong_penalty) AS lowest_penalty FROM result GROUP BY dataset ORDER BY dataset
WITH penalties AS (
    SELECT dataset, task_id, policy, rollout_index, copy, least(
        (getvariable('max_tokens') - getvariable('buffer') - coalesce(output_tokens, 0)) / getvariable('buffer')
        * getvariable('penalty'), 0
    ) AS overlong_penalty
    FROM selected
)

SELECT s.* REPLACE (s.reward + p.overlong_penalty AS reward), p.overlong_penalty
FROM selected AS s
JOIN penalties AS p USING (dataset, task_id, policy, rollout_index, copy)
