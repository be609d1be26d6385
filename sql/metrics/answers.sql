-- Lengths in characters of the last messages, by dataset and policy, how many are empty, and how many repeat another
-- answer to the same task exactly. one_answer: tasks with several rollouts whose answers are all the same.
WITH told AS (
    SELECT dataset, policy, task_id, len(coalesce(text, '')) AS characters, md5(coalesce(text, '')) AS hash
    FROM rollouts
),

tasks_of AS (
    SELECT dataset, policy, task_id, count(*) AS answers, count(DISTINCT hash) AS different
    FROM told
    GROUP BY dataset, policy, task_id
),

variety AS (
    SELECT dataset, policy, sum(different)::BIGINT AS different, sum(answers - different)::BIGINT AS duplicates,
        count(*) FILTER (answers > 1 AND different = 1) AS one_answer
    FROM tasks_of
    GROUP BY dataset, policy
),

lengths AS (
    SELECT dataset, policy, count(*) AS rollouts, count(*) FILTER (characters = 0) AS empty,
        avg(characters) AS mean_characters, median(characters) AS median_characters,
        quantile_cont(characters, 0.95) AS p95_characters, max(characters) AS max_characters
    FROM told
    GROUP BY dataset, policy
)

SELECT l.*, v.different, v.duplicates, v.different / l.rollouts AS different_share, v.one_answer
FROM lengths AS l
JOIN variety AS v ON v.dataset = l.dataset AND v.policy = l.policy
ORDER BY l.dataset, l.policy
