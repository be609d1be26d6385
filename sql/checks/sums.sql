-- Whether invariant.sql finds nothing, by sums of hashes of keys: it needs no table of all keys. Other keys with the same
-- sum are as likely as 1 in 2^64. Where the sums differ, invariant.sql says which rollouts are at fault.
WITH done AS (
    SELECT hash(d.dataset, d.task_id, d.policy, d.rollout_index)::HUGEINT AS key, w.task_id IS NOT NULL AS is_wanted
    FROM rollout_facts AS d
    LEFT JOIN wanted_tasks AS w
        ON w.dataset = d.dataset AND w.task_id = d.task_id AND w.policy = d.policy
        AND d.rollout_index >= 0 AND d.rollout_index < w.num_repeats
),

done_sums AS (
    SELECT count(*) FILTER (is_wanted) AS rollouts, coalesce(sum(key) FILTER (is_wanted), 0) AS keys,
        count(*) FILTER (NOT is_wanted) = count(DISTINCT key) FILTER (NOT is_wanted) AS others_once
    FROM done
),

left_over AS (
    SELECT dataset, task_id, policy, rollout_index FROM pending
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index FROM submitted
    UNION ALL
    SELECT dataset, task_id, policy, rollout_index FROM given_up
),

left_over_sums AS (
    SELECT count(*) AS rollouts, coalesce(sum(hash(dataset, task_id, policy, rollout_index)::HUGEINT), 0) AS keys
    FROM left_over
),

wanted_sums AS (
    SELECT count(*) AS rollouts, count(*) = count(DISTINCT key) AS once, coalesce(sum(key::HUGEINT), 0) AS keys
    FROM (SELECT hash(dataset, task_id, policy, rollout_index) AS key FROM wanted)
)

SELECT d.others_once AND w.once AND d.rollouts + l.rollouts = w.rollouts AND d.keys + l.keys = w.keys AS agree
FROM done_sums AS d, left_over_sums AS l, wanted_sums AS w
