-- Keep the rollouts whose token ids are one sequence: every model call has its ids, and each prompt begins with all
-- tokens before it. metrics/token_truth counts the others.
-- param log_probs BOOLEAN = false   also require a log-prob for each generated token
SELECT s.*, CASE
    WHEN coalesce(len(s.token_turns), 0) = 0 THEN 'no token ids'
    WHEN len(s.token_turns) < coalesce(s.turns, 1)
        OR NOT list_bool_and(list_transform(s.token_turns, lambda t: len(t.generation_token_ids) > 0))
        THEN 'a model call without token ids'
    WHEN NOT coalesce(list_bool_and(list_transform(
        range(2, len(s.token_turns) + 1),
        lambda k: len(s.token_turns[k - 1].prompt_token_ids) > 0
            AND list_concat(s.token_turns[k - 1].prompt_token_ids, s.token_turns[k - 1].generation_token_ids)
                = s.token_turns[k].prompt_token_ids[
                    1 : len(s.token_turns[k - 1].prompt_token_ids) + len(s.token_turns[k - 1].generation_token_ids)
                ]
    )), true) THEN 'a prompt that does not begin with the tokens before it'
    WHEN getvariable('log_probs') AND NOT list_bool_and(
        list_transform(s.token_turns, lambda t: len(t.generation_log_probs) = len(t.generation_token_ids))
    ) THEN 'a generated token without log-prob'
END AS dropped
FROM selected AS s
