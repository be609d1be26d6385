-- Replace the reward with a weighted sum of the verifier's fields. A rollout that lacks one of the fields gets no
-- reward.
-- param weights MAP(VARCHAR, DOUBLE)   the weight of each field of the verdict
-- check: SELECT w.dataset AS field, 'no rollout has this field' AS fault FROM entries(getvariable('weights')) AS w
--     ANTI JOIN (SELECT DISTINCT unnest(map_keys(metrics)) AS dataset FROM selected) AS m USING (dataset)
-- report: SELECT dataset, count(reward) AS rollouts, count(*) - count(reward) AS without, min(reward) AS lowest,
--     max(reward) AS highest FROM result GROUP BY dataset ORDER BY dataset
SELECT s.* REPLACE (
    CASE
        WHEN len(list_filter(map_keys(getvariable('weights')), lambda name: s.metrics[name] IS NULL)) = 0
            THEN list_sum(list_transform(
                map_entries(getvariable('weights')), lambda entry: entry.value * s.metrics[entry.key]
            ))
    END AS reward
)
FROM selected AS s
