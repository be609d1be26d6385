-- Prompts that TRL's GRPO and RLOO, verl and SkyRL share: {"data_source", "prompt", "ability", "answer"?,
-- "reward_model"?, "extra_info", "tools"?}. TRL passes further columns to the reward functions, one list for each.
SELECT split, row, unnest(list_concat(
    prompt_faults(prompt, line.prompt), message_faults(line.prompt), argument_faults(line.prompt),
    tool_faults(line.tools),
    found([
        error_if(
            line.prompt[-1].role = 'assistant',
            'the prompt ends with the assistant: the rollouts would continue its answer, or begin with it; cut the '
            || 'last turn'
        ),
        error_if(
            list_has_any(json_keys(json), ['completions', 'completion_ids', 'trainer_state']),
            'a column has the name of an argument of TRL''s reward functions: they fail with a TypeError; rename it'
        ),
        warning_if(
            line.answer IS NULL AND line.reward_model.ground_truth IS NULL,
            'no answer and no reward_model.ground_truth: a rule-based verifier cannot score rollouts; use one that '
            || 'needs no answer'
        ),
        warning_if(
            line.data_source IS NULL,
            'no data_source: TRL needs none, but verl''s reward manager stops with a KeyError in the first step; '
            || 'write it'
        )
    ])
), recursive := true)
FROM (
    SELECT split, row, json, type_of(json, 'prompt') AS prompt,
        from_json(json, '{"prompt":' || chat() || ',"tools":"JSON","answer":"JSON","data_source":"JSON",'
            || '"reward_model":{"ground_truth":"JSON"}}') AS line
    FROM lines
)
UNION ALL
SELECT * FROM mixed_types(['prompt', 'answer', 'data_source', 'reward_model', 'extra_info', 'tools'])
UNION ALL
SELECT * FROM date_texts(['answer', '$.reward_model.ground_truth'])
