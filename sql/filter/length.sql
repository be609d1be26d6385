-- Keep the rollouts that fit into a trainer's context: limits on the tokens of prompt, completion and both together,
-- each inclusive. The completion is what the model generated in all its calls. If token ids were captured, the prompt
-- is that of the first call, and the total is that of the last call. Otherwise the engine's counts are used. For a
-- rollout of several calls these are sums over the calls, so upper bounds are used: their mean for the prompt, their
-- sum for the total.
-- param max_prompt     BIGINT = NULL       maximum prompt tokens
-- param max_completion BIGINT = 8192       maximum generated tokens
-- param max_total      BIGINT = 16384      maximum tokens of prompt and completion together
-- param min_completion BIGINT = 1          minimum generated tokens
-- param keep_uncounted BOOLEAN = false     keep rollouts without token counts
WITH counted AS (
    SELECT dataset, task_id, policy, rollout_index, copy, output_tokens AS completion_tokens,
        len(token_turns) > 0 OR coalesce(turns, 1) <= 1 AS exact,
        coalesce(
            nullif(len(token_turns[1].prompt_token_ids), 0), input_tokens // greatest(coalesce(turns, 1), 1)
        ) AS prompt_tokens,
        coalesce(
            nullif(len(token_turns[-1].prompt_token_ids), 0) + len(token_turns[-1].generation_token_ids),
            input_tokens + output_tokens
        ) AS total_tokens
    FROM selected
),

judged AS (
    SELECT dataset, task_id, policy, rollout_index, copy, CASE
        WHEN completion_tokens > getvariable('max_completion') THEN 'completion above max_completion'
        WHEN completion_tokens < getvariable('min_completion') THEN 'completion below min_completion'
        WHEN prompt_tokens > getvariable('max_prompt') THEN 'prompt above max_prompt'
        WHEN total_tokens > getvariable('max_total') AND exact THEN 'total above max_total'
        WHEN total_tokens > getvariable('max_total') THEN 'total may be above max_total: counted over several calls'
        WHEN getvariable('keep_uncounted') THEN NULL
        WHEN (completion_tokens IS NULL AND getvariable('max_completion') IS NOT NULL)
            OR (prompt_tokens IS NULL AND getvariable('max_prompt') IS NOT NULL)
            OR (total_tokens IS NULL AND getvariable('max_total') IS NOT NULL) THEN 'tokens were not counted'
    END AS fault
    FROM counted
)

SELECT s.*, j.fault AS dropped
FROM selected AS s
JOIN judged AS j USING (dataset, task_id, policy, rollout_index, copy)
