-- Preference pairs of one answer each: {"messages": [...], "chosen": {"role", "content"}, "rejected": {...}}.
-- For Axolotl's DPO (type: chat_template.default), which reads nothing but role and content of a message: reasoning stands
-- in <think> tags, a developer is the system, and tools have no place. White space around an answer is taken off, as
-- Axolotl looks for the answer in what a template makes of it, and templates take it off.
-- It reads the pairs that a pair step made.
-- target: axolotl_preference
-- param drop_unfit BOOLEAN = false   leave out what the format cannot hold, rather than stop at it
-- check: SELECT sort_key AS pair,
--     'an answer is more than one message of text, or it has tools; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
WITH pairs AS (
    SELECT
        c.pair, c.prompt, c.prompt_hash,
        CASE WHEN is_plain_answer(c.completion) THEN answer_text(c.completion) END AS chosen,
        CASE WHEN is_plain_answer(r.completion) THEN answer_text(r.completion) END AS rejected,
        coalesce(
            c.context_hash = r.context_hash AND chosen <> rejected AND coalesce(c.tools::VARCHAR, '[]') = '[]'
            AND NOT calls_tools(c.prompt), false
        ) AS fits,
        [
            line_key(c.dataset, c.task_id, c.policy, c.rollout_index, 'chosen'),
            line_key(r.dataset, r.task_id, r.policy, r.rollout_index, 'rejected')
        ] AS keys
    FROM selected AS c
    JOIN selected AS r USING (pair)
    WHERE c.role = 'chosen' AND r.role = 'rejected'
)

SELECT
    CASE WHEN fits
        THEN '{"messages":['
            || array_to_string([chat_message(m, role_of(m), 'text', 'think') FOR m IN messages_of(prompt)], ',')
            || '],"chosen":{"role":"assistant","content":' || to_json(chosen)
            || '},"rejected":{"role":"assistant","content":' || to_json(rejected) || '}}'
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM pairs
WHERE fits OR NOT getvariable('drop_unfit')
