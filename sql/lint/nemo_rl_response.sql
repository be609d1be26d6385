-- NeMo RL's ResponseDataset with math_hf_data_processor: {"input": text, "output": text, the expected answer}.
SELECT split, row, unnest(found([
    media_fault_at(json, ['$.input', '$.output']),
    error_if(
        coalesce(type_of(json, 'input'), '') <> 'VARCHAR' OR text_at(json, '$.input') = '',
        'input is empty or not text: NeMo RL puts it into a user message unchanged, and the template fails; write text'
    ),
    error_if(
        coalesce(type_of(json, 'output'), '') <> 'VARCHAR' OR text_at(json, '$.output') = '',
        'output is empty or not text, but the environment compares answers with it; write text, also for numbers'
    ),
    warning_if(
        len(other_keys(json, ['input', 'output', 'task_name'])) > 0,
        'extra keys: NeMo RL drops them silently, also tools and system prompts'
    )
]), recursive := true)
FROM lines
UNION ALL
SELECT * FROM date_texts(['input', 'output'])
