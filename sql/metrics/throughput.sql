-- Throughput of each run, by dataset and policy: rollouts and tokens per second, latency, and shares of the time.
WITH runs_of AS (
    SELECT dataset, policy, run_id, count(*) AS rollouts, sum(output_tokens) AS output_tokens,
        max(epoch(started_at) + seconds) - min(epoch(started_at)) AS span_seconds,
        quantile_cont(seconds, 0.5) AS median_seconds, quantile_cont(seconds, 0.95) AS p95_seconds,
        sum(model_seconds) / nullif(sum(seconds), 0) AS model_share,
        sum(tool_seconds) / nullif(sum(seconds), 0) AS tool_share,
        avg(verify_seconds) AS mean_verify_seconds
    FROM rollouts
    GROUP BY dataset, policy, run_id
)

SELECT dataset, policy, run_id, rollouts, span_seconds, rollouts / nullif(span_seconds, 0) AS rollouts_per_second,
    output_tokens / nullif(span_seconds, 0) AS output_tokens_per_second,
    median_seconds, p95_seconds, model_share, tool_share, mean_verify_seconds
FROM runs_of
ORDER BY dataset, policy, run_id
