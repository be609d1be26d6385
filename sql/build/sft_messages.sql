-- Supervised fine-tuning on whole conversations: {"messages": [...], "tools": [...]}, one line for each rollout. An
-- image is a part {"type": "image"}, and "images" holds the paths and URLs, as TRL reads them. For TRL's SFTTrainer,
-- NeMo RL's OpenAIFormatDataset, OpenRLHF's SFTDataset (--data.input_key messages), Axolotl (chat_template), prime-rl,
-- SkyRL and slime. The Tinker cookbook needs reasoning = "part". Chat templates read arguments as objects; `datasets`
-- before 4.7 fills these with nulls.
-- target: sft_messages
-- param min_reward      DOUBLE = 0.8      lowest reward used; -inf also takes rollouts without a reward
-- param drop_unfinished BOOLEAN = false   drop what does not end with the assistant, instead of stopping
-- param drop_unfit      BOOLEAN = false   drop what the format cannot hold, instead of stopping
-- param arguments       VARCHAR = 'object'  arguments of tool calls: object, or text, as received
-- param reasoning       VARCHAR = 'key'   reasoning as key (reasoning_content), think (tags in the content), part or drop
-- check: SELECT getvariable('arguments') AS arguments, 'text or object' AS must_be
--     WHERE getvariable('arguments') NOT IN ('text', 'object')
-- check: FROM refused_media('result', 'drop_unfit')
-- check: SELECT getvariable('reasoning') AS reasoning, 'key, think, part or drop' AS must_be
--     WHERE getvariable('reasoning') NOT IN ('key', 'think', 'part', 'drop')
SELECT
    -- Spliced as text: every tool and number stays as it was, and nothing is padded with nulls.
    CASE WHEN fits_images(prompt, completion) THEN concat(
        '{"messages":',
        chat_text(conversation, getvariable('arguments'), getvariable('reasoning')),
        ',"tools":' || nullif(tools::VARCHAR, '[]'), images_of(prompt, completion), '}'
    ) ELSE media_line() END AS json,
    [line_key(dataset, task_id, policy, rollout_index, 'completion')] AS keys,
    prompt_hash AS split_key,
    concat_ws('/', dataset, task_id, policy, rollout_index, copy) AS sort_key
FROM (SELECT *, imaged(joined(prompt, completion)) AS conversation FROM selected) -- here it is made once
WHERE coalesce(reward, '-inf'::DOUBLE) >= getvariable('min_reward')
    AND (NOT getvariable('drop_unfit') OR fits_images(prompt, completion))
    AND (NOT getvariable('drop_unfinished') OR json_extract_string(completion, '$[#-1].role') = 'assistant')
