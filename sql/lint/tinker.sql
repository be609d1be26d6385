-- The Tinker cookbook: {"comparison": {"prompt_conversation", "completion_A", "completion_B"}, "label": "A", "B" or
-- "Tie"}; for SFT {"messages": [...]}.
SELECT split, row, unnest(list_concat(
    message_faults(line.messages), message_faults(pair.prompt_conversation), message_faults(pair."completion_A"),
    message_faults(pair."completion_B"),
    found([
        error_if(
            line.messages IS NULL AND (coalesce(len(pair.prompt_conversation), 0) = 0
                OR coalesce(len(pair."completion_A"), 0) = 0 OR coalesce(len(pair."completion_B"), 0) = 0),
            'neither messages nor a comparison of prompt_conversation, completion_A and completion_B: Tinker stops '
            || 'with a '
            || 'KeyError; write lists of messages'
        ),
        error_if(
            line.messages IS NULL AND coalesce(text_at(json, '$.label'), '') NOT IN ('A', 'B', 'Tie'),
            'label is not A, B or Tie: Tinker fails on the row; write one of them'
        ),
        error_if(
            a = b, 'completion_A equals completion_B: the pair teaches nothing; drop the row'
        ),
        error_if(
            any_holds([m.content IS NULL FOR m IN spoken]),
            'content is null: Tinker''s renderers stop with a TypeError; write ""'
        ),
        error_if(
            has_reasoning(spoken),
            'reasoning_content: Tinker''s renderers drop it silently; write it into content as a part of type '
            || 'thinking'
        ),
        error_if(
            any_holds([len(m.tool_calls) > 0 FOR m IN spoken]),
            'tool_calls are plain objects: Tinker''s renderers want ToolCall objects and stop with an AttributeError; '
            || 'make them when you load the file, or drop the row'
        ),
        warning_if(line.messages[-1].role <> 'assistant', 'the last turn is not the assistant''s: it is not trained')
    ])
), recursive := true)
FROM (
    SELECT split, row, json, line, line.comparison AS pair,
        coalesce(line.messages, line.comparison.prompt_conversation || line.comparison."completion_A"
            || line.comparison."completion_B") AS spoken,
        json_extract(json, '$.comparison.completion_A') AS a, json_extract(json, '$.comparison.completion_B') AS b
    FROM (
        SELECT split, row, json, from_json(json, '{"comparison":{"prompt_conversation":' || chat() || ',"completion_A":'
            || chat() || ',"completion_B":' || chat() || '},"messages":' || chat() || '}') AS line
        FROM lines
    )
)
