-- Tokens and turns by dataset and policy, and the share of rollouts that were truncated.
SELECT dataset, policy, count(*) AS rollouts,
    sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
    sum(reasoning_tokens) AS reasoning_tokens, sum(cached_tokens) AS cached_tokens,
    avg(output_tokens) AS mean_output, quantile_cont(output_tokens, 0.5) AS median_output,
    quantile_cont(output_tokens, 0.95) AS p95_output, max(output_tokens) AS max_output,
    avg(turns) AS mean_turns,
    avg(is_cut_off(finish_reason)::INTEGER) AS cut_off
FROM rollouts
GROUP BY dataset, policy
ORDER BY dataset, policy
