-- Pair every better answer of a task with every worse one; with bounds, all good answers with all bad ones. Both have
-- the same prompt, tools and history. Equal rewards or equal answers make no pair.
-- param pairs_per_task      INTEGER = NULL     maximum pairs per task and prompt, chosen by seed; null: all
-- param min_margin          DOUBLE = 0         minimum difference of the two rewards
-- param min_chosen_reward   DOUBLE = '-inf'    lowest reward of a chosen answer
-- param max_rejected_reward DOUBLE = 'inf'     highest reward of a rejected answer
-- param max_length_gap      DOUBLE = 1         maximum difference in length, as a share of the longer answer
-- param same_policy         BOOLEAN = false    pair only answers of the same policy
-- param seed                BIGINT = 42        seed of the choice among equal ones
-- report: FROM pair_lengths('result', 'selected')
WITH answers_of AS (
    FROM answers('selected', getvariable('same_policy'), 'seed', getvariable('seed')) WHERE reward IS NOT NULL
),

pairs AS (
    SELECT c.dataset, c.task_id, c.answer AS chosen, r.answer AS rejected
    FROM answers_of AS c
    JOIN answers_of AS r
        ON r.dataset = c.dataset AND r.task_id = c.task_id AND r.context_hash = c.context_hash AND r.pool = c.pool
        AND r.reward < c.reward
    WHERE makes_pair(
        chosen, rejected, getvariable('min_margin'), getvariable('min_chosen_reward'),
        getvariable('max_rejected_reward'), getvariable('max_length_gap')
    )
    QUALIFY row_number() OVER (
        PARTITION BY c.dataset, c.task_id, c.context_hash, c.pool ORDER BY md5(c.lot || r.lot)
    ) <= coalesce(getvariable('pairs_per_task'), 2147483647)
)

SELECT s.*, p.pair, p.role, p.margin
FROM selected AS s
JOIN sides('pairs') AS p USING (dataset, task_id, policy, rollout_index, copy)
