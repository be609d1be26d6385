-- Preference pairs of one answer each: {"messages": [...], "chosen": {"role", "content"}, "rejected": {...}}. For
-- Axolotl's DPO (type: chat_template.default), which reads only role and content of a message: reasoning is in <think>
-- tags, the role developer becomes system, and there is no place for tools. White space around an answer is removed:
-- templates remove it, and Axolotl looks for the answer in the templated text.
-- reads: pairs
-- target: axolotl_preference
-- param drop_unfit BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT sort_key AS pair,
--     'an answer is more than one message of text, or it has tools; set drop_unfit = true' AS fault
--     FROM result WHERE json = '{}'
WITH answers AS (
    SELECT
        pair, prompt, prompt_hash, keys,
        CASE WHEN is_plain_answer(chosen) THEN answer_text(chosen) END AS chosen_answer,
        CASE WHEN is_plain_answer(rejected) THEN answer_text(rejected) END AS rejected_answer,
        coalesce(
            comparable AND chosen_answer <> rejected_answer AND coalesce(tools::VARCHAR, '[]') = '[]'
            AND NOT calls_tools(prompt), false
        ) AS fits,
        (shows_media(prompt, chosen) OR shows_media(rejected, '[]')) AS shows_media
    FROM pairs
)

SELECT
    CASE WHEN shows_media THEN media_line()
        WHEN fits
        THEN concat(
            '{"messages":[',
            array_to_string([chat_message(m, role_of(m), 'text', 'think') FOR m IN messages_of(prompt)], ','),
            '],"chosen":{"role":"assistant","content":', to_json(chosen_answer),
            '},"rejected":{"role":"assistant","content":', to_json(rejected_answer), '}}'
        )
        ELSE '{}' END AS json,
    keys,
    prompt_hash AS split_key,
    pair AS sort_key
FROM answers
WHERE (fits AND NOT shows_media) OR NOT getvariable('drop_unfit')
