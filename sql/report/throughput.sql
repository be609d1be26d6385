-- Rollouts and generated tokens a second over the run that brought most rollouts, in up to 60 equal spans of it.
WITH ended AS (
    SELECT run_id, epoch(started_at) AS began, epoch(started_at) + seconds AS ended, output_tokens
    FROM rollouts
    WHERE started_at IS NOT NULL AND seconds IS NOT NULL
),

run AS (
    SELECT run_id, count(*) AS rollouts, min(began) AS began, max(ended) - min(began) AS span,
        greatest(8, least(60, count(*) // 8)) AS spans
    FROM ended
    GROUP BY run_id
    HAVING count(*) > 1 AND max(ended) > min(began)
    ORDER BY rollouts DESC, run_id
    LIMIT 1
),

counted AS (
    SELECT least(r.spans - 1, floor((e.ended - r.began) / r.span * r.spans))::INTEGER AS place, count(*) AS rollouts,
        sum(e.output_tokens) AS tokens
    FROM ended AS e
    JOIN run AS r USING (run_id)
    GROUP BY place
)

SELECT run_id, run.rollouts, span, places.place, (places.place + 0.5) * span / spans AS second,
    coalesce(c.rollouts, 0) / (span / spans) AS rollouts_per_second, coalesce(c.tokens, 0) / (span / spans) AS tokens_per_second
FROM run, (SELECT unnest(range(spans)) AS place FROM run) AS places
LEFT JOIN counted AS c ON c.place = places.place
ORDER BY places.place
