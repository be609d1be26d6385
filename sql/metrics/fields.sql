-- Every numeric and boolean field of the rollouts, by dataset, policy and, with group_by, one more column: reward,
-- tokens, turns, tool calls, seconds, and the verifier's metrics. Mean, extremes, median, standard deviation (n - 1),
-- and the share of rollouts that have the field. source: 'rollout', or 'verifier' for the verifier's metrics.
-- param group_by VARCHAR = ''   agent, task, finish_reason, model, engine, run, verifier or tools ('used', 'not used')
WITH told AS (
    SELECT dataset, policy,
        CASE coalesce(getvariable('group_by'), '')
            WHEN '' THEN '(all)'
            WHEN 'agent' THEN coalesce(agent, '(none)')
            WHEN 'task' THEN task_id
            WHEN 'finish_reason' THEN coalesce(finish_reason, '(none)')
            WHEN 'model' THEN coalesce(model, '(none)')
            WHEN 'engine' THEN engine
            WHEN 'run' THEN run_id
            WHEN 'verifier' THEN coalesce(verifier, '(none)')
            WHEN 'tools' THEN if(tool_calls > 0, 'used', 'not used')
            ELSE error('group_by = ''' || getvariable('group_by')
                || ''': no such group; there are agent, task, finish_reason, model, engine, run, verifier, tools')
        END AS "group",
        list_concat([
            'reward', 'turns', 'tool_calls', 'tool_errors', 'input_tokens', 'output_tokens', 'total_tokens',
            'reasoning_tokens', 'cached_tokens', 'seconds', 'model_seconds', 'tool_seconds', 'verify_seconds'
        ], map_keys(metrics)) AS names,
        list_concat([
            reward, turns, tool_calls, tool_errors, input_tokens, output_tokens, input_tokens + output_tokens,
            reasoning_tokens, cached_tokens, seconds, model_seconds, tool_seconds, verify_seconds
        ], map_values(metrics)) AS numbers
    FROM rollouts
),

one_each AS (
    SELECT dataset, policy, "group", unnest(names) AS metric, unnest(numbers) AS number,
        if(unnest(range(len(names))) < 13, 'rollout', 'verifier') AS source
    FROM told
),

totals AS (SELECT dataset, policy, "group", count(*) AS rollouts FROM told GROUP BY dataset, policy, "group")

SELECT o.dataset, o.policy, o."group", o.source, o.metric, any_value(t.rollouts) AS rollouts,
    round(count(o.number) / any_value(t.rollouts), 4) AS coverage,
    avg(o.number) AS mean, max(o.number) AS max, min(o.number) AS min, median(o.number) AS median,
    stddev_samp(o.number) AS std
FROM one_each AS o
JOIN totals AS t ON t.dataset = o.dataset AND t.policy = o.policy AND t."group" = o."group"
WHERE o.number IS NOT NULL AND (o.metric <> 'reward' OR o.source = 'rollout')
GROUP BY o.dataset, o.policy, o."group", o.source, o.metric
ORDER BY o.dataset, o.policy, o."group", o.metric <> 'reward', o.source, o.metric
