-- Agreement of two versions of a verifier, by dataset. Over the rollouts to which both gave a reward: the share of
-- equal rewards, the mean difference (now - before), the four combinations of success and failure, and Cohen's kappa
-- (1: full agreement, 0: chance; Cohen 1960). "Now" is the version that the recipe names, else the newest.
-- param against VARCHAR = NULL   the earlier version, or its first characters; null: the newest other version
-- param success DOUBLE = 1.0     a rollout with at least this reward is a success
WITH versions AS (
    SELECT dataset, verifier_version, max(verdict_id) AS newest
    FROM named_verdicts
    GROUP BY dataset, verifier_version
),

present AS (
    SELECT v.dataset, coalesce(any_value(j.verifier_version), arg_max(v.verifier_version, v.newest)) AS version
    FROM versions AS v
    LEFT JOIN dataset_verifiers AS j ON j.dataset = v.dataset
    GROUP BY v.dataset
),

pairs AS (
    SELECT p.dataset, p.version AS now, arg_max(v.verifier_version, v.newest) AS before
    FROM present AS p
    JOIN versions AS v ON v.dataset = p.dataset AND v.verifier_version <> p.version
    WHERE starts_with(v.verifier_version, coalesce(getvariable('against'), ''))
    GROUP BY p.dataset, p.version
),

-- The newest verdict of each version on each rollout.
newest AS (
    SELECT dataset, attempt_id, verifier_version, max(verdict_id) AS verdict_id
    FROM named_verdicts
    GROUP BY dataset, attempt_id, verifier_version
),

rewards AS (
    SELECT v.dataset, v.attempt_id, v.verifier_version, v.reward
    FROM named_verdicts AS v
    SEMI JOIN newest AS n ON n.dataset = v.dataset AND n.verdict_id = v.verdict_id
    SEMI JOIN good_attempts AS g ON g.dataset = v.dataset AND g.attempt_id = v.attempt_id
),

judged AS (
    SELECT p.dataset, p.now AS version, p.before AS against, r.attempt_id,
        max(r.reward) FILTER (r.verifier_version = p.now) AS now,
        max(r.reward) FILTER (r.verifier_version = p.before) AS before
    FROM pairs AS p
    JOIN rewards AS r ON r.dataset = p.dataset AND r.verifier_version IN (p.now, p.before)
    GROUP BY p.dataset, p.now, p.before, r.attempt_id
),

totals AS (
    SELECT dataset, version, against, count(*) AS judged_by_any,
        count(*) FILTER (now IS NOT NULL AND before IS NOT NULL) AS judged_by_both,
        avg((now = before)::DOUBLE) AS equal_share,
        avg(now) FILTER (before IS NOT NULL) AS mean_now,
        avg(before) FILTER (now IS NOT NULL) AS mean_before,
        avg(now - before) AS mean_difference,
        count(*) FILTER (now >= getvariable('success') AND before >= getvariable('success')) AS both_succeed,
        count(*) FILTER (now >= getvariable('success') AND before < getvariable('success')) AS only_now_succeeds,
        count(*) FILTER (now < getvariable('success') AND before >= getvariable('success')) AS only_before_succeeded,
        count(*) FILTER (now < getvariable('success') AND before < getvariable('success')) AS both_fail
    FROM judged
    GROUP BY dataset, version, against
),

shares AS (
    SELECT *, (both_succeed + both_fail) / nullif(judged_by_both, 0) AS agreed,
        (both_succeed + only_now_succeeds) / nullif(judged_by_both, 0) AS succeed_now,
        (both_succeed + only_before_succeeded) / nullif(judged_by_both, 0) AS succeeded_before
    FROM totals
),

chance AS (
    SELECT *, succeed_now * succeeded_before + (1 - succeed_now) * (1 - succeeded_before) AS by_chance
    FROM shares
)

SELECT dataset, version, against, judged_by_any, judged_by_both, equal_share, mean_now, mean_before, mean_difference,
    both_succeed, only_now_succeeds, only_before_succeeded, both_fail,
    (agreed - by_chance) / nullif(1 - by_chance, 0) AS kappa
FROM chance
ORDER BY dataset
