-- Whole conversations, {"messages": [...], "tools"?: [...]}: TRL, verl, OpenRLHF, NeMo RL, Axolotl, prime-rl.
WITH looked AS MATERIALIZED (
    SELECT split, row, [list_type(line.messages, json, 'messages'), json_type(line.tools)] AS types, list_concat(
        message_faults(line.messages, media := ['image']), argument_faults(line.messages), tool_faults(line.tools),
        found([
            no_messages('messages', line.messages),
            image_fault(json, line.messages),
            error_if(
                line.messages[-1].role <> 'assistant',
                'the last turn is not the assistant''s: NeMo RL stops with an AssertionError, LLaMA-Factory skips '
                || 'the row, '
                || 'others train less than the row holds; drop it, or cut it'
            ),
            error_if(
                ends_empty(line.messages),
                'the last answer is empty, so the model learns to return nothing; drop the row'
            ),
            warning_if(
                contains(roles(line.messages), ' user user '),
                'consecutive user turns: accepted by TRL, verl and NeMo RL, skipped by LLaMA-Factory; merge them'
            ),
            warning_if(
                starts_with(line.tools::VARCHAR, '"'),
                'tools are JSON text: TRL parses it, verl and NeMo RL stop with a ValueError; write a list for them'
            )
        ])
    ) AS faults
    FROM (SELECT split, row, json, from_json(json, '{"messages":' || chat() || ',"tools":"JSON"}') AS line FROM lines)
)

SELECT split, row, unnest(faults, recursive := true) FROM looked
UNION ALL
SELECT * FROM other_types('looked', ['messages', 'tools'])
