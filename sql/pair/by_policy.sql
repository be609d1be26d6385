-- Pair the answers of a strong policy with those of a weak one, whatever their rewards (delta learning, as in OLMo 3).
-- Both have the same prompt, tools and history. Rewards count only if min_margin is set. Equal answers make no pair.
-- param chosen_policy   VARCHAR             the strong policy
-- param rejected_policy VARCHAR             the weak policy
-- param pairs_per_task  INTEGER = 1         maximum pairs per task and prompt; a rollout is in one pair at most
-- param min_margin      DOUBLE = NULL       minimum difference of the two rewards; null: rewards do not matter
-- param max_length_gap  DOUBLE = 1          maximum difference in length, as a share of the longer answer
-- param seed            BIGINT = 42         seed of the choice of rollouts
-- check: SELECT p.policy, 'no rollout of this policy' AS fault
--     FROM (SELECT unnest([getvariable('chosen_policy'), getvariable('rejected_policy')]) AS policy) AS p
--     ANTI JOIN selected USING (policy)
-- report: FROM pair_lengths('result', 'selected')
WITH ranked AS (
    SELECT dataset, task_id,
        max({'lot': lot, 'answer': answer}, getvariable('pairs_per_task'))
            FILTER (policy = getvariable('chosen_policy')) AS strong,
        max({'lot': lot, 'answer': answer}, getvariable('pairs_per_task'))
            FILTER (policy = getvariable('rejected_policy')) AS weak
    FROM answers('selected', false, 'seed', getvariable('seed'))
    GROUP BY dataset, task_id, context_hash
),

drawn AS (
    SELECT dataset, task_id, unnest(strong).answer AS chosen, unnest(weak).answer AS rejected FROM ranked
),

pairs AS (
    SELECT * REPLACE (
        -- Rewards that were not asked for make no margin.
        struct_update(
            chosen, reward := CASE WHEN getvariable('min_margin') IS NOT NULL THEN chosen.reward END
        ) AS chosen
    )
    FROM drawn
    WHERE differ(chosen, rejected, getvariable('max_length_gap'))
        AND (
            getvariable('min_margin') IS NULL
            OR makes_pair(chosen, rejected, getvariable('min_margin'), '-inf', 'inf', getvariable('max_length_gap'))
        )
)

SELECT s.*, p.pair, p.role, p.margin
FROM selected AS s
JOIN sides('pairs') AS p USING (dataset, task_id, policy, rollout_index, copy)
