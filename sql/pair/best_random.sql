-- Pair each task's best rollout with any worse one, drawn by the seed (the rule of UltraFeedback and Tulu 3). Both have
-- the same prompt, tools and history. Equal rewards or equal answers make no pair.
-- param pairs_per_task      INTEGER = 1        maximum pairs per task and prompt
-- param min_margin          DOUBLE = 0         minimum difference of the two rewards
-- param min_chosen_reward   DOUBLE = '-inf'    lowest reward of a chosen answer
-- param max_rejected_reward DOUBLE = 'inf'     highest reward of a rejected answer
-- param max_length_gap      DOUBLE = 1         maximum difference in length, as a share of the longer answer
-- param same_policy         BOOLEAN = false    pair only answers of the same policy
-- param ties                VARCHAR = 'seed'   which of equal rewards comes first: by seed, the first, or the shortest
-- param seed                BIGINT = 42        seed of the draw, and of the choice among equal ones
-- check: SELECT getvariable('ties') AS ties, 'seed, first, shortest' AS must_be_one_of
--     WHERE getvariable('ties') NOT IN ('seed', 'first', 'shortest')
-- report: FROM pair_lengths('result', 'selected')
WITH answers_of AS (
    FROM answers('selected', getvariable('same_policy'), getvariable('ties'), getvariable('seed'))
    WHERE reward IS NOT NULL
),

best AS (
    SELECT dataset, task_id, context_hash, pool,
        max({'reward': reward, 'rank': rank, 'lot': lot, 'answer': answer}).answer AS chosen
    FROM answers_of
    GROUP BY dataset, task_id, context_hash, pool
),

pairs AS (
    SELECT b.dataset, b.task_id, b.chosen, r.answer AS rejected
    FROM best AS b
    JOIN answers_of AS r
        ON r.dataset = b.dataset AND r.task_id = b.task_id AND r.context_hash = b.context_hash AND r.pool = b.pool
    WHERE makes_pair(
        chosen, rejected, getvariable('min_margin'), getvariable('min_chosen_reward'),
        getvariable('max_rejected_reward'), getvariable('max_length_gap')
    )
    QUALIFY row_number() OVER (PARTITION BY b.dataset, b.task_id, b.context_hash, b.pool ORDER BY r.lot)
        <= getvariable('pairs_per_task')
)

SELECT s.*, p.pair, p.role, p.margin
FROM selected AS s
JOIN sides('pairs') AS p USING (dataset, task_id, policy, rollout_index, copy)
