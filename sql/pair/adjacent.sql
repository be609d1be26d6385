-- Pair, for each reward of a task, one answer with one of the next lower reward. Both have the same prompt, tools and
-- history. Equal rewards or equal answers make no pair.
-- param pairs_per_task      INTEGER = NULL     maximum pairs per task and prompt, best first; null: all
-- param min_margin          DOUBLE = 0         minimum difference of the two rewards
-- param min_chosen_reward   DOUBLE = '-inf'    lowest reward of a chosen answer
-- param max_rejected_reward DOUBLE = 'inf'     highest reward of a rejected answer
-- param max_length_gap      DOUBLE = 1         maximum difference in length, as a share of the longer answer
-- param same_policy         BOOLEAN = false    pair only answers of the same policy
-- param ties                VARCHAR = 'seed'   which of equal rewards comes first: by seed, the first, or the shortest
-- param seed                BIGINT = 42        seed of the choice among equal ones
-- check: SELECT getvariable('ties') AS ties, 'seed, first, shortest' AS must_be_one_of
--     WHERE getvariable('ties') NOT IN ('seed', 'first', 'shortest')
-- report: FROM pair_lengths('result', 'selected')
WITH levels AS (
    -- For each reward of a task the answer that stands for it.
    SELECT dataset, task_id, context_hash, pool, reward,
        max({'rank': rank, 'lot': lot, 'answer': answer}).answer AS answer
    FROM answers('selected', getvariable('same_policy'), getvariable('ties'), getvariable('seed'))
    WHERE reward IS NOT NULL
    GROUP BY dataset, task_id, context_hash, pool, reward
),

neighbors AS (
    SELECT dataset, task_id, context_hash, pool, answer AS chosen,
        lead(answer) OVER (PARTITION BY dataset, task_id, context_hash, pool ORDER BY reward DESC) AS rejected
    FROM levels
),

pairs AS (
    SELECT dataset, task_id, chosen, rejected
    FROM neighbors
    WHERE makes_pair(
        chosen, rejected, getvariable('min_margin'), getvariable('min_chosen_reward'),
        getvariable('max_rejected_reward'), getvariable('max_length_gap')
    )
    QUALIFY row_number() OVER (PARTITION BY dataset, task_id, context_hash, pool ORDER BY chosen.reward DESC)
        <= coalesce(getvariable('pairs_per_task'), 2147483647)
)

SELECT s.*, p.pair, p.role, p.margin
FROM selected AS s
JOIN sides('pairs') AS p USING (dataset, task_id, policy, rollout_index, copy)
