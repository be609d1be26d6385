-- NeMo RL's ResponseDataset with math_hf_data_processor: {"input": text, "output": text, the expected answer}.
SELECT split, row, unnest(found([
    error_if(
        coalesce(type_of(json, 'input'), '') <> 'VARCHAR' OR text_at(json, '$.input') = '',
        'input is not a text, or empty: NeMo RL puts it into a user message as it is, and the template fails; write text'
    ),
    error_if(
        coalesce(type_of(json, 'output'), '') <> 'VARCHAR' OR text_at(json, '$.output') = '',
        'output is not a text, or empty: it is what the environment compares answers with; write text, numbers too'
    ),
    warning_if(
        len(other_keys(json, ['input', 'output', 'task_name'])) > 0,
        'further keys: NeMo RL drops them silently, tools and system prompts too'
    )
]), recursive := true)
FROM lines
