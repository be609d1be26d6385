-- Drop the rollouts whose thinking is malformed (NeMo Curator's rules). Malformed are an empty <think></think>, a tag
-- that is not opened or not closed, thinking although the prompt turned it off, and, if thinking is required, none.
-- Each assistant message is checked. Thinking that the engine moved out of the text (reasoning_content) is well-formed.
-- param opened_by_prompt BOOLEAN = false     the chat template writes <think> into the prompt, so texts begin inside it
-- param required         BOOLEAN = false     also drop rollouts without thinking, unless it is turned off
-- param off_words        VARCHAR[] = ['detailed thinking off', '/no_think', '/nothink']   words in a prompt that turn thinking off
WITH messages AS (
    SELECT dataset, task_id, policy, rollout_index, copy,
        len(list_filter(getvariable('off_words'), lambda word: contains(lower(prompt::VARCHAR), lower(word)))) > 0
            OR coalesce(
                request->>'$.chat_template_kwargs.enable_thinking', request->>'$.chat_template_kwargs.thinking'
            ) IS NOT DISTINCT FROM 'false' AS is_off,
        list_transform(
            list_filter(
                from_json(completion, '[{"role":"VARCHAR","reasoning_content":"VARCHAR","content":"JSON"}]'),
                lambda m: m.role = 'assistant'
            ),
            lambda m: {
                'thought': trim(coalesce(m.reasoning_content, '')), 'said': coalesce(content_text(m.content), '')
            }
        ) AS messages
    FROM selected
),

counted AS (
    SELECT * EXCLUDE (messages),
        list_transform(messages, lambda m: {
            'thought': m.thought <> '',
            'empty': regexp_matches(m.said, '<think>\s*</think>'),
            'opened': len(string_split(m.said, '<think>')) - 1,
            'closed': len(string_split(m.said, '</think>')) - 1,
            'unopened': strpos(m.said, '</think>') > 0
                AND (strpos(m.said, '<think>') = 0 OR strpos(m.said, '<think>') > strpos(m.said, '</think>'))
        }) AS messages
    FROM messages
),

judged AS (
    SELECT dataset, task_id, policy, rollout_index, copy, CASE
        WHEN is_off AND list_bool_or(list_transform(messages, lambda m: m.thought OR m.opened + m.closed > 0))
            THEN 'thinking although it was turned off'
        WHEN list_bool_or(list_transform(messages, lambda m: m.empty)) THEN 'empty <think></think>'
        WHEN list_bool_or(list_transform(messages, lambda m: m.unopened AND NOT getvariable('opened_by_prompt')))
            THEN '</think> without <think>'
        WHEN list_bool_or(list_transform(messages, lambda m: m.opened > m.closed)) THEN '<think> without </think>'
        WHEN list_bool_or(list_transform(messages, lambda m: m.closed > m.opened + m.unopened::INTEGER))
            THEN '</think> without <think>'
        WHEN getvariable('required') AND NOT is_off
            AND coalesce(list_bool_and(list_transform(messages, lambda m: NOT m.thought AND m.closed = 0)), true)
            THEN 'no thinking'
    END AS fault
    FROM counted
)

SELECT s.*, j.fault AS dropped
FROM selected AS s
JOIN judged AS j USING (dataset, task_id, policy, rollout_index, copy)
