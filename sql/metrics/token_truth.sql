-- Whether the captured tokens can be trained on, by dataset and policy. Counted are rollouts with and without tokens,
-- model calls, and calls whose prompt continues the tokens before it: prompt[:len(seen)] == seen, where seen is the
-- prompt and the answer of the previous call. If it does not, the conversation was tokenized again (a chat template
-- that drops reasoning, a tool result that was rewritten). Such a rollout is not a single sequence, and
-- filter/contiguous drops it. An empty list of ids counts as missing.
WITH captured AS (
    SELECT dataset, policy, attempt_id, turns,
        list_filter(coalesce(token_turns, []), lambda t: len(t.generation_token_ids) > 0) AS calls
    FROM rollouts
),

places AS (
    SELECT dataset, policy, attempt_id, calls, unnest(range(2, len(calls) + 1)) AS place
    FROM captured
),

-- Two calls, one after the other; NULL where one of them has no prompt ids.
joints AS (
    SELECT dataset, policy, attempt_id, CASE
        WHEN len(calls[place - 1].prompt_token_ids) > 0 AND len(calls[place].prompt_token_ids) > 0
            THEN list_concat(calls[place - 1].prompt_token_ids, calls[place - 1].generation_token_ids)
                = calls[place].prompt_token_ids[
                    1 : len(calls[place - 1].prompt_token_ids) + len(calls[place - 1].generation_token_ids)
                ]
    END AS contiguous
    FROM places
),

by_rollout AS (
    SELECT dataset, attempt_id, count(*) FILTER (contiguous) AS contiguous, count(*) FILTER (NOT contiguous) AS broken
    FROM joints
    GROUP BY dataset, attempt_id
),

counted AS (
    SELECT c.dataset, c.policy, c.turns, len(c.calls) AS calls, coalesce(b.contiguous, 0) AS contiguous,
        coalesce(b.broken, 0) AS broken,
        len(list_filter(c.calls, lambda t: len(t.generation_log_probs) = len(t.generation_token_ids))) AS with_log_probs,
        coalesce(list_sum(list_transform(c.calls, lambda t: len(t.generation_token_ids))), 0) AS tokens
    FROM captured AS c
    LEFT JOIN by_rollout AS b ON b.dataset = c.dataset AND b.attempt_id = c.attempt_id
)

SELECT dataset, policy, count(*) AS rollouts, count(*) FILTER (calls > 0) AS with_tokens,
    count(*) FILTER (calls = 0) AS without_tokens, sum(calls) AS calls_with_tokens,
    sum(greatest(turns - calls, 0)) FILTER (calls > 0) AS calls_missing, sum(with_log_probs) AS calls_with_log_probs,
    sum(tokens) AS generated_tokens, sum(contiguous) AS contiguous, sum(broken) AS discontinuities,
    count(*) FILTER (broken > 0) AS rollouts_with_discontinuity
FROM counted
GROUP BY dataset, policy
ORDER BY dataset, policy
