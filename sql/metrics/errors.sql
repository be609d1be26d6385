-- Failed attempts by dataset, policy and kind: how many, their share of all attempts, how many rollouts came all the
-- same in a later try, and what one of them said.
WITH tried AS (
    SELECT dataset, policy, count(*) AS attempts FROM attempts GROUP BY dataset, policy
)

SELECT f.dataset, f.policy, f.error, count(*) AS attempts, count(*) / any_value(t.attempts) AS share_of_attempts,
    count(*) FILTER (f.healed) AS healed, count(*) FILTER (f.final) AS final,
    left(min(f.error_message), 200) AS example
FROM failures AS f
JOIN tried AS t ON t.dataset = f.dataset AND t.policy = f.policy
GROUP BY f.dataset, f.policy, f.error
ORDER BY f.dataset, f.policy, attempts DESC, f.error
