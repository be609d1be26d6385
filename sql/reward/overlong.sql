-- Take off the reward of answers that come near the limit of tokens (DAPO's soft over-long penalty, as in NeMo RL):
-- nothing up to max_tokens - buffer, then evenly more: `penalty` at max_tokens, and still more beyond it.
-- param max_tokens BIGINT = 16384   generated tokens at which the penalty is whole
-- param buffer     BIGINT = 4096    tokens before it, over which the penalty grows
-- param penalty    DOUBLE = 1       the whole penalty
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
