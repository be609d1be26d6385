-- What the linters in sql/lint/ share. A linter is one SELECT over the view `lines`:
--
--     split  VARCHAR   the part of the dataset, or the file
--     row    BIGINT    the number of the line, from 1
--     json   VARCHAR   the line: one JSON object
--
-- It returns (split, row, severity, fault): an 'error' stops a build, a 'warning' is reported. A fault is a sentence:
-- what is there, what the trainer does with it, what to do. In a DuckDB shell: make the view, read this
-- file, read a linter.

-- How chat messages are read from JSON. A key that is absent or null is NULL; content and arguments stay JSON text.
CREATE OR REPLACE MACRO chat() AS
    '[{"role":"VARCHAR","content":"JSON","reasoning_content":"JSON","tool_call_id":"VARCHAR",'
    || '"tool_calls":[{"id":"VARCHAR","function":{"name":"VARCHAR","arguments":"JSON"}}]}]';

-- A fault where `wrong` holds, else NULL; and the list of those that are faults.
CREATE OR REPLACE MACRO error_if(wrong, fault) AS CASE WHEN wrong THEN {'severity': 'error', 'fault': fault} END;
CREATE OR REPLACE MACRO warning_if(wrong, fault) AS CASE WHEN wrong THEN {'severity': 'warning', 'fault': fault} END;
CREATE OR REPLACE MACRO found(faults) AS list_filter(faults, lambda f: f IS NOT NULL);

-- Whether one of a list of conditions holds. The lambda of such a list names no column of the line: that is in memory
-- once more for each value then.
CREATE OR REPLACE MACRO any_holds(conditions) AS list_contains(conditions, true);

-- JSON that is there and not empty.
CREATE OR REPLACE MACRO filled(value) AS value IS NOT NULL AND value::VARCHAR NOT IN ('null', '""', '[]', '{}');

-- The text at a path: of a string its characters, of other JSON its text.
CREATE OR REPLACE MACRO text_at(json, path) AS json_extract_string(json, path);

-- The JSON type of a key: 'VARCHAR', 'ARRAY', 'OBJECT', 'BOOLEAN', a number's, or NULL where it is absent or null.
CREATE OR REPLACE MACRO type_of(json, key) AS nullif(json_type(json, key), 'NULL');

-- The keys of a line that are none of these.
CREATE OR REPLACE MACRO other_keys(json, known) AS
    list_filter(json_keys(json), lambda k: NOT list_contains(known, k));

-- Who speaks, in order and between blanks: ' system user assistant '.
CREATE OR REPLACE MACRO roles(messages) AS
    ' ' || array_to_string([coalesce(m.role, '?') FOR m IN messages], ' ') || ' ';

-- Whether a role is none of these.
CREATE OR REPLACE MACRO other_roles(messages, known) AS
    any_holds([NOT list_contains(known, m.role) FOR m IN messages IF m.role IS NOT NULL]);

-- Whether JSON text is a string that holds JSON: a list of tools, or calls as LLaMA-Factory reads them.
CREATE OR REPLACE MACRO is_tools_text(value) AS
    starts_with(value::VARCHAR, '"') AND coalesce(
        text_at(value, '$') = '' OR (starts_with(ltrim(text_at(value, '$')), '[') AND json_valid(text_at(value, '$'))),
        false
    );
CREATE OR REPLACE MACRO call_text(value) AS regexp_replace(text_at(value, '$'), '(?s)<think>.*</think>', '');
CREATE OR REPLACE MACRO is_call_text(value) AS coalesce(
    json_valid(call_text(value))
    AND contains(text_at(value, '$'), '"name"') AND contains(text_at(value, '$'), '"arguments"'), false
);

-- A message with content or a tool call; reasoning alone is neither.
CREATE OR REPLACE MACRO says_something(message) AS
    filled(message.content) OR coalesce(len(message.tool_calls) > 0, false);

-- Whether the last message is an assistant's without content and tool calls.
CREATE OR REPLACE MACRO ends_empty(messages) AS
    messages[-1].role = 'assistant' AND NOT says_something(messages[-1]);

-- Whether a message brings its reasoning in a key of its own.
CREATE OR REPLACE MACRO has_reasoning(messages) AS any_holds([filled(m.reasoning_content) FOR m IN messages]);

-- Whether the arguments of a tool call are an object, or are the text of one. Arguments that are text:
CREATE OR REPLACE MACRO is_object_text(value) AS coalesce(
    json_valid(text_at(value, '$')) AND ltrim(text_at(value, '$'), E' \t\r\n')[1] = '{', false
);
CREATE OR REPLACE MACRO object_arguments(messages) AS any_holds(
    flatten([[NOT starts_with(c.function.arguments::VARCHAR, '"') FOR c IN m.tool_calls] FOR m IN messages])
);
CREATE OR REPLACE MACRO text_arguments(messages) AS any_holds(flatten([
    [is_object_text(c.function.arguments) FOR c IN m.tool_calls
        IF starts_with(c.function.arguments::VARCHAR, '"')]
    FOR m IN messages
]));

-- Whether an object or list holds a key with null, as Arrow pads objects whose keys differ from row to row.
CREATE OR REPLACE MACRO padded(value) AS NOT starts_with(value::VARCHAR, '"') AND contains(value::VARCHAR, ':null');

-- What is wrong with the media of a line, and with the marks in its text: a list, or NULL where it has neither.
-- text: all that is said, as JSON text. trainer: what the loader does with such a row.
CREATE OR REPLACE MACRO media_faults(json, text, trainer) AS
    CASE WHEN regexp_matches(text, '<(image|video|audio)>')
        OR json_exists(json, '$.images') OR json_exists(json, '$.videos') OR json_exists(json, '$.audios')
    THEN found([
        mark_fault('image', marks_in(text, 'image'), coalesce(json_array_length(json, '$.images'), 0), trainer),
        mark_fault('video', marks_in(text, 'video'), coalesce(json_array_length(json, '$.videos'), 0), trainer),
        mark_fault('audio', marks_in(text, 'audio'), coalesce(json_array_length(json, '$.audios'), 0), trainer)
    ]) END;
CREATE OR REPLACE MACRO marks_in(text, kind) AS
    (length(text) - length(replace(text, '<' || kind || '>', ''))) // (length(kind) + 2);
CREATE OR REPLACE MACRO mark_fault(kind, marks, media, trainer) AS CASE
    WHEN marks = media THEN NULL
    WHEN media = 0 THEN {
        'severity': 'warning',
        'fault': 'a text has the mark <' || kind || '> and the row has no ' || kind || 's: a multimodal template takes '
            || 'it for one; write it in another way'
    }
    ELSE {
        'severity': 'error',
        'fault': 'the texts have not as many marks <' || kind || '> as the row has ' || kind || 's: ' || trainer
            || '; write one mark for each'
    }
END;

-- The fault of a row whose messages have not one part {"type": "image"} for each picture in `images`. TRL leaves out the
-- answers of tools when it counts and fills them.
CREATE OR REPLACE MACRO image_fault(json, messages) AS error_if(
    len(list_filter(
        flatten([
            json_extract(m.content, '$[*]') FOR m IN messages IF m.role <> 'tool' AND starts_with(m.content::VARCHAR, '[')
        ]),
        lambda p: p->>'$.type' = 'image' AND NOT json_exists(p, '$.image')
    )) <> coalesce(json_array_length(json, '$.images'), 0),
    'the messages have not as many parts of type image as the row has images: the template stops with an error, or '
    || 'puts them elsewhere; write one part for each'
);

-- A list of messages that is none.
CREATE OR REPLACE MACRO no_messages(key, messages) AS error_if(
    coalesce(len(messages), 0) = 0,
    key || ' is not a list of chat messages: the loader fails on the row; write such a list'
);

-- Whether all messages are what most are, text that someone says: no tool is called and none answers. Then nothing of
-- message_faults and argument_faults holds, and lines that are many need not be asked for each of them.
CREATE OR REPLACE MACRO plain(messages) AS NOT any_holds([
    m.role IS NULL OR m.role IN ('tool', 'developer') OR m.content IS NULL OR m.tool_calls IS NOT NULL
    OR starts_with(m.content::VARCHAR, '[') FOR m IN messages
]);

-- A content with parts that are not text, nor of the types that the format has a place for.
CREATE OR REPLACE MACRO media_fault(contents, media) AS error_if(
    any_holds([
        NOT list_has_all(['text', 'thinking'] || media::VARCHAR[], json_extract_string(content, '$[*].type'))
        FOR content IN contents IF json_type(content) = 'ARRAY'
    ]),
    'an image, audio, video or file part: this format has no place for it, and the model would learn to answer what it '
    || 'does not see; drop the row'
);

-- The same of the values at paths of a line, which are read only where one is a list.
CREATE OR REPLACE MACRO media_fault_at(json, paths) AS
    CASE WHEN list_contains(json_type(json, paths), 'ARRAY') THEN media_fault(json_extract(json, paths), []) END;

-- The type of pictures, where all are URLs or data; a provider cannot open the path of a file.
CREATE OR REPLACE MACRO linked_pictures(messages) AS CASE WHEN any_holds(flatten([
    [NOT regexp_matches(url, '^(https?://|data:)', 'i') FOR url IN json_extract_string(m.content, '$[*].image_url.url')]
    FOR m IN messages
])) THEN [] ELSE ['image_url'] END;

-- The role that endpoints know and training does not.
CREATE OR REPLACE MACRO developer_fault(messages) AS error_if(
    any_holds([m.role = 'developer' FOR m IN messages]),
    'role developer: chat templates and loaders leave the message out, skip the row or stop; use role system'
);

-- The fault of a tool call whose arguments are no object, nor the text of one; and of calls that are texts themselves.
CREATE OR REPLACE MACRO no_object_fault(wrong) AS warning_if(
    wrong,
    'the arguments of a tool call are not JSON of an object: templates that parse them fail, others train the mistake; '
    || 'drop the row'
);
CREATE OR REPLACE MACRO call_text_fault(calls) AS no_object_fault(any_holds(flatten([
    [json_type(a) <> 'OBJECT' FOR a IN list_concat(
        json_extract(call_text(call), '$[*].arguments'), [json_extract(call_text(call), '$.arguments')]
    ) IF a IS NOT NULL]
    FOR call IN calls IF is_call_text(call)
])));

-- The fault of an answer that is two messages, where no tool was called between them.
CREATE OR REPLACE MACRO two_turns_fault(wrong) AS warning_if(
    wrong,
    'two assistant turns in a row: the templates of Mistral and Gemma fail on them, others train the end of a turn '
    || 'in the middle of an answer; merge them'
);

-- The faults of a part of a line are a list, or NULL where there cannot be any; a linter puts them together with
-- list_concat, which takes NULL for an empty list, as || does not.

-- What all trainers that take chat messages make wrong of them. media: the types of content parts that are no text and
-- have a place in the format.
CREATE OR REPLACE MACRO message_faults(messages, media := []) AS list_concat(found([
    two_turns_fault(contains(roles(messages), ' assistant assistant ') AND any_holds([
        coalesce(pair[1].role = 'assistant' AND pair[2].role = 'assistant' AND pair[1].tool_calls IS NULL, false)
        FOR pair IN list_zip(messages[:-2], messages[2:])
    ]))
]), CASE WHEN NOT plain(messages) THEN found([
    media_fault([m.content FOR m IN messages], media),
    developer_fault(messages),
    error_if(
        any_holds([m.role IS NULL FOR m IN messages]),
        'a message has no role: every chat template fails on it; give it one'
    ),
    error_if(
        any_holds([m.content IS NULL AND m.tool_calls IS NULL FOR m IN messages]),
        'a message has null content and no tool call: TRL and verl train an empty turn, others reject it; write '
        || 'its text'
    ),
    error_if(
        any_holds([m.role = 'tool' AND m.tool_call_id IS NULL FOR m IN messages]),
        'a tool message has no tool_call_id: templates and endpoints reject it; name the call that it answers'
    ),
    warning_if(
        NOT list_has_all(
            [m.tool_call_id FOR m IN messages],
            flatten([[c.id FOR c IN m.tool_calls IF c.id IS NOT NULL] FOR m IN messages][:-2])
        ),
        'a tool call has no answer before the conversation goes on: strict templates fail on it; drop the row'
    ),
    no_object_fault(any_holds(flatten([
        [NOT is_object_text(c.function.arguments) FOR c IN m.tool_calls
            IF starts_with(c.function.arguments::VARCHAR, '"')]
        FOR m IN messages
    ]))),
    warning_if(
        any_holds(flatten([[padded(c.function.arguments) FOR c IN m.tool_calls] FOR m IN messages])),
        'the arguments of a tool call hold nulls, as Arrow pads them from other rows: they are trained; leave them out'
    )
]) END);

-- What trainers make wrong of a prompt that is to be answered, text or messages. kind: its JSON type.
CREATE OR REPLACE MACRO prompt_faults(kind, messages) AS found([
    error_if(
        coalesce(kind, '') NOT IN ('ARRAY', 'VARCHAR'),
        'prompt is neither text nor a list of messages: every loader fails on the row; write one of them'
    ),
    error_if(
        kind = 'ARRAY' AND coalesce(len(messages), 0) = 0,
        'prompt is empty: there is nothing to answer; drop the row'
    )
]);

-- has_object_calls(): whether a tool call of any line has arguments that are an object.
CREATE OR REPLACE MACRO has_object_calls() AS (
    SELECT coalesce(bool_or(regexp_matches(json, '"name"\s*:\s*"[^"]*"\s*,\s*"arguments"\s*:\s*\{')), false)
    FROM lines WHERE contains(json, '"tool_calls"')
);

-- What loaders and chat templates make wrong of arguments that are text, as endpoints send them.
CREATE OR REPLACE MACRO argument_faults(messages) AS CASE WHEN NOT plain(messages) THEN found([
    warning_if(
        text_arguments(messages),
        'the arguments of a tool call are text: the chat templates of Qwen2.5, Llama 3 and gpt-oss quote it once more, '
        || 'which is trained, those of Qwen3.5, GLM and Nemotron fail on it; write an object, as builds do by default'
    ),
    error_if(
        any_holds(flatten([[starts_with(c.function.arguments::VARCHAR, '"') FOR c IN m.tool_calls] FOR m IN messages]))
        AND has_object_calls(),
        'the arguments of a tool call are text, beside others that are objects: pyarrow and datasets before 4.7 refuse '
        || 'the file, and templates that read objects fail on the row; write an object, or drop the row'
    )
]) END;

-- What trainers make wrong of tools, which are a list of JSON schemas or the JSON text of one.
CREATE OR REPLACE MACRO tool_faults(tools) AS CASE WHEN tools IS NOT NULL THEN found([
    error_if(
        left(tools::VARCHAR, 1) NOT IN ('[', '"'),
        'tools is neither a list nor JSON text of one: every loader fails on the row; write a list'
    ),
    error_if(
        starts_with(tools::VARCHAR, '"') AND NOT is_tools_text(tools),
        'tools is text that is not a JSON list: every loader fails on the row; write a list'
    ),
    warning_if(
        padded(tools),
        'tools hold nulls, as Arrow pads them from other rows: templates show them to the model; leave them out'
    )
]) END;

-- What trainers make wrong of a pair, where both answers follow the same prompt.
CREATE OR REPLACE MACRO pair_faults(chosen, rejected) AS found([
    error_if(
        chosen::VARCHAR = rejected::VARCHAR,
        'chosen equals rejected: ms-swift rejects it, others train on a pair that says nothing; drop the row'
    ),
    error_if(
        NOT filled(chosen), 'chosen is empty: the model learns to return nothing; drop the row'
    ),
    error_if(rejected IS NULL OR rejected::VARCHAR = 'null', 'rejected is missing: every loader fails on the row')
]);

-- list_type(list, json, key): the JSON type of a key that was read as a list. Only where there is none it is asked for.
CREATE OR REPLACE MACRO list_type(list, json, key) AS CASE WHEN len(list) > 0 THEN 'ARRAY' ELSE json_type(json, key) END;

-- other_types(typed, columns): the rows whose columns have another type than in most rows, as a text where the others
-- have a list. typed: the name of a query with split, row and types, a JSON type for each of the columns.
CREATE OR REPLACE MACRO other_types(typed, columns) AS TABLE
WITH grouped AS (SELECT types, count(*) AS total FROM query_table(typed) GROUP BY types),
cells AS (
    SELECT key, types, total, CASE
        WHEN t IN ('UBIGINT', 'BIGINT', 'DOUBLE', 'HUGEINT', 'UHUGEINT') THEN 'a number'
        WHEN t = 'VARCHAR' THEN 'text' WHEN t = 'ARRAY' THEN 'a list' WHEN t = 'OBJECT' THEN 'an object'
        WHEN t = 'BOOLEAN' THEN 'true or false'
    END AS type
    FROM (SELECT unnest(columns) AS key, unnest(types) AS t, types, total FROM grouped)
),
usual AS (
    SELECT key, list(type ORDER BY total DESC, type)[1] AS type
    FROM (SELECT key, type, sum(total) AS total FROM cells WHERE type IS NOT NULL GROUP BY key, type)
    GROUP BY key HAVING count(*) > 1
),
odd AS (
    SELECT c.types, c.key || ' is ' || c.type || ' here and ' || u.type
        || ' in most rows: Parquet and datasets before 4.7 refuse the file, TRL takes one form for all; write one form'
        AS fault
    FROM cells AS c JOIN usual AS u ON u.key = c.key AND u.type <> c.type
)
SELECT t.split, t.row, 'error' AS severity, o.fault FROM query_table(typed) AS t JOIN odd AS o ON o.types = t.types;

-- mixed_types(columns): the same, of all lines.
CREATE OR REPLACE MACRO mixed_types(columns) AS TABLE
WITH typed AS (SELECT split, row, json_type(json, columns) AS types FROM lines)
FROM other_types('typed', columns);

-- is_date(text): whether Arrow's JSON reader takes a text for a timestamp: a day that exists, with or without a time.
CREATE OR REPLACE MACRO is_date(text) AS coalesce(
    regexp_full_match(text, '\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?')
    AND TRY_CAST(text[:10] AS DATE) IS NOT NULL, false
);

-- date_texts(columns): the rows of a split whose texts of a column are all dates. Parquet has types, so nothing is guessed
-- there; file_format says which it is, JSON lines where it is not set. Lines are read whole only where the first are such.
CREATE OR REPLACE MACRO date_texts(columns) AS TABLE
WITH texts AS (
    SELECT split, row, unnest(columns) AS key, unnest(json_extract_string(json, columns)) AS text FROM lines
    WHERE coalesce(getvariable('file_format'), 'jsonl') = 'jsonl' AND (
        SELECT list_contains(flatten(list([is_date(text) FOR text IN first])), true)
        FROM (SELECT json_extract_string(json, columns) AS first FROM lines LIMIT 100)
    )
)

SELECT split, unnest(list(row)) AS row, 'error' AS severity,
    ltrim(key, '$.') || ' is a date in every row: pyarrow and datasets read such texts of JSON lines as timestamps, and '
    || '2024-05-01 becomes 2024-05-01 00:00:00; set format = "parquet"' AS fault
FROM texts WHERE text IS NOT NULL GROUP BY split, key HAVING bool_and(is_date(text));
