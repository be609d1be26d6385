-- Throughput over time, by dataset, policy and run: the attempts that ended in each time span, and their rollouts and
-- tokens per second. Spans in which no attempt ended are left out.
-- param stretch DOUBLE = NULL   length of a time span, in seconds; null: chosen so that a run has at most 24 spans
WITH ended AS (
    SELECT dataset, policy, run_id, epoch(started_at) + seconds AS at, output_tokens, error
    FROM attempts
    WHERE started_at IS NOT NULL AND seconds IS NOT NULL
),

runs_of AS (
    SELECT run_id, min(epoch(started_at)) AS began, coalesce(getvariable('stretch'), list_filter(
        [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 14400, 86400, 604800, 31536000],
        lambda s: (max(epoch(started_at) + seconds) - min(epoch(started_at))) < 24 * s
    )[1]) AS stretch
    FROM attempts
    WHERE started_at IS NOT NULL AND seconds IS NOT NULL
    GROUP BY run_id
),

placed AS (
    SELECT e.dataset, e.policy, e.run_id, r.began, r.stretch, floor((e.at - r.began) / r.stretch) AS place,
        e.output_tokens, e.error
    FROM ended AS e
    JOIN runs_of AS r ON r.run_id = e.run_id
)

SELECT dataset, policy, run_id, make_timestamp(((began + place * stretch) * 1000000)::BIGINT) AS since,
    count(*) FILTER (error IS NULL) AS rollouts, count(error) AS failures,
    count(*) FILTER (error IS NULL) / stretch AS rollouts_per_second,
    sum(output_tokens) / stretch AS output_tokens_per_second
FROM placed
GROUP BY dataset, policy, run_id, began, stretch, place
ORDER BY dataset, policy, run_id, place
