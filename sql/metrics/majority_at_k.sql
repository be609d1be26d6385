-- The reward of a majority vote over the first k rollouts of each task (majority@k), by dataset and policy. Each
-- rollout with an answer votes for (answer, reward). The reward is the mean over the most frequent votes; a task
-- without any answer gets 0 (NeMo Gym's rule). no_answer: the share of those rollouts without an answer. Tasks with
-- fewer than k verified rollouts are left out, and so are datasets whose verifier reports no answer.
-- param answer VARCHAR[] = ['extracted', 'extracted_answer', 'final_answer']   fields of the verdict that may hold the answer
-- param k      INTEGER[] = NULL   values of k; null: 1, 2, 4, ... and the largest n
WITH judged AS (
    SELECT dataset, policy, task_id, reward,
        list_filter([details ->> name FOR name IN getvariable('answer')], lambda said: said IS NOT NULL)[1] AS answer,
        row_number() OVER (PARTITION BY dataset, policy, task_id ORDER BY rollout_index) AS place
    FROM rollouts
    WHERE reward IS NOT NULL
),

telling AS (
    SELECT dataset, policy FROM judged GROUP BY dataset, policy HAVING count(answer) > 0
),

sizes AS (SELECT dataset, policy, task_id, count(*) AS n FROM judged GROUP BY dataset, policy, task_id),

ks AS (
    SELECT DISTINCT unnest(coalesce(getvariable('k'), ks_up_to(most))) AS k
    FROM (SELECT max(n)::INTEGER AS most FROM sizes)
),

candidates AS (
    SELECT j.dataset, j.policy, j.task_id, ks.k, j.answer, j.reward, count(*) AS votes
    FROM judged AS j
    SEMI JOIN telling AS t ON t.dataset = j.dataset AND t.policy = j.policy
    JOIN sizes AS s ON s.dataset = j.dataset AND s.policy = j.policy AND s.task_id = j.task_id
    JOIN ks ON s.n >= ks.k AND j.place <= ks.k
    GROUP BY j.dataset, j.policy, j.task_id, ks.k, j.answer, j.reward
),

most AS (
    SELECT dataset, policy, task_id, k, max(votes) FILTER (answer IS NOT NULL) AS votes
    FROM candidates
    GROUP BY dataset, policy, task_id, k
),

elected AS (
    SELECT c.dataset, c.policy, c.task_id, c.k, coalesce(sum(c.votes) FILTER (c.answer IS NULL), 0) AS silent,
        coalesce(avg(c.reward) FILTER (c.answer IS NOT NULL AND c.votes = m.votes), 0.0) AS reward
    FROM candidates AS c
    JOIN most AS m ON m.dataset = c.dataset AND m.policy = c.policy AND m.task_id = c.task_id AND m.k = c.k
    GROUP BY c.dataset, c.policy, c.task_id, c.k
)

SELECT dataset, policy, k, count(*) AS tasks, avg(reward) AS majority_at_k, sum(silent) / (k * count(*)) AS no_answer
FROM elected
GROUP BY dataset, policy, k
ORDER BY dataset, policy, k
