-- Keep the rollouts that fit into a trainer's window: limits on the tokens of prompt, completion and both together,
-- each included. The completion is what the model generated, over all its calls. Prompt and total are those of the
-- first and the last call where token ids were captured; else the counts that the engine gave, which for a rollout of
-- several calls are sums over them: then the most that its prompt (their mean) and its total (their sum) can be.
-- param max_prompt     BIGINT = NULL       most tokens of the prompt
-- param max_completion BIGINT = 8192       most generated tokens
-- param max_total      BIGINT = 16384      most tokens of prompt and completion
-- param min_completion BIGINT = 1          fewest generated tokens
-- param keep_uncounted BOOLEAN = false     keep rollouts whose tokens nobody counted
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
