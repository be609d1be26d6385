-- Macros that steps share. `rolloutops sql --print` writes them out before the views.

-- unit(key, seed): a number in [0, 1) that looks random and is the same everywhere: 60 bits of md5.
-- In Python: int(md5(f"{key}:{seed}".encode()).hexdigest()[:15], 16) / 16**15
CREATE OR REPLACE MACRO unit(key, seed) AS
    ('0x' || md5(key || ':' || seed)[1:15])::BIGINT / 1152921504606846976.0;

-- is_cut_off(reason): whether a rollout was truncated, or may have been: by any finish_reason but that of a model that
-- had its say. A reason that is not known is kept as it was received, and is one of them; where none is known, null.
CREATE OR REPLACE MACRO is_cut_off(reason) AS reason NOT IN ('stop', 'tool_calls');

-- content_text(content): a message's content as text: itself, or its text parts, one a line.
CREATE OR REPLACE MACRO content_text(content) AS
    CASE json_type(content)
        WHEN 'VARCHAR' THEN content->>'$'
        WHEN 'ARRAY' THEN array_to_string(content->>'$[*].text', chr(10))
    END;

-- asked_text(prompt): what the user's messages say, not the system's, which many prompts share.
CREATE OR REPLACE MACRO asked_text(prompt) AS
    array_to_string(list_transform(
        list_filter(from_json(prompt, '[{"role":"VARCHAR","content":"JSON"}]'), lambda m: m.role = 'user'),
        lambda m: content_text(m.content)
    ), chr(10));

-- written_text(completion): what the model wrote: reasoning and text of each of its messages, as paragraphs.
CREATE OR REPLACE MACRO written_text(completion) AS
    array_to_string(list_transform(
        list_filter(
            from_json(completion, '[{"role":"VARCHAR","reasoning_content":"VARCHAR","content":"JSON"}]'),
            lambda m: m.role = 'assistant'
        ),
        lambda m: concat_ws(chr(10) || chr(10), m.reasoning_content, content_text(m.content))
    ), chr(10) || chr(10));

-- rows_of(files): the rows of JSONL, JSON, Parquet, CSV and TSV files or globs, each as JSON, with the name of its file.
-- Each file is read by the function for the ending of its name; paths are those of the working directory. Lines of JSONL
-- come from read_csv, as one column: read_ndjson_objects takes twice the longest line that it allows, for each thread.
CREATE OR REPLACE MACRO rows_of(files) AS TABLE
FROM query(array_to_string([
    'SELECT filename, ' || replace(CASE
        WHEN ends_with(file, '.parquet') THEN 'to_json(r) AS json FROM read_parquet(%) AS r'
        WHEN regexp_matches(file, '\.[ct]sv(\.gz|\.zst)?$')
            THEN 'to_json(r) AS json FROM read_csv(%, max_line_size = 268435456, buffer_size = 268435457) AS r'
        WHEN regexp_matches(file, '\.json(\.gz|\.zst)?$')
            THEN 'json FROM read_json_objects(%, maximum_object_size = 268435456)'
        ELSE 'CASE WHEN json_valid(line) THEN line::JSON ELSE error(filename || '': not JSON: '' || line[:80]) END AS json
            FROM read_csv(%, columns = {line: ''VARCHAR''}, auto_detect = false, header = false, delim = '''',
                quote = '''', escape = '''', strict_mode = false, max_line_size = 268435456, buffer_size = 268435457)
            WHERE trim(line) <> '''''
    END, '%', '''' || replace(file, '''', '''''') || ''', filename = true')
    FOR file IN files
], ' UNION ALL '));

-- spaced_words(text): the lower-cased words between white space, punctuation and all; none of an empty text.
CREATE OR REPLACE MACRO spaced_words(text) AS
    list_filter(regexp_split_to_array(lower(text), '\s+'), lambda word: word <> '');

-- word_grams(words, n): each n words in a row, joined by spaces; of fewer words none. One word is added at a time: a
-- slice for each place would copy all the words as often, which is the square of a long prompt.
CREATE OR REPLACE MACRO word_grams(words, n) AS
    coalesce(list_reduce(
        list_transform(range(1, greatest(n, 1) + 1), lambda skipped: words[skipped:]),
        lambda grams, next_words: list_transform(
            list_zip(grams, next_words, true), lambda pair: pair[1] || ' ' || pair[2]
        )
    ), []);

-- repeated_places(grams): of {gram, place} in sorted order, the places of those that occurred at an earlier place.
CREATE OR REPLACE MACRO repeated_places(grams) AS
    list_transform(
        list_filter(list_zip(grams[2:], grams[:-2]), lambda pair: pair[1].gram = pair[2].gram),
        lambda pair: pair[1].place
    );

-- covered_share(words, places, n, size): the share of `size` characters whose words are among n from one of the places.
CREATE OR REPLACE MACRO covered_share(words, places, n, size) AS
    coalesce(list_sum(list_select(
        list_transform(words, lambda word: length(word) + 1),
        list_distinct(flatten(list_transform(places, lambda place: range(place, place + n))))
    )), 0) / size;

-- Conversations, as builds write them. All of these return JSON text, but for `spoken`, a list of messages.

-- messages_of(conversation), spoken(prompt, completion): the messages of one or of both, as a list.
CREATE OR REPLACE MACRO messages_of(conversation) AS coalesce(json_extract(conversation, '$[*]'), []);
CREATE OR REPLACE MACRO spoken(prompt, completion) AS messages_of(prompt) || messages_of(completion);

-- joined(prompt, completion): the whole conversation, as JSON text. Only one bracket of each list goes.
CREATE OR REPLACE MACRO joined(prompt, completion) AS
    CASE '[]'
        WHEN prompt::VARCHAR THEN completion::VARCHAR
        WHEN completion::VARCHAR THEN prompt::VARCHAR
        ELSE concat(
            substring(prompt::VARCHAR, 1, length(prompt::VARCHAR) - 1), ',', substring(completion::VARCHAR, 2)
        )
    END;

-- continues(prompt, completion): whether an answer continues a prefill, the assistant's message that the prompt ends
-- with.
CREATE OR REPLACE MACRO continues(prompt, completion) AS
    contains(prompt::VARCHAR, '"assistant"') AND json_extract_string(prompt, '$[#-1].role') = 'assistant'
    AND NOT json_exists(prompt, '$[#-1].tool_calls') AND json_extract_string(completion, '$[0].role') = 'assistant';

-- whole_content(prompt, completion): the content of a prefill and of the answer that continues it, as JSON. What an
-- answer repeats, as Mistral's does, is there once. Where one of them is a list of parts, so are both.
CREATE OR REPLACE MACRO whole_content(prompt, completion) AS
    CASE
        WHEN json_type(prompt, '$[#-1].content') = 'VARCHAR' AND json_type(completion, '$[0].content') = 'VARCHAR'
            THEN to_json(regexp_replace(
                json_extract_string(completion, '$[0].content'),
                '^(' || regexp_escape(json_extract_string(prompt, '$[#-1].content')) || ')?',
                replace(json_extract_string(prompt, '$[#-1].content'), '\', '\\')
            ))
        ELSE to_json(list_transform(
            [json_extract(prompt, '$[#-1].content'), json_extract(completion, '$[0].content')],
            lambda c: if(json_type(c) = 'ARRAY', json_extract(c, '$[*]'), [json_object('type', 'text', 'text', c)])
        ).flatten())
    END;

-- without_prefill(prompt, completion), with_prefill(prompt, completion), text_with_prefill(prompt, completion, text): a
-- prompt, an answer and the last text of a rollout, where the prefill that the answer continues is part of the answer.
CREATE OR REPLACE MACRO without_prefill(prompt, completion) AS
    if(continues(prompt, completion), to_json(json_extract(prompt, '$[*]')[:-2]), prompt);
CREATE OR REPLACE MACRO with_prefill(prompt, completion) AS
    CASE WHEN continues(prompt, completion) THEN to_json([
        json_merge_patch(json_extract(completion, '$[0]'), json_object(
            'content', whole_content(prompt, completion),
            'reasoning_content', nullif(concat_ws(chr(10) || chr(10),
                json_extract_string(prompt, '$[#-1].reasoning_content'),
                json_extract_string(completion, '$[0].reasoning_content')
            ), '')
        ))
    ] || json_extract(completion, '$[*]')[2:]) ELSE completion END;
CREATE OR REPLACE MACRO text_with_prefill(prompt, completion, text) AS
    CASE WHEN continues(prompt, completion) AND json_array_length(completion) = 1
        THEN content_text(whole_content(prompt, completion)) ELSE text END;

-- has_media(messages): whether a message holds something that is not text.
CREATE OR REPLACE MACRO has_media(messages) AS
    list_contains([json_type(m, '$.content') = 'ARRAY' FOR m IN messages], true);

-- media_kind(part): image, video or audio; NULL for a part of text, and for one that trainers have no column for.
CREATE OR REPLACE MACRO media_kind(part) AS
    CASE WHEN json_exists(part, '$.' || (part->>'$.type') || '.url') THEN nullif(
        regexp_extract(part->>'$.type', '^(image|video|audio)_url$', 1), ''
    ) END;

-- media_of(messages, kind): what the messages say of their media of a kind, in order: a list of paths and URLs.
CREATE OR REPLACE MACRO media_of(messages, kind) AS flatten([
    [p->>('$.' || kind || '_url.url') FOR p IN json_extract(m, '$.content[*]') IF media_kind(p) = kind]
    FOR m IN messages IF json_type(m, '$.content') = 'ARRAY'
]);

-- has_mark(text): whether a text holds what looks like a mark.
CREATE OR REPLACE MACRO has_mark(text) AS regexp_matches(text, '<(image|video|audio)>');

-- fits_marks(messages): whether a mark in the text, <image>, can stand for each part that is not text. What the system
-- says first stands apart from the other texts, in which marks are counted.
CREATE OR REPLACE MACRO fits_marks(messages) AS
    NOT has_media(messages) OR (
        coalesce(json_type(messages[1], '$.content') <> 'ARRAY' OR role_of(messages[1]) <> 'system', true)
        AND NOT list_contains(flatten([
            [media_kind(p) IS NULL AND (p->>'$.type' <> 'text' OR has_mark(p->>'$.text'))
                FOR p IN json_extract(m, '$.content[*]')]
            FOR m IN messages IF json_type(m, '$.content') = 'ARRAY'
        ]), true)
        AND NOT list_contains([
            has_mark(m->>'$.content') FOR m IN messages IF json_type(m, '$.content') = 'VARCHAR'
        ], true)
    );

-- has_only_files(messages): whether all media are paths, and none is a URL.
CREATE OR REPLACE MACRO has_only_files(messages) AS NOT has_media(messages) OR len(list_filter(
    media_of(messages, 'image') || media_of(messages, 'video') || media_of(messages, 'audio'),
    lambda place: regexp_matches(place, '^\s*(https?://|data:)', 'i')
)) = 0;

-- fits_files(messages): both, as in LLaMA-Factory's columns.
CREATE OR REPLACE MACRO fits_files(messages) AS fits_marks(messages) AND has_only_files(messages);

-- marked(messages): the messages with a mark in place of each medium, so that all contents are text.
CREATE OR REPLACE MACRO marked(messages) AS [
    CASE WHEN json_type(m, '$.content') = 'ARRAY'
        THEN json_merge_patch(m, json_object('content', array_to_string([
            coalesce('<' || media_kind(p) || '>', p->>'$.text', '') FOR p IN json_extract(m, '$.content[*]')
        ], '')))
        ELSE m END
    FOR m IN messages
];

-- marked_text(conversation): the same of a conversation as JSON, which stays as it is where it has no media.
CREATE OR REPLACE MACRO marked_text(conversation) AS CASE
    WHEN has_media(messages_of(conversation))
        THEN ('[' || array_to_string(marked(messages_of(conversation)), ',') || ']')::JSON
    ELSE conversation
END;

-- parted_text(conversation): the conversation as JSON, each content being a list of parts, as those with media are.
CREATE OR REPLACE MACRO parted_text(conversation) AS ('[' || array_to_string([
    CASE WHEN json_type(m, '$.content') = 'VARCHAR' THEN json_merge_patch(
        m, json_object('content', [json_object('type', 'text', 'text', json_extract(m, '$.content'))])
    ) ELSE m END
    FOR m IN messages_of(conversation)
], ',') || ']')::JSON;

-- media_columns(messages): `,"images":[...],"videos":[...],"audios":[...]`, without those that are empty.
CREATE OR REPLACE MACRO media_columns(messages) AS CASE WHEN has_media(messages) THEN concat(
    ',"images":' || to_json(nullif(media_of(messages, 'image'), [])),
    ',"videos":' || to_json(nullif(media_of(messages, 'video'), [])),
    ',"audios":' || to_json(nullif(media_of(messages, 'audio'), []))
) ELSE '' END;

-- has_parts(prompt, completion): whether a content is a list of parts.
CREATE OR REPLACE MACRO has_parts(prompt, completion) AS
    contains(prompt::VARCHAR, '"content":[') OR contains(completion::VARCHAR, '"content":[');

-- shows_media(prompt, completion): whether a message of either holds something that is not text. Messages are taken apart
-- only where one may.
CREATE OR REPLACE MACRO shows_media(prompt, completion) AS
    CASE WHEN has_parts(prompt, completion) THEN has_media(spoken(prompt, completion)) ELSE false END;

-- imaged(conversation): the conversation as JSON text, a picture in it being the part {"type": "image"}; images_of:
-- `,"images":[...]`, or nothing.
-- That is TRL's form. fits_images: whether there is nothing but text and pictures, and no picture in a tool's answer, where
-- TRL looks for none.
CREATE OR REPLACE MACRO imaged(conversation) AS CASE
    WHEN contains(conversation::VARCHAR, '"content":[') THEN '[' || array_to_string([
        CASE WHEN json_type(m, '$.content') = 'ARRAY' THEN json_merge_patch(m, json_object('content', [
            CASE WHEN media_kind(p) = 'image' THEN '{"type":"image"}'::JSON ELSE p END
            FOR p IN json_extract(m, '$.content[*]')
        ])) ELSE m END
        FOR m IN messages_of(conversation)
    ], ',') || ']'
    ELSE conversation::VARCHAR
END;
CREATE OR REPLACE MACRO images_of(prompt, completion) AS CASE WHEN has_parts(prompt, completion)
    THEN coalesce(',"images":' || to_json(nullif(media_of(spoken(prompt, completion), 'image'), [])), '')
    ELSE '' END;
CREATE OR REPLACE MACRO fits_images(prompt, completion) AS CASE
    WHEN has_parts(prompt, completion) THEN NOT list_contains(flatten([
        [p->>'$.type' <> 'text' AND (role_of(m) = 'tool' OR media_kind(p) IS DISTINCT FROM 'image')
            FOR p IN json_extract(m, '$.content[*]')]
        FOR m IN spoken(prompt, completion) IF json_type(m, '$.content') = 'ARRAY'
    ]), true)
    ELSE true -- with OR the list would be made of each row
END;

-- media_line(), refused_media(lines, key): what a build writes in place of a conversation with media that its format has
-- no place for, and of its lines, named as text, those that are such. key: what drops them. The words are those of the
-- linters' media_fault.
CREATE OR REPLACE MACRO media_line() AS '{"media":true}';
CREATE OR REPLACE MACRO refused_media(lines, key) AS TABLE
SELECT sort_key AS row, 'an image, audio, video or file part: this format has no place for it, and the model would learn to '
    || 'answer what it does not see; drop the row: set ' || key || ' = true' AS fault
FROM query_table(lines) WHERE json = media_line();

-- calls_tools(conversation): whether a message holds tool calls.
CREATE OR REPLACE MACRO calls_tools(conversation) AS len(json_extract(conversation, '$[*].tool_calls')) > 0;

-- think_tags(message): its reasoning in <think> tags and an empty line, or nothing. Text, not JSON.
CREATE OR REPLACE MACRO think_tags(message) AS coalesce(
    '<think>' || chr(10) || json_extract_string(message, '$.reasoning_content') || chr(10) || '</think>'
    || chr(10) || chr(10), ''
);

-- arguments_of(call): the object that the text of a call's arguments holds, digit for digit, that of no text being
-- empty; other text stays a string.
CREATE OR REPLACE MACRO arguments_of(call) AS
    CASE
        WHEN json_extract_string(call, '$.function.arguments') = '' THEN '{}'
        WHEN json_valid(json_extract_string(call, '$.function.arguments'))
            AND ltrim(json_extract_string(call, '$.function.arguments'), E' \t\r\n')[1] = '{'
            THEN translate(json_extract_string(call, '$.function.arguments'), E'\r\n', '  ')
        ELSE json_extract(call, '$.function.arguments')::VARCHAR
    END;

-- plain_call(call): {"name", "arguments": object}.
CREATE OR REPLACE MACRO plain_call(call) AS
    '{"name":' || json_extract(call, '$.function.name') || ',"arguments":' || arguments_of(call) || '}';

-- chat_content(message, reasoning): a message's content. reasoning: 'think' (put before it, in <think> tags), 'part'
-- (every content is a list of parts, reasoning being the first), or anything else (left out).
CREATE OR REPLACE MACRO chat_content(message, reasoning) AS
    CASE
        WHEN reasoning <> 'part' AND (reasoning <> 'think' OR NOT json_exists(message, '$.reasoning_content'))
            THEN json_extract(message, '$.content')::VARCHAR
        WHEN reasoning = 'think' AND json_type(message, '$.content') = 'VARCHAR'
            THEN to_json(think_tags(message) || json_extract_string(message, '$.content'))::VARCHAR
        ELSE '[' || CASE
            WHEN reasoning = 'think' THEN '{"type":"text","text":' || to_json(think_tags(message)) || '},'
            ELSE coalesce('{"type":"thinking","thinking":' || json_extract(message, '$.reasoning_content') || '},', '')
        END || CASE json_type(message, '$.content')
            WHEN 'ARRAY' THEN (json_extract(message, '$.content')::VARCHAR)[2:]
            ELSE '{"type":"text","text":' || json_extract(message, '$.content') || '}]'
        END
    END;

-- chat_message(message, role, arguments, reasoning): a message anew. arguments: 'text' or 'object'. reasoning: 'key'
-- (reasoning_content), 'think' (in the content, in <think> tags), 'part' (a content part) or 'drop'.
CREATE OR REPLACE MACRO chat_message(message, role, arguments, reasoning) AS
    '{"role":' || to_json(role) || ',"content":' || chat_content(message, reasoning)
    || CASE
        WHEN reasoning = 'key'
            THEN coalesce(',"reasoning_content":' || json_extract(message, '$.reasoning_content'), '')
        ELSE ''
    END
    || coalesce(',"tool_calls":' || CASE
        WHEN arguments = 'text' THEN json_extract(message, '$.tool_calls')::VARCHAR
        WHEN json_array_length(message, '$.tool_calls') > 0 THEN '[' || array_to_string([
            '{"id":' || json_extract(c, '$.id') || ',"type":"function","function":' || plain_call(c) || '}'
            FOR c IN json_extract(message, '$.tool_calls[*]')
        ], ',') || ']'
    END, '')
    || coalesce(',"tool_call_id":' || json_extract(message, '$.tool_call_id'), '')
    || coalesce(',"name":' || json_extract(message, '$.name'), '') || '}';

-- chat_text(conversation, arguments, reasoning): its messages as JSON text, made as chat_message makes them, with the
-- developer being the system. What needs no change stays as it was, every key and number.
CREATE OR REPLACE MACRO chat_text(conversation, arguments, reasoning) AS
    CASE
        WHEN reasoning = 'key' AND (arguments = 'text' OR NOT contains(conversation::VARCHAR, '"tool_calls"'))
            AND NOT contains(conversation::VARCHAR, '"developer"')
            THEN conversation::VARCHAR
        ELSE '[' || array_to_string([
            chat_message(m, role_of(m), arguments, reasoning) FOR m IN messages_of(conversation)
        ], ',') || ']'
    END;

-- role_of(message): its role, with the developer being the system, as trainers know no other.
CREATE OR REPLACE MACRO role_of(message) AS
    replace(json_extract_string(message, '$.role'), 'developer', 'system');

-- sharegpt_turns(messages): LLaMA-Factory's turns, without the system's. Reasoning is in <think> tags; the answers of
-- several tools in a row are one turn, joined as LLaMA-Factory joins them.
CREATE OR REPLACE MACRO sharegpt_turns(messages) AS
    replace(replace(array_to_string([
        CASE
            WHEN role_of(m) = 'tool'
                THEN '{"from":"observation","value":' || to_json(content_text(json_extract(m, '$.content'))) || ',"of":"tool"}'
            WHEN role_of(m) = 'assistant' AND json_exists(m, '$.tool_calls')
                THEN '{"from":"function_call","value":' || to_json(think_tags(m) || sharegpt_calls(m)) || '}'
            WHEN role_of(m) = 'assistant'
                THEN '{"from":"gpt","value":' || to_json(think_tags(m) || content_text(json_extract(m, '$.content'))) || '}'
            ELSE '{"from":"human","value":' || to_json(content_text(json_extract(m, '$.content'))) || '}'
        END
        FOR m IN messages IF role_of(m) <> 'system'
    ], ','),
    '","of":"tool"},{"from":"observation","value":"', '\n</tool_response>\n<tool_response>\n'), '","of":"tool"}', '"}');

-- sharegpt_calls(message): its tool calls as LLaMA-Factory reads them: one, or a list.
CREATE OR REPLACE MACRO sharegpt_calls(message) AS
    CASE json_array_length(message, '$.tool_calls')
        WHEN 1 THEN plain_call(json_extract(message, '$.tool_calls[0]'))
        ELSE '[' || array_to_string([plain_call(c) FOR c IN json_extract(message, '$.tool_calls[*]')], ', ') || ']'
    END;

-- typed_message(message, weight): LLaMA-Factory v1's message of typed parts, of which none is empty.
CREATE OR REPLACE MACRO typed_message(message, weight) AS
    '{"role":' || to_json(role_of(message)) || ',"content":[' || concat_ws(
        ',', '{"type":"reasoning","value":' || nullif(json_extract(message, '$.reasoning_content')::VARCHAR, '""') || '}',
        '{"type":"text","value":' || to_json(nullif(content_text(json_extract(message, '$.content')), '')) || '}',
        CASE WHEN json_exists(message, '$.tool_calls') THEN array_to_string([
            '{"type":"tool_call","value":' || to_json(plain_call(c)) || '}' FOR c IN json_extract(message, '$.tool_calls[*]')
        ], ',') END
    ) || '],"loss_weight":' || weight || '}';

-- fits_sharegpt(messages): whether turns of text can hold them all: media that are files, no text beside a tool call, and the
-- system only speaks first.
CREATE OR REPLACE MACRO fits_sharegpt(messages) AS
    fits_files(messages)
    AND NOT list_contains(
        [json_exists(m, '$.tool_calls') AND content_text(json_extract(m, '$.content')) <> '' FOR m IN messages], true
    )
    AND NOT list_contains([role_of(m) = 'system' FOR m IN messages[2:]], true);

-- system_text(messages): what the system says first, or NULL.
CREATE OR REPLACE MACRO system_text(messages) AS
    CASE WHEN role_of(messages[1]) = 'system' THEN content_text(json_extract(messages[1], '$.content')) END;

-- tools_text(tools): tools as the JSON text that some loaders want, as JSON; NULL where there are none.
CREATE OR REPLACE MACRO tools_text(tools) AS to_json(nullif(tools::VARCHAR, '[]'))::VARCHAR;

-- tool_names(tools): the names of tools, as JSON text; that of a built-in one is its type.
CREATE OR REPLACE MACRO tool_names(tools) AS to_json([
    coalesce(json_extract_string(t, '$.function.name'), json_extract_string(t, '$.name'), json_extract_string(t, '$.type'))
    FOR t IN json_extract(tools, '$[*]')
])::VARCHAR;

-- uneven_places(lines): where the lists of a line have objects with different keys, or values of several types, which
-- the structs of Parquet cannot hold as they are: (sort_key, place). lines: the name of a query, as text.
CREATE OR REPLACE MACRO uneven_places(lines) AS TABLE
SELECT sort_key, place
FROM (
    SELECT l.sort_key, regexp_replace(t.fullkey, '\[\d+\]', '[]', 'g') AS place, CASE t.type
            WHEN 'OBJECT' THEN array_to_string(json_keys(t.value), chr(0)) WHEN 'UBIGINT' THEN 'BIGINT' ELSE t.type
        END AS kind
    FROM query_table(lines) AS l, json_tree(l.json) AS t
    WHERE t.type <> 'NULL'
)
GROUP BY sort_key, place
HAVING count(DISTINCT kind) > 1 OR min(kind) = '';

-- swift_messages(messages, loss): ms-swift's messages, as a list: text and each call of a turn are messages of their
-- own. loss: what the assistant's messages say of their loss.
CREATE OR REPLACE MACRO swift_messages(messages, loss) AS flatten([
    CASE
        WHEN role_of(m) = 'tool' THEN ['{"role":"tool_response","content":' || json_extract(m, '$.content') || '}']
        WHEN role_of(m) <> 'assistant' THEN [chat_message(m, role_of(m), 'text', 'drop')]
        WHEN NOT json_exists(m, '$.tool_calls')
            THEN ['{"role":"assistant","content":' || chat_content(m, 'think') || loss || '}']
        ELSE CASE
            WHEN think_tags(m) || content_text(json_extract(m, '$.content')) = '' THEN []
            ELSE ['{"role":"assistant","content":' || chat_content(m, 'think') || loss || '}']
        END || [
            '{"role":"tool_call","content":' || to_json(plain_call(c)) || loss || '}'
            FOR c IN json_extract(m, '$.tool_calls[*]')
        ]
    END
    FOR m IN messages
]);

-- is_plain_answer(completion): one message of text, without tool calls.
CREATE OR REPLACE MACRO is_plain_answer(completion) AS
    json_array_length(completion) = 1 AND json_type(completion, '$[0].content') = 'VARCHAR'
    AND NOT json_exists(completion, '$[0].tool_calls');

-- answer_text(completion): what a plain answer says, its reasoning in <think> tags, without white space around it.
CREATE OR REPLACE MACRO answer_text(completion) AS regexp_replace(
    think_tags(json_extract(completion, '$[0]')) || json_extract_string(completion, '$[0].content'), '^\s+|\s+$', '', 'g'
);

-- is_question(prompt): one message of the user's, of text, with or without a system's before it.
CREATE OR REPLACE MACRO is_question(prompt) AS
    NOT has_media(messages_of(prompt))
    AND array_to_string([role_of(m) FOR m IN messages_of(prompt)], ' ') IN ('user', 'system user');

-- pass_at_k(n, c, k): the chance that one of k of n rollouts, c of which succeed, is a success: 1 - C(n - c, k) / C(n,
-- k) as a product (Chen et al. 2021, arXiv 2107.03374). An empty product (c = 0) is NULL in SQL and 1 in mathematics.
CREATE OR REPLACE MACRO pass_at_k(n, c, k) AS
    CASE
        WHEN n - c < k THEN 1.0
        ELSE 1.0 - coalesce(list_product([1.0 - k / j FOR j IN range(n - c + 1, n + 1)]), 1.0)
    END;

-- ks_up_to(most): the values of k that are measured where none are asked for: 1, 2, 4, ... and the largest.
CREATE OR REPLACE MACRO ks_up_to(most) AS
    list_append([(2 ** e)::INTEGER FOR e IN range(0, 20) IF 2 ** e <= most], most);

-- poisson(u): a number in [0, 1) as a number of the Poisson distribution with mean 1, by its distribution function.
CREATE OR REPLACE MACRO poisson(u) AS
    CASE
        WHEN u < 0.36787944117144233 THEN 0.0
        WHEN u < 0.73575888234288467 THEN 1.0
        WHEN u < 0.91969860292860584 THEN 2.0
        WHEN u < 0.98101184312384626 THEN 3.0
        WHEN u < 0.99634015317265634 THEN 4.0
        WHEN u < 0.99940581518241842 THEN 5.0
        WHEN u < 0.99991675885071211 THEN 6.0
        WHEN u < 0.99998975080332540 THEN 7.0
        ELSE 8.0
    END;

-- branch_starts(turns): of a rollout's model calls, those that begin a branch: the first, and each whose prompt does
-- not begin with the prompt and the generation of the call before it, token for token.
CREATE OR REPLACE MACRO branch_starts(turns) AS [
    i FOR i IN range(1, len(turns) + 1)
    IF i = 1 OR turns[i].prompt_token_ids[
        :len(turns[i - 1].prompt_token_ids) + len(turns[i - 1].generation_token_ids)
    ] IS DISTINCT FROM turns[i - 1].prompt_token_ids || turns[i - 1].generation_token_ids
];

-- call_tokens(turns, i, first): how many tokens of call i are new context, and how many it generated.
CREATE OR REPLACE MACRO call_tokens(turns, i, first) AS {
    'context': len(turns[i].prompt_token_ids) - CASE
        WHEN i = first THEN 0
        ELSE len(turns[i - 1].prompt_token_ids) + len(turns[i - 1].generation_token_ids)
    END,
    'generated': len(turns[i].generation_token_ids)
};

-- token_branch(turns, first, last): the tokens of calls that follow one another, of which the generated ones are
-- trained. logprobs are 0 where nothing is trained, and NULL where a call has none.
CREATE OR REPLACE MACRO token_branch(turns, first, last) AS {
    'token_ids': turns[last].prompt_token_ids || turns[last].generation_token_ids,
    'loss_mask': flatten([
        list_resize([]::UTINYINT[], call_tokens(turns, i, first).context, 0::UTINYINT)
        || list_resize([]::UTINYINT[], call_tokens(turns, i, first).generated, 1::UTINYINT)
        FOR i IN range(first, last + 1)
    ]),
    'logprobs': CASE
        WHEN NOT list_contains([
            len(turns[i].generation_log_probs) IS DISTINCT FROM len(turns[i].generation_token_ids)
            FOR i IN range(first, last + 1)
        ], true)
            THEN flatten([
                list_resize([]::FLOAT[], call_tokens(turns, i, first).context, 0::FLOAT) || turns[i].generation_log_probs
                FOR i IN range(first, last + 1)
            ])
    END
};

-- token_branches(turns): a rollout's branches, in order.
CREATE OR REPLACE MACRO token_branches(turns) AS [
    token_branch(turns, branch_starts(turns)[b], coalesce(branch_starts(turns)[b + 1] - 1, len(turns)))
    FOR b IN range(1, len(branch_starts(turns)) + 1)
];

-- line_key(dataset, task_id, policy, rollout_index, role): a rollout that a line was made of, as builds name it in
-- `keys`.
CREATE OR REPLACE MACRO line_key(dataset, task_id, policy, rollout_index, role) AS {
    'dataset': dataset, 'task_id': task_id, 'policy': policy, 'rollout_index': rollout_index, 'role': role
};

-- tasks_of(rollouts): the tasks of rollouts, for builds with a line for each task: how often it was solved, and the
-- rollouts that speak for it. rollouts: the name of a view, as text.
CREATE OR REPLACE MACRO tasks_of(rollouts) AS TABLE
SELECT dataset, task_id, round(list_avg(list_sort(list(reward))), 6) AS solve_rate, list(
    line_key(dataset, task_id, policy, rollout_index, 'evidence') ORDER BY policy, rollout_index
) AS keys
FROM (SELECT DISTINCT dataset, task_id, policy, rollout_index, reward FROM query_table(rollouts))
GROUP BY dataset, task_id;

-- kto_label(reward, min_reward, max_undesirable): whether an answer is desirable; NULL where it is neither.
CREATE OR REPLACE MACRO kto_label(reward, min_reward, max_undesirable) AS
    CASE WHEN reward >= min_reward THEN 'true' WHEN reward < max_undesirable THEN 'false' END;

-- kto_weights(lines): of the lines of a KTO build, named as text, how many are desirable, and weights of the losses
-- that make both sides count the same.
CREATE OR REPLACE MACRO kto_weights(lines) AS TABLE
SELECT desirable, undesirable, round(least(1.0, 1.0 * undesirable / desirable), 4) AS desirable_weight,
    round(least(1.0, 1.0 * desirable / undesirable), 4) AS undesirable_weight
FROM (
    SELECT count(*) FILTER (tag = 'true') AS desirable, count(*) FILTER (tag = 'false') AS undesirable
    FROM (
        SELECT coalesce(json_extract_string(json, '$.label'), json_extract_string(json, '$.kto_tag')) AS tag
        FROM query_table(lines)
    )
);

-- Pairs. Macros over rows take the name of a view or of a WITH query, as text.

-- answers(rollouts, same_policy, ties, seed): what pairs are made of: each rollout once, however often a mix repeats
-- it. Only answers of one task, context_hash and pool may be compared. Of equal rewards a higher rank comes first;
-- `answer` holds what a pair has to know of its sides.
CREATE OR REPLACE MACRO answers(rollouts, same_policy, ties, seed) AS TABLE
SELECT dataset, task_id, context_hash, policy, if(same_policy, policy, '') AS pool, min(reward) AS reward,
    CASE ties WHEN 'first' THEN -rollout_index WHEN 'shortest' THEN -coalesce(min(text_length), 0) ELSE 0 END AS rank,
    md5(concat_ws('/', dataset, task_id, policy, rollout_index) || ':' || seed) AS lot,
    {
        'policy': policy, 'rollout_index': rollout_index, 'copy': min(copy), 'reward': min(reward),
        'length': coalesce(min(text_length), 0), 'said': min(completion_hash)
    } AS answer
FROM query_table(rollouts)
GROUP BY dataset, task_id, context_hash, policy, rollout_index;

-- makes_pair(chosen, rejected, ...): two answers with different rewards and different words, within the bounds.
CREATE OR REPLACE MACRO makes_pair(chosen, rejected, min_margin, min_chosen, max_rejected, max_length_gap) AS
    chosen.reward > rejected.reward AND round(chosen.reward - rejected.reward, 12) >= min_margin
    AND chosen.reward >= min_chosen AND rejected.reward <= max_rejected
    AND differ(chosen, rejected, max_length_gap);

-- differ(chosen, rejected, max_length_gap): two answers with different words, and lengths that are not too far apart.
CREATE OR REPLACE MACRO differ(chosen, rejected, max_length_gap) AS
    chosen.said <> rejected.said
    AND abs(chosen.length - rejected.length) <= max_length_gap * greatest(chosen.length, rejected.length);

-- sides(pairs): the two rows of each pair of answers: (dataset, task_id, chosen, rejected) -> key, pair, role, margin.
CREATE OR REPLACE MACRO sides(pairs) AS TABLE
SELECT dataset, task_id, round(chosen.reward - rejected.reward, 12) AS margin,
    concat_ws('/', dataset, task_id, chosen.policy, chosen.rollout_index, rejected.policy, rejected.rollout_index) AS pair,
    unnest([
        {'role': 'chosen', 'policy': chosen.policy, 'rollout_index': chosen.rollout_index, 'copy': chosen.copy},
        {'role': 'rejected', 'policy': rejected.policy, 'rollout_index': rejected.rollout_index, 'copy': rejected.copy}
    ], recursive := true)
FROM query_table(pairs);

-- pair_lengths(pairs, rollouts): do the pairs teach to write longer? Lengths are characters of the last text; the rank
-- correlation (Spearman's) is that of reward and length over all rollouts that were read.
CREATE OR REPLACE MACRO pair_lengths(pairs, rollouts) AS TABLE
WITH lengths AS (
    SELECT dataset, task_id, policy, rollout_index, min(reward) AS reward, coalesce(min(text_length), 0) AS length
    FROM query_table(rollouts)
    GROUP BY dataset, task_id, policy, rollout_index
),

-- The rank of a value is the mean of the places that its rows take.
rewards AS (
    SELECT reward, sum(count(*)) OVER (ORDER BY reward) - (count(*) - 1) / 2 AS place
    FROM lengths WHERE reward IS NOT NULL GROUP BY reward
),

sizes AS (
    SELECT length, sum(count(*)) OVER (ORDER BY length) - (count(*) - 1) / 2 AS place
    FROM lengths WHERE reward IS NOT NULL GROUP BY length
),

correlation AS (
    -- Without any spread in one of them there is none (NaN).
    SELECT round(if(isnan(corr(r.place, s.place)), NULL, corr(r.place, s.place)), 4) AS rank_correlation
    FROM lengths AS l
    JOIN rewards AS r ON r.reward = l.reward
    JOIN sizes AS s ON s.length = l.length
),

compared AS (
    SELECT p.pair, sum(l.length) FILTER (p.role = 'chosen') AS chosen,
        sum(l.length) FILTER (p.role = 'rejected') AS rejected
    FROM query_table(pairs) AS p
    JOIN lengths AS l USING (dataset, task_id, policy, rollout_index)
    GROUP BY p.pair
)

SELECT count(*) AS pairs, round(avg(chosen), 2) AS chosen_length, round(avg(rejected), 2) AS rejected_length,
    round(avg(chosen - rejected), 2) AS chosen_longer_by, count(*) FILTER (chosen > rejected) AS chosen_longer,
    round(avg((chosen > rejected)::INTEGER), 4) AS share_chosen_longer,
    (SELECT rank_correlation FROM correlation) AS reward_length_rank_correlation
FROM compared;

-- pair_sizes(used): how long both sides of each pair of a training file are: in tokens, where all sides have them, else
-- in characters. used: (split, row, part, output_tokens, characters), a row for each side.
CREATE OR REPLACE MACRO pair_sizes(used) AS TABLE
WITH sides AS (
    SELECT split, row, max(output_tokens) FILTER (part = 'chosen') AS chosen_tokens,
        max(output_tokens) FILTER (part = 'rejected') AS rejected_tokens,
        max(characters) FILTER (part = 'chosen') AS chosen_characters,
        max(characters) FILTER (part = 'rejected') AS rejected_characters
    FROM query_table(used)
    GROUP BY split, row
),

unit AS (
    SELECT bool_and(coalesce(chosen_tokens, 0) > 0 AND coalesce(rejected_tokens, 0) > 0) AS tokens FROM sides
)

SELECT if(tokens, 'tokens', 'characters') AS unit, if(tokens, chosen_tokens, chosen_characters) AS chosen,
    if(tokens, rejected_tokens, rejected_characters) AS rejected
FROM sides, unit;

-- Mixes. Each says in its own way how many rows a dataset is to give; the rest is the same for all.

-- sizes(rollouts): the rows that each dataset has, and their tokens.
CREATE OR REPLACE MACRO sizes(rollouts) AS TABLE
SELECT dataset, count(*) AS available, sum(coalesce(output_tokens, 0))::BIGINT AS tokens
FROM query_table(rollouts)
GROUP BY dataset;

-- entries(map): the keys and values of a parameter, as the columns dataset and value.
CREATE OR REPLACE MACRO entries(map) AS TABLE
SELECT unnest(map_keys(map)) AS dataset, unnest(map_values(map)) AS value;

-- rounded(parts): dataset and exact, beside any other columns -> wanted: whole numbers by largest remainder, with the
-- exact total.
CREATE OR REPLACE MACRO rounded(parts) AS TABLE
SELECT * EXCLUDE (exact), floor(exact + 1e-9)::BIGINT + (
    row_number() OVER (ORDER BY round(exact - floor(exact + 1e-9), 9) DESC, dataset)
    <= round(sum(exact) OVER ()) - sum(floor(exact + 1e-9)) OVER ()
)::INTEGER AS wanted
FROM query_table(parts);

-- by_share(sources, rows, on_shortage): (dataset, available, share) -> wanted, out of so many rows in all; without a
-- number, or where all may shrink, at most as many as leave no dataset short.
CREATE OR REPLACE MACRO by_share(sources, rows, on_shortage) AS TABLE
WITH most AS (
    SELECT min(floor(available / share + 1e-9)) AS most FROM query_table(sources)
),

exact AS (
    SELECT dataset, available, share * CASE
        WHEN rows IS NULL THEN most
        WHEN on_shortage = 'shrink' THEN least(rows, most)
        ELSE rows
    END AS exact
    FROM query_table(sources), most
)

FROM rounded('exact');

-- supplied(quotas, on_shortage, max_copies): (dataset, available, wanted) as they can be had. A dataset that is short
-- ends the query with a sentence, unless it may give what it has (shrink) or repeat its rows (repeat).
CREATE OR REPLACE MACRO supplied(quotas, on_shortage, max_copies) AS TABLE
SELECT dataset, available, if(on_shortage = 'shrink', least(wanted, available), wanted) AS wanted
FROM query_table(quotas)
WHERE (
    SELECT CASE WHEN count(*) > 0 THEN error(
        string_agg(CASE available
            WHEN 0 THEN format('{} has no rows: leave it out', dataset)
            ELSE format('{} has {} rows of the {} wanted', dataset, available, wanted)
        END, '; ' ORDER BY dataset)
        || CASE
            WHEN max(available) = 0 THEN ''
            WHEN on_shortage = 'repeat' THEN '; request fewer rows, or raise max_copies'
            ELSE '; request fewer rows, or set on_shortage to shrink or repeat'
        END
    ) END IS NULL
    FROM query_table(quotas)
    WHERE available = 0
        OR on_shortage = 'repeat' AND wanted > available * max_copies
        OR on_shortage = 'fail' AND wanted > available
);

-- drawn(rollouts, seed): the rows of each dataset in an order that the seed decides. place: from 1. Their keys differ,
-- and so do the hashes.
CREATE OR REPLACE MACRO drawn(rollouts, seed) AS TABLE
SELECT dataset, task_id, policy, rollout_index, copy, output_tokens, row_number() OVER (
    PARTITION BY dataset
    ORDER BY md5(concat_ws('/', dataset, task_id, policy, rollout_index, copy) || ':' || seed)
) AS place
FROM query_table(rollouts);

-- taken(rollouts, quotas, seed): the rows that make up the quotas. A row occurs once for each whole time that its 
-- dataset goes into its quota, and once more in the first places. new_copy: the copy number that it has in the mix.
CREATE OR REPLACE MACRO taken(rollouts, quotas, seed) AS TABLE
SELECT d.dataset, d.task_id, d.policy, d.rollout_index, d.copy, (
    d.copy + (SELECT max(copy) + 1 FROM query_table(rollouts))
    * unnest(range(q.wanted // q.available + (d.place <= q.wanted % q.available)::INTEGER))
)::INTEGER AS new_copy
FROM drawn(rollouts, seed) AS d
JOIN query_table(quotas) AS q ON q.dataset = d.dataset;

-- mix_report(result, rollouts, targets): what was asked against what came of it, for each dataset and all together.
-- targets: (dataset, target_rows, target_tokens), of which one may be NULL: it is then reckoned from the other, and
-- nothing is short of it. An epoch is all rows of a dataset. There are no tokens where nobody counted any.
CREATE OR REPLACE MACRO mix_report(result, rollouts, targets) AS TABLE
WITH made AS (
    SELECT r.dataset, count(*) AS rows, sum(s.output_tokens)::BIGINT AS tokens
    FROM query_table(result) AS r
    JOIN query_table(rollouts) AS s
        ON s.dataset = r.dataset AND s.task_id = r.task_id AND s.policy = r.policy
        AND s.rollout_index = r.rollout_index
        AND s.copy = r.copy % (SELECT max(copy) + 1 FROM query_table(rollouts))
    GROUP BY r.dataset
),

compared AS (
    SELECT coalesce(t.dataset, z.dataset) AS dataset, coalesce(z.available, 0) AS available,
        coalesce(t.target_rows, round(t.target_tokens * z.available / nullif(z.tokens, 0)))::BIGINT AS target_rows,
        coalesce(t.target_tokens, round(t.target_rows * nullif(z.tokens, 0) / z.available))::BIGINT AS target_tokens,
        coalesce(m.rows, 0) AS rows, if(m.rows > 0, m.tokens, 0) AS tokens,
        t.target_rows - coalesce(m.rows, 0) AS missing_rows, t.target_tokens - coalesce(m.tokens, 0) AS missing_tokens
    FROM query_table(targets) AS t
    FULL JOIN sizes(rollouts) AS z ON z.dataset = t.dataset
    LEFT JOIN made AS m ON m.dataset = z.dataset
)

SELECT if(grouping(dataset) = 1, 'all', dataset) AS dataset, sum(available)::BIGINT AS available,
    sum(target_rows)::BIGINT AS target_rows, sum(rows)::BIGINT AS rows,
    greatest(sum(missing_rows), 0)::BIGINT AS short_rows, greatest(sum(missing_tokens), 0)::BIGINT AS short_tokens,
    round(sum(target_rows) / nullif(sum(available), 0), 4) AS target_epochs,
    round(sum(rows) / nullif(sum(available), 0), 4) AS epochs,
    sum(target_tokens)::BIGINT AS target_tokens, sum(tokens)::BIGINT AS tokens,
    round(sum(rows) / nullif((SELECT sum(rows) FROM compared), 0), 4) AS share_of_rows,
    round(sum(tokens) / nullif((SELECT sum(tokens) FROM compared), 0), 4) AS share_of_tokens
FROM compared
GROUP BY ROLLUP (dataset)
ORDER BY grouping(dataset), dataset;

-- cells(rollouts, names): the rows with a column `cell`: their dataset and the values of the columns so named.
CREATE OR REPLACE MACRO cells(rollouts, names) AS TABLE
SELECT *, row(*COLUMNS(lambda name: name = 'dataset' OR list_contains(names, name))) AS cell
FROM query_table(rollouts);
