-- Failed attempts by dataset, policy and error: how many, their share of all attempts, how many of their rollouts
-- succeeded in a later attempt, and an example of the message.
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
