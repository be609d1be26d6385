-- NeMo Gym rows, for NeMo RL's NemoGymDataset: {"responses_create_params": {"input", "tools"?}, "agent_ref": {"type",
-- "name"}, and what the verifier reads}. The loader keeps each line as it is.
SELECT split, row, unnest(found([
    two_turns_fault(contains(
        array_to_string([
            coalesce(item->>'$.role', item->>'$.type', '?')
            FOR item IN json_extract(json, '$.responses_create_params.input[*]')
        ], ' '), 'assistant assistant'
    )),
    error_if(
        coalesce(type_of(json, 'responses_create_params'), '') <> 'OBJECT',
        'no responses_create_params: NeMo Gym answers the request with 422; write an object with input'
    ),
    error_if(
        coalesce(type_of(json, '$.responses_create_params.input'), '') NOT IN ('ARRAY', 'VARCHAR'),
        'responses_create_params.input is neither text nor a list of items: NeMo Gym answers with 422; write one '
        || 'of them'
    ),
    error_if(
        coalesce(type_of(json, '$.agent_ref.name'), '') <> 'VARCHAR',
        'no agent_ref.name: NeMo Gym cannot tell which agent runs the row, and stops with a KeyError; set agent_name'
    ),
    error_if(
        type_of(json, '$.responses_create_params.tools') <> 'ARRAY',
        'responses_create_params.tools is not a list: NeMo Gym answers with 422; write a list'
    ),
    error_if(
        len(json_extract(json, '$.responses_create_params.tools[*].function')) > 0,
        'a tool is nested under function, as in Chat Completions: NeMo Gym wants flat Responses tools and '
        || 'answers with 422'
    ),
    warning_if(
        any_holds(json_exists(json, ['response', 'reward', 'verify_output'])),
        'the row has a response or reward, as rollouts do: an answer would overwrite it; leave it out'
    )
]), recursive := true)
FROM lines
