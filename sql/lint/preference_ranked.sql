-- NeMo RL's PreferenceDataset: {"context": [...], "completions": [{"rank": 0, "completion": [...]}, {"rank": 1, ...}]}.
SELECT split, row, unnest(list_concat(
    message_faults(line.context), message_faults(line.completions[1].completion),
    message_faults(line.completions[2].completion), argument_faults(line.context),
    argument_faults(line.completions[1].completion), argument_faults(line.completions[2].completion),
    found([
        no_messages('context', line.context),
        error_if(
            len(line.completions) IS DISTINCT FROM 2,
            'completions does not have two entries: NeMo RL''s DPO and reward model stop with an AssertionError; '
            || 'write the better '
            || 'and the worse'
        ),
        error_if(
            any_holds([c.rank IS NULL FOR c IN line.completions]),
            'a completion has no rank: NeMo RL stops with a KeyError; write 0 for the better one'
        ),
        error_if(
            line.completions[1].rank = line.completions[2].rank,
            'both completions have the same rank: NeMo RL stops with a NotImplementedError; drop the row'
        ),
        error_if(
            any_holds([coalesce(len(c.completion), 0) = 0 FOR c IN line.completions]),
            'a completion is not a list of chat messages: NeMo RL fails on the row; write such a list'
        ),
        error_if(
            any_holds([c.completion[-1].role <> 'assistant' FOR c IN line.completions]),
            'a completion does not end with the assistant: NeMo RL trains on a turn that is not the model''s; drop '
            || 'the row'
        ),
        error_if(
            any_holds([ends_empty(c.completion) AND c.rank = 0 FOR c IN line.completions]),
            'the better completion is empty: the model learns to return nothing; drop the row'
        ),
        error_if(
            first = second, 'both completions are equal: the pair teaches nothing; drop the row'
        ),
        warning_if(
            len(other_keys(json, ['context', 'completions', 'task_name'])) > 0,
            'extra keys (e.g. tools): NeMo RL does not read them, so the model trains on a prompt without them'
        )
    ])
), recursive := true)
FROM (
    SELECT split, row, json, json_extract(json, '$.completions[0].completion') AS first,
        json_extract(json, '$.completions[1].completion') AS second,
        from_json(json, '{"context":' || chat() || ',"completions":[{"rank":"BIGINT","completion":' || chat() || '}]}')
            AS line
    FROM lines
)
UNION ALL
SELECT * FROM date_texts(['$.completions[0].completion[0].content', '$.completions[1].completion[0].content'])
