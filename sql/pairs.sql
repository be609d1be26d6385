-- The view `pairs`: a row for each pair of `selected`. rolloutops makes it for steps with `-- reads: pairs`
-- in their header.
--   pair, dataset, task_id, margin        its name, its task, and by how much the chosen answer is better
--   prompt, tools, prompt_hash            the prompt of both sides
--   chosen, rejected                      their completions
--   chosen_text, rejected_text            the texts of their last messages
--   chosen_reward, rejected_reward        their rewards
--   comparable                            whether both sides have the same prompt and different answers
--   keys                                  the rollouts behind it, as a build returns them
CREATE OR REPLACE VIEW pairs AS
WITH sides AS MATERIALIZED ( -- both sides are read in one pass: payload is what takes time
    SELECT pair, role, dataset, task_id, policy, rollout_index, margin, reward, prompt, tools, prompt_hash, context_hash,
        completion, text
    FROM selected
)

SELECT
    c.pair, c.dataset, c.task_id, c.margin, c.prompt, c.tools, c.prompt_hash,
    c.completion AS chosen, r.completion AS rejected,
    c.text AS chosen_text, r.text AS rejected_text,
    c.reward AS chosen_reward, r.reward AS rejected_reward,
    coalesce(c.context_hash = r.context_hash AND c.completion::VARCHAR <> r.completion::VARCHAR, false) AS comparable,
    [
        line_key(c.dataset, c.task_id, c.policy, c.rollout_index, 'chosen'),
        line_key(r.dataset, r.task_id, r.policy, r.rollout_index, 'rejected')
    ] AS keys
FROM sides AS c
JOIN sides AS r USING (pair)
WHERE c.role = 'chosen' AND r.role = 'rejected';
