-- Axolotl's DPO, type: chat_template.default: {"messages": [...], "chosen": {"role", "content"}, "rejected": {...}}. It
-- reads role and content of each message, and looks for the answer's text in what the chat template made of it.
SELECT split, row, unnest(list_concat(
    message_faults(line.messages), pair_faults(chosen, rejected),
    found([
        media_fault(contents, []),
        no_messages('messages', line.messages),
        error_if(
            any_holds([NOT coalesce(starts_with(content::VARCHAR, '"'), false) FOR content IN contents]),
            'chosen or rejected is not a {"role", "content"} message of text: Axolotl stops with a TypeError; '
            || 'write one message of text'
        ),
        error_if(
            any_holds([json_array_length(side) > 1 FOR side IN [chosen, rejected]]),
            'chosen or rejected is a list of messages: Axolotl trains only on the last one; write one message'
        ),
        error_if(
            any_holds([text_at(content, '$') = '' FOR content IN contents]),
            'an answer is empty: Axolotl treats the template''s own text as the answer; drop the row'
        ),
        error_if(
            other_roles(talk, ['system', 'user', 'assistant', 'tool', 'developer']),
            'a role is not system, user, assistant or tool: Axolotl stops with a KeyError; use '
            || 'role system'
        ),
        error_if(
            has_reasoning(talk),
            'reasoning_content: Axolotl drops it silently; write it into content, in <think> tags'
        ),
        error_if(
            any_holds([len(m.tool_calls) > 0 FOR m IN talk]),
            'tool calls: Axolotl drops them silently, and trains an empty turn; drop the row'
        ),
        error_if(
            any_holds([regexp_matches(text_at(content, '$'), '^\s|\s$') FOR content IN contents]),
            'white space around an answer: if a template strips it, Axolotl does not find the answer and drops it; '
            || 'strip it'
        ),
        warning_if(
            any_holds([contains(headers, text_at(content, '$')) FOR content IN contents IF text_at(content, '$') <> '']),
            'an answer is so short that the template''s own text contains it (e.g. 2 in a date, a in assistant): '
            || 'Axolotl trains from that place on; request longer answers'
        ),
        warning_if(
            json_exists(json, '$.tools'),
            'tools: Axolotl does not show them to the model; write them into a system message'
        )
    ])
), recursive := true)
FROM (
    SELECT *, line.messages || sides AS talk, [m.content FOR m IN sides] AS contents,
        -- What stands before an answer in the templates of ChatML, Llama 3 and Gemma, with the dummy that Axolotl asks.
        '<|im_start|>system You are a helpful assistant.<|im_end|> <|im_start|>user [[dummy_message]]<|im_end|> '
        || 'assistant <|begin_of_text|><|start_header_id|>user<|end_header_id|> Cutting Knowledge Date December 2023 '
        || 'Today Date 26 Jul 2024<|eot_id|> <bos><start_of_turn>model <end_of_turn>' AS headers
    FROM (
        SELECT split, row, json, json_extract(json, '$.chosen') AS chosen, json_extract(json, '$.rejected') AS rejected,
            from_json(json, '{"messages":' || chat() || '}') AS line,
            from_json('[' || array_to_string([
                CASE json_type(side)
                    WHEN 'ARRAY' THEN json_extract(side, '$[#-1]')
                    WHEN 'VARCHAR' THEN '{"role":"assistant","content":' || side || '}'
                    ELSE coalesce(side, 'null')
                END FOR side IN [json_extract(json, '$.chosen'), json_extract(json, '$.rejected')]
            ], ',') || ']', chat()) AS sides
        FROM lines
    )
)
UNION ALL
SELECT * FROM mixed_types(['messages', 'chosen', 'rejected'])
