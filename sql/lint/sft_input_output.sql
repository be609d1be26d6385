-- NeMo RL's ResponseDataset and OpenRLHF with input_key and output_key: {"input": text, "output": text}.
SELECT split, row, unnest(found([
    media_fault_at(json, ['$.input', '$.output']),
    error_if(
        type_of(json, 'input') IS DISTINCT FROM 'VARCHAR',
        'input is not a text: NeMo RL puts it into a user message as it is, and the template fails; write text'
    ),
    error_if(
        type_of(json, 'output') IS DISTINCT FROM 'VARCHAR',
        'output is not a text: NeMo RL puts it into the assistant''s message as it is, and the template fails; '
        || 'write text'
    ),
    error_if(text_at(json, '$.output') = '', 'output is empty: the model learns to return nothing; drop the row'),
    warning_if(
        text_at(json, '$.input') = '',
        'input is empty: the model is trained to answer an empty prompt; drop the row'
    ),
    warning_if(
        len(other_keys(json, ['input', 'output', 'messages'])) > 0,
        'extra keys: NeMo RL drops them silently, also tools and system prompts'
    )
]), recursive := true)
FROM lines
UNION ALL
SELECT * FROM date_texts(['input', 'output'])
