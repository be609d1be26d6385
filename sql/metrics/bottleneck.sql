-- Where the time of each run went, what limited it, and what to do about it. Shares are of the time that rollouts spent
-- with the model, in tools, in verification (by the same run, without what `verify` verified later) and otherwise (an
-- environment's begin, waiting for this process). in_flight: concurrent rollouts, on average; verifying: concurrent
-- verifications. verify_cpu_share: share of the verification time that was CPU time; null if no verdict measured it. A
-- verifier that waits for a network, a disk or another process needs more concurrent verifications; one that computes
-- needs more cores. A verifier counts as computing if CPU time is at least half of its time, or at least a tenth of it
-- and enough to keep half a core busy. If no CPU time was measured, verdicts that take seconds count as waiting (most
-- likely calls to another service), and short ones that together take half a core or more count as computing.
-- param share DOUBLE = 0.2   minimum share of the time for tools, verification or the environment to be the bottleneck
WITH verdict AS (
    SELECT v.dataset, v.attempt_id, v.run_id, if(v.cached, 0.0, v.seconds) AS seconds,
        if(v.cached, 0.0, v.cpu_seconds) AS cpu_seconds
    FROM verdicts AS v
    SEMI JOIN good_verdicts AS g ON g.dataset = v.dataset AND g.verdict_id = v.verdict_id
),

times AS (
    SELECT r.dataset, r.policy, r.run_id, r.started_at, r.seconds, r.model_seconds, r.tool_seconds,
        coalesce(v.seconds, 0.0) AS verify_seconds,
        if(v.cpu_seconds IS NULL, NULL, v.seconds) AS measured_seconds,
        if(v.cpu_seconds > v.seconds, v.seconds, v.cpu_seconds) AS cpu_seconds,
        greatest(r.seconds - coalesce(r.model_seconds, 0.0) - coalesce(r.tool_seconds, 0.0), 0.0) AS other_seconds
    FROM rollouts AS r
    LEFT JOIN verdict AS v ON v.dataset = r.dataset AND v.attempt_id = r.attempt_id AND v.run_id = r.run_id
),

runs_of AS (
    SELECT dataset, policy, run_id, count(*) AS rollouts,
        max(epoch(started_at) + seconds) - min(epoch(started_at)) AS span,
        sum(seconds) AS rollout_seconds, sum(model_seconds) AS model, sum(tool_seconds) AS tools,
        sum(verify_seconds) AS verify, sum(other_seconds) AS other,
        sum(cpu_seconds) AS cpu, sum(cpu_seconds) / nullif(sum(measured_seconds), 0) AS computing,
        quantile_cont(verify_seconds, 0.5) AS median_verify, quantile_cont(verify_seconds, 0.99) AS p99_verify
    FROM times
    GROUP BY dataset, policy, run_id
),

shares AS (
    SELECT *, nullif(model + tools + verify + other, 0) AS total FROM runs_of
),

told AS (
    SELECT dataset, policy, run_id, rollouts, rollouts / nullif(span, 0) AS rollouts_per_second,
        rollout_seconds / nullif(span, 0) AS in_flight, verify / nullif(span, 0) AS verifying,
        model / total AS model_share, tools / total AS tool_share, verify / total AS verify_share,
        other / total AS other_share, computing AS verify_cpu_share, median_verify, p99_verify,
        CASE
            WHEN total IS NULL THEN NULL
            WHEN verify / total >= getvariable('share') AND verify >= tools AND verify >= other THEN
                CASE
                    WHEN computing >= 0.5 OR (computing >= 0.1 AND cpu >= 0.5 * span) THEN 'verification: compute'
                    WHEN computing < 0.5 THEN 'verification: waiting'
                    WHEN p99_verify >= 1.0 THEN 'verification: stalls'
                    WHEN verify >= 0.5 * span THEN 'verification: compute'
                    ELSE 'verification'
                END
            WHEN tools / total >= getvariable('share') AND tools >= other THEN 'tools'
            WHEN other / total >= getvariable('share') THEN 'environment'
            ELSE 'model'
        END AS bottleneck
    FROM shares
)

SELECT *, CASE bottleneck
    WHEN 'verification: waiting'
        THEN 'verdicts wait for a network, a disk or another process: make verify a coroutine (its calls then overlap), '
            || 'raise the environment''s parallel, or collect --verify=later'
    WHEN 'verification: stalls'
        THEN 'some verdicts take seconds: make verify a coroutine (its calls then overlap), or collect --verify=later'
    WHEN 'verification: compute'
        THEN 'verdicts keep the CPU busy: set runs = "process" and pure = True, use more cores (--processes), or collect --verify=later'
    WHEN 'verification'
        THEN 'the model answers faster than rollouts are verified: collect --verify=later, then verify'
    WHEN 'tools'
        THEN 'rollouts wait for tools: make call a coroutine, cache what it looks up, raise num_samples_in_parallel'
    WHEN 'environment'
        THEN 'rollouts wait outside model and tools: check the environment''s begin and this machine''s CPU load'
    WHEN 'model'
        THEN 'the model: raise num_samples_in_parallel while rollouts_per_second grows, or add servers'
END AS advice
FROM told
ORDER BY dataset, policy, run_id
