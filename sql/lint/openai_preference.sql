-- OpenAI's DPO: {"input": {"messages", "tools"?, "parallel_tool_calls"?}, "preferred_output": [one message],
-- "non_preferred_output": [one message]}.
SELECT split, row, unnest(list_concat(
    message_faults(line.input.messages, media := linked_pictures(line.input.messages)),
    message_faults(line.preferred_output),
    message_faults(line.non_preferred_output), tool_faults(line.input.tools), pair_faults(preferred, non_preferred),
    found([
        no_messages('input.messages', line.input.messages),
        error_if(
            len(other_keys(json, ['input', 'preferred_output', 'non_preferred_output'])) > 0
            OR len(other_keys(json_extract(json, '$.input'), ['messages', 'tools', 'parallel_tool_calls'])) > 0,
            'a key that the format does not know: the upload is rejected; leave it out'
        ),
        error_if(
            len(line.preferred_output) IS DISTINCT FROM 1 OR len(line.non_preferred_output) IS DISTINCT FROM 1
            OR line.preferred_output[1].role <> 'assistant' OR line.non_preferred_output[1].role <> 'assistant',
            'an output is not one message of the assistant: the upload is rejected; use rollouts of one turn'
        ),
        error_if(
            line.input.messages[-1].role = 'assistant',
            'input ends with the assistant: the upload is rejected; let it end with the question'
        ),
        error_if(
            other_roles(line.input.messages, ['system', 'user', 'assistant', 'tool', 'developer']),
            'a role is not system, user, assistant or tool: the upload is rejected; use role system'
        ),
        error_if(
            has_reasoning(talk),
            'reasoning_content is not a key of this format: the upload is rejected; leave it out'
        ),
        error_if(
            object_arguments(talk),
            'the arguments of a tool call are an object: the upload is rejected; write them as JSON text'
        ),
        error_if(
            ends_empty(line.preferred_output),
            'the preferred output is empty: the model learns to return nothing; drop the row'
        )
    ])
), recursive := true)
FROM (
    SELECT *, line.input.messages || line.preferred_output || line.non_preferred_output AS talk
    FROM (
        SELECT split, row, json, json_extract(json, '$.preferred_output') AS preferred,
            json_extract(json, '$.non_preferred_output') AS non_preferred,
            from_json(json, '{"input":{"messages":' || chat() || ',"tools":"JSON"},"preferred_output":' || chat()
                || ',"non_preferred_output":' || chat() || '}') AS line
        FROM lines
    )
)
