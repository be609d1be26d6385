-- Keep the rollouts that a person's label or score is for, as given in the viewer or with `rolloutops label`. Of each
-- attempt the newest counts. A rollout without label and score is unlabeled, also where it has a note.
-- param keep      VARCHAR[] = NULL   labels that are kept; NULL is all
-- param drop      VARCHAR[] = []     labels that are dropped
-- param min_score DOUBLE = NULL      lowest score that is kept; NULL is any, also none
-- param unlabeled VARCHAR = NULL     unlabeled rollouts: keep, or drop (NULL: drop where keep or min_score is set)
-- check: SELECT getvariable('unlabeled') AS unlabeled, 'keep or drop' AS must_be
--     WHERE getvariable('unlabeled') NOT IN ('keep', 'drop')
SELECT s.*, CASE
    WHEN s.label IS NULL AND s.label_score IS NULL THEN CASE
        WHEN getvariable('unlabeled') = 'drop' THEN 'unlabeled'
        WHEN getvariable('unlabeled') IS NULL
            AND (getvariable('keep') IS NOT NULL OR getvariable('min_score') IS NOT NULL) THEN 'unlabeled'
    END
    WHEN s.label IS NULL AND getvariable('keep') IS NOT NULL THEN 'no label'
    WHEN NOT list_contains(getvariable('keep'), s.label) THEN 'label ' || s.label
    WHEN list_contains(getvariable('drop'), s.label) THEN 'label ' || s.label
    WHEN s.label_score IS NULL AND getvariable('min_score') IS NOT NULL THEN 'no score'
    WHEN s.label_score < getvariable('min_score') THEN 'score below min_score'
END AS dropped
FROM selected AS s
