import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from openai.types.responses import FunctionToolParam, ResponseInputItemParam, ResponseOutputItem
from pydantic import TypeAdapter

from rolloutops.formats.strict_json import dump, parse
from rolloutops.formats.task_rows import (
    answer_of_row,
    from_chat,
    from_responses,
    prompt_of_row,
    text_of,
    to_chat,
    to_responses,
    to_responses_tools,
    tools_from,
)
from rolloutops.ingest.inputs import open_rows

GYM = Path(__file__).parents[1].parent / "shared" / "data" / "gym"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(call_id: str, name: str = "add", arguments: str = '{"a": 1}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": call_id}


# --- canonical conversations, as hypothesis makes them ---------------------------------------------------------------

TEXT = st.text(max_size=8)
FULL = st.text(min_size=1, max_size=8)
IMAGE = st.builds(
    lambda url, detail: {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}},
    FULL,
    st.sampled_from(["", "high"]),
)
FILE = st.builds(lambda data: {"type": "file", "file": {"file_data": data}}, FULL)
AUDIO = st.builds(lambda data: {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, FULL)
PART = st.builds(lambda text: {"type": "text", "text": text}, TEXT) | IMAGE | FILE | AUDIO
PARTS = st.lists(PART, min_size=1, max_size=3).filter(lambda parts: any(part["type"] != "text" for part in parts))
CONTENT = TEXT | PARTS
CALL = st.builds(call, FULL, FULL, TEXT | st.just('{"a":1.0}'))


def with_keys(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    return base | {key: value for key, value in extra.items() if value}


SPOKEN = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "user", "developer"]), CONTENT
)
ANSWERED = st.builds(
    lambda content, reasoning, calls: with_keys(said(content), {"reasoning_content": reasoning, "tool_calls": calls}),
    TEXT,
    TEXT,
    st.lists(CALL, max_size=3),
)
RETURNED = st.builds(
    lambda call_id, content: {"role": "tool", "content": content, "tool_call_id": call_id}, FULL, CONTENT
)
CONVERSATION = st.lists(SPOKEN | ANSWERED | RETURNED, max_size=8)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "type",
    "role",
    "content",
    "name",
    "arguments",
    "input",
    "call_id",
    "id",
    "output",
    "summary",
    "text",
    "refusal",
]
KEYS += ["tool_calls", "tool_call_id", "function_call", "image_url", "reasoning_content", "thinking"]
WORDS = st.sampled_from(
    [
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "reasoning",
        "web_search_call",
        "user",
        "assistant",
        "tool",
        "function",
        "input_text",
        "output_text",
        "summary_text",
        "input_image",
        "thinking",
    ]
)
INNER = st.recursive(
    JSON | WORDS, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=5) | st.lists(inner, max_size=3)
)
PIECE = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, INNER) | {"type": WORDS, "role": WORDS}) | INNER


@given(CONVERSATION)
def test_responses_give_every_conversation_back(messages: list[dict[str, Any]]) -> None:
    before = dump(messages)
    items = to_responses(messages)
    assert from_responses(items) == messages
    assert from_responses(parse(dump(items))) == messages
    assert dump(from_responses(items)) == dump(messages)  # the order of keys, too
    assert dump(messages) == before


@given(CONVERSATION)
def test_chat_gives_every_conversation_back(messages: list[dict[str, Any]]) -> None:
    assert from_chat(to_chat(messages)) == messages
    objects = to_chat(messages, "object")
    for ours, theirs in zip(messages, objects, strict=True):
        for one, other in zip(ours.get("tool_calls", ()), theirs.get("tool_calls", ()), strict=True):
            text, value = one["function"]["arguments"], other["function"]["arguments"]
            assert value == text or (isinstance(value, dict) and value == json.loads(text))
    assert from_chat(from_chat(objects)) == from_chat(objects)


@given(st.lists(PIECE, max_size=5))
def test_no_items_crash_and_what_comes_out_is_canonical(items: list[Any]) -> None:
    for messages in (from_responses(items), from_responses(to_responses(from_responses(items)))):
        assert_canonical(messages)
    assert from_responses(to_responses(from_responses(items))) == without_names(from_responses(items))


@given(st.lists(PIECE, max_size=3))
def test_chat_messages_are_canonical_or_a_value_error(items: list[Any]) -> None:
    try:
        messages = from_chat(items)
    except ValueError:
        return
    assert_canonical(messages)
    assert from_chat(messages) == messages


def without_names(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in item.items() if key != "name"} for item in messages]


def assert_canonical(messages: list[dict[str, Any]]) -> None:
    order = ["role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name"]
    for item in messages:
        assert [key for key in order if key in item] == list(item)
        assert isinstance(item["role"], str)
        assert isinstance(item["content"], (str, list))
        if isinstance(item["content"], list):
            assert any(part.get("type") != "text" for part in item["content"])
        assert all(item[key] for key in item if key not in ("role", "content"))
        assert ("tool_call_id" in item) == (item["role"] == "tool")
        assert item["role"] == "assistant" or not {"reasoning_content", "tool_calls"} & item.keys()
        for one in item.get("tool_calls", ()):
            assert list(one) == ["id", "type", "function"]
            assert one["id"]
            assert all(isinstance(value, str) for value in [one["id"], *one["function"].values()])


# --- the official types are the judges -------------------------------------------------------------------------------


# Responses has no audio in tool outputs and no media in answers; Chat has only text in tool messages.
PICTURE = st.builds(
    lambda text, url: [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ],
    TEXT,
    FULL,
)
SHOWN = st.builds(lambda content: {"role": "user", "content": content}, PICTURE)
SEEN = st.builds(result, FULL, PICTURE)
PLAIN = st.builds(user, TEXT) | ANSWERED | st.builds(result, FULL, TEXT)
RESPONSES_INPUT = TypeAdapter(list[ResponseInputItemParam])
RESPONSES_OUTPUT = TypeAdapter(list[ResponseOutputItem])
CHAT_INPUT = TypeAdapter(list[ChatCompletionMessageParam])


@settings(max_examples=50)
@given(st.lists(PLAIN | SHOWN | SEEN, max_size=5), st.lists(PLAIN | SHOWN, max_size=5))
def test_what_goes_out_is_what_the_official_types_take(
    messages: list[dict[str, Any]], for_chat: list[dict[str, Any]]
) -> None:
    items = to_responses(messages)
    RESPONSES_INPUT.validate_python(items)
    answers = [item for item in items if item.get("role", "assistant") == "assistant" and "output" not in item]
    RESPONSES_OUTPUT.validate_python(answers)
    assert len({item["id"] for item in answers}) == len(answers)
    CHAT_INPUT.validate_python(to_chat(for_chat))


TOOL = st.builds(
    lambda name, extra: {"type": "function", "function": with_keys({"name": name}, extra)},
    FULL,
    st.fixed_dictionaries(
        {"description": TEXT, "parameters": st.just({"type": "object", "properties": {}}), "strict": st.booleans()}
    ),
)


@given(st.lists(TOOL, min_size=1, max_size=3))
def test_tools_come_back_and_fit_the_official_types(tools: list[dict[str, Any]]) -> None:
    flat = to_responses_tools(tools)
    assert tools_from(flat) == tools
    assert tools_from(tools) == tools
    assert tools_from(dump(flat)) == tools
    assert tools_from([dump(tool) for tool in tools]) == tools
    TypeAdapter(list[FunctionToolParam]).validate_python(flat)
    TypeAdapter(list[ChatCompletionFunctionToolParam]).validate_python(tools)


# --- real files ------------------------------------------------------------------------------------------------------


def gym_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    if not GYM.is_dir():
        pytest.skip("NeMo Gym's example data is not beside the checkout")
    for path in sorted(GYM.rglob("*.jsonl")):
        for row in open_rows(path):
            if row.value is not None:
                yield f"{path.relative_to(GYM)}:{row.line}", row.value


def test_every_rollout_of_gym_keeps_its_messages_calls_and_outputs() -> None:
    count = 0
    for where, row in gym_rows():
        if not isinstance(row.get("response"), dict):
            continue
        count += 1
        items = [item for item in row["response"]["output"] if isinstance(item, dict)]
        messages = from_responses(row["response"]["output"])
        kinds = [item["type"] for item in items]
        assert_canonical(messages)
        calls = [one for item in messages for one in item.get("tool_calls", ())]
        assert [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in calls] == [
            (item["call_id"], item["name"], item["arguments"]) for item in items if item["type"] == "function_call"
        ], where
        outputs = [(item["tool_call_id"], item["content"]) for item in messages if item["role"] == "tool"]
        assert outputs == [(item["call_id"], item["output"]) for item in items if "output" in item], where
        texts = [
            content if isinstance(content := item["content"], str) else "".join(part["text"] for part in content)
            for item in items
            if item["type"] == "message"
        ]
        assert [item["content"] for item in messages if item["role"] != "tool" and item["content"]] == [
            text for text in texts if text
        ], where
        thoughts = "".join(part["text"] for item in items if item["type"] == "reasoning" for part in item["summary"])
        assert "".join(item.get("reasoning_content", "") for item in messages) == thoughts, where
        spoken = sum(item["role"] != "tool" for item in messages)
        assert kinds.count("message") <= spoken <= len(kinds), where
        assert from_responses(to_responses(messages)) == messages, where
    assert count > 400


def test_every_prompt_of_gym_is_understood() -> None:
    without = 0
    for where, row in gym_rows():
        if not row.keys() & {"responses_create_params", "messages", "prompt", "question"}:
            with pytest.raises(ValueError, match="no prompt: the row has the keys"):
                prompt_of_row(row)
            without += 1
            continue
        prompt = prompt_of_row(row)
        assert_canonical(prompt.messages)
        assert from_responses(to_responses(prompt.messages)) == prompt.messages, where
        given = (row.get("responses_create_params") or {}).get("input")
        if isinstance(given, list):
            roles = [item["role"] for item in given if "role" in item]
            assert [item["role"] for item in prompt.messages if item["role"] != "tool" and item["content"]] == roles, (
                where
            )
            assert str(given).count("input_image") == str(prompt.messages).count("'type': 'image_url'"), where
        assert None not in prompt.params.values()
        assert not {"input", "tools", "instructions"} & prompt.params.keys()
        for tool in prompt.tools or ():
            assert tool["function"]["name"], where
        if prompt.tools:
            assert tools_from(to_responses_tools(prompt.tools)) == prompt.tools, where
    assert 0 < without < 50


# --- Responses items, one idea a test --------------------------------------------------------------------------------

FC = {"type": "function_call", "call_id": "c1", "id": "fc_1", "name": "add", "arguments": '{"a": 1}', "status": None}
FC2 = {**FC, "call_id": "c2"}
OUT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
SAYS = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi", "annotations": []}]}
THINKS = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "content": None}


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([SAYS, FC, FC2, OUT], [said("Hi", tool_calls=[call("c1"), call("c2")]), result("c1", "2")]),
        ([FC, SAYS], [said("", tool_calls=[call("c1")]), said("Hi")]),
        ([SAYS, SAYS], [said("Hi"), said("Hi")]),
        ([THINKS, SAYS], [said("Hi", reasoning_content="Hm.")]),
        (
            [THINKS, FC, OUT, SAYS],
            [said("", reasoning_content="Hm.", tool_calls=[call("c1")]), result("c1", "2"), said("Hi")],
        ),
        ([THINKS, THINKS, SAYS], [said("Hi", reasoning_content="Hm.\n\nHm.")]),
        ([SAYS, THINKS, FC], [said("Hi"), said("", reasoning_content="Hm.", tool_calls=[call("c1")])]),
        ([FC, THINKS, FC2], [said("", reasoning_content="Hm.", tool_calls=[call("c1"), call("c2")])]),
        ([THINKS], [said("", reasoning_content="Hm.")]),
        ([THINKS, user("?")], [said("", reasoning_content="Hm."), user("?")]),
        ([THINKS, OUT], [said("", reasoning_content="Hm."), result("c1", "2")]),
        ([{**THINKS, "summary": [], "encrypted_content": "x"}, SAYS], [said("Hi")]),
        (
            [{**THINKS, "content": [{"type": "reasoning_text", "text": "all"}]}, SAYS],
            [said("Hi", reasoning_content="all")],
        ),
        ([{**SAYS, "content": [{"type": "refusal", "refusal": "No."}]}], [said("No.")]),
        ([{**SAYS, "content": None}], [said("")]),
        ([{**OUT, "output": {"sum": 2}}], [result("c1", '{"sum":2}')]),
        ([{**OUT, "output": [{"type": "input_text", "text": "2"}]}], [result("c1", "2")]),
        ([{**OUT, "output": [{"type": "payment"}]}], [result("c1", '[{"type":"payment"}]')]),
        ([{**OUT, "output": []}], [result("c1", "[]")]),
        ([{**FC, "call_id": None}], [said("", tool_calls=[call("fc_1")])]),
        (
            [{"type": "custom_tool_call", "call_id": "c1", "name": "add", "input": "1 + 1"}],
            [said("", tool_calls=[call("c1", arguments='{"input":"1 + 1"}')])],
        ),
        ([{"role": "developer", "content": "Be brief."}], [{"role": "developer", "content": "Be brief."}]),
        ([{**SAYS, "tool_calls": "{"}], [said("Hi")]),
        ([[SAYS], None, 3, "x", {"type": "web_search_call", "id": "ws_1"}, {"type": None}, {}, SAYS], [said("Hi")]),
        ("Hi", [user("Hi")]),
        (None, []),
        ([], []),
    ],
)
def test_items_become_messages(items: Any, messages: list[dict[str, Any]]) -> None:
    assert from_responses(items) == messages


def test_token_ids_on_items_change_nothing() -> None:
    ids = {"prompt_token_ids": [1, 2], "generation_token_ids": [3], "generation_log_probs": [-0.1]}
    assert from_responses([{**SAYS, **ids}, {**FC, **ids}]) == from_responses([SAYS, FC])


def test_images_have_their_form_on_either_side() -> None:
    item = {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
            {"type": "input_text", "text": "What is it?"},
        ],
    }
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "auto"}},
        {"type": "text", "text": "What is it?"},
    ]
    assert from_responses([item]) == [{"role": "user", "content": parts}]
    assert to_responses([{"role": "user", "content": parts}]) == [{"type": "message", **item}]
    assert text_of({"role": "user", "content": parts}) == "What is it?"
    by_id = {"role": "user", "content": [{"type": "input_image", "file_id": "f1", "image_url": None, "detail": "low"}]}
    kept = [{"role": "user", "content": [{"type": "input_image", "file_id": "f1", "detail": "low"}]}]
    assert from_responses([by_id]) == kept
    assert from_responses(to_responses(kept)) == kept


# --- the bugs of the converter in NeMo Gym's docs --------------------------------------------------------------------


def test_tool_calls_at_the_end_are_kept() -> None:
    assert from_responses([SAYS, FC, FC2])[-1]["tool_calls"] == [call("c1"), call("c2")]


def test_tool_results_name_their_call() -> None:
    assert from_responses([FC, FC2, {**OUT, "call_id": "c2"}, OUT])[1:] == [result("c2", "2"), result("c1", "2")]


def test_reasoning_is_kept() -> None:
    assert from_responses([THINKS, SAYS])[0]["reasoning_content"] == "Hm."


def test_every_content_part_counts() -> None:
    parts = [{"type": "output_text", "text": "one "}, {"type": "output_text", "text": "two"}]
    assert from_responses([{**SAYS, "content": parts}]) == [said("one two")]


def test_arguments_that_are_not_json_stay_text() -> None:
    messages = from_responses([{**FC, "arguments": '{"a": '}, {**FC2, "arguments": "[1]"}, {**FC, "arguments": ""}])
    for form in ("text", "object"):
        arguments = [one["function"]["arguments"] for one in to_chat(messages, form)[0]["tool_calls"]]
        assert arguments == ['{"a": ', "[1]", ""]


def test_flat_tools_keep_their_names() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "default": None}}}
    flat = {"parameters": schema, "strict": True, "type": "function", "name": "add", "description": None}
    tools = tools_from([flat])
    assert tools == [{"type": "function", "function": {"name": "add", "parameters": schema, "strict": True}}]
    assert list(tools[0]["function"]) == ["name", "parameters", "strict"]


def test_an_input_may_be_text() -> None:
    assert prompt_of_row({"responses_create_params": {"input": "Why?"}}).messages == [user("Why?")]


# --- chat dialects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chat", "messages"),
    [
        ([{"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "name": None}], [said("")]),
        ([{"role": "assistant", "content": None, "refusal": "No."}], [said("No.")]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]}],
            [user("abc")],
        ),
        ([{"role": "user", "content": []}], [user("")]),
        ([said("x", reasoning="Hm.")], [said("x", reasoning_content="Hm.")]),
        ([said("x", thinking="Hm.")], [said("x", reasoning_content="Hm.")]),
        ([said("x", reasoning_content="", reasoning=None)], [said("x")]),
        (
            [said([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "x"}])],
            [said("x", reasoning_content="Hm.")],
        ),
        (
            [
                said("", tool_calls=[{"function": {"name": "add", "arguments": {"a": 1}}}]),
                {"role": "tool", "content": "2"},
            ],
            [said("", tool_calls=[call("call_0", arguments='{"a":1}')]), result("call_0", "2")],
        ),
        (
            [
                said(
                    "",
                    tool_calls=[{"name": "add", "arguments": None}, {"id": "call_0", "name": "sub", "arguments": "{"}],
                ),
                {"role": "tool", "name": "sub", "content": {"n": 1}},
                {"role": "tool", "content": 3},
            ],
            [
                said("", tool_calls=[call("call_1", arguments="{}"), call("call_0", "sub", "{")]),
                {**result("call_0", '{"n":1}'), "name": "sub"},
                result("call_1", "3"),
            ],
        ),
        (
            [
                said(None, function_call={"name": "add", "arguments": "{}"}),
                {"role": "function", "name": "add", "content": "2"},
            ],
            [said("", tool_calls=[call("call_0", arguments="{}")]), {**result("call_0", "2"), "name": "add"}],
        ),
        ([said("", tool_calls=json.dumps([call("c1")]))], [said("", tool_calls=[call("c1")])]),
        (
            [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "Q"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "A"},
            ],
            [
                {"role": "system", "content": "S"},
                user("Q"),
                said("", tool_calls=[call("call_0", arguments='{"a":1}')]),
                result("call_0", "2"),
                said("A"),
            ],
        ),
        ([{"from": "function_call", "value": "add(1)"}], [said("add(1)")]),
    ],
)
def test_chat_dialects(chat: list[Any], messages: list[dict[str, Any]]) -> None:
    assert from_chat(chat) == messages
    assert_canonical(from_chat(chat))


@pytest.mark.parametrize(
    ("chat", "says"),
    [
        ([user("a"), "b"], "message 1 is not an object"),
        ([{"content": "a"}], "message 0 has no role: it has the keys content"),
        (
            [said("", tool_calls="[{")],
            "message 0 has tool_calls that cannot be read: not JSON: it ends too early (column 2)",
        ),
    ],
)
def test_what_is_no_message_is_named(chat: list[Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        from_chat(chat)
    assert str(error.value) == says


def test_arguments_as_objects_for_templates() -> None:
    text = '{"n": 12345678901234567890123, "x": 1.0}'
    messages = [said("", tool_calls=[call("c1", arguments=text)])]
    assert to_chat(messages, "object")[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": json.loads(text)}
    assert messages == [said("", tool_calls=[call("c1", arguments=text)])]


def test_text_of() -> None:
    assert text_of([user("Q"), said("A"), said("B"), user("C")]) == "B"
    assert text_of([user("Q")]) == text_of([]) == ""
    assert text_of(said("A")) == "A"


# --- tools and rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, [], "", "[]", "null", {}])
def test_no_tools(nothing: Any) -> None:
    assert tools_from(nothing) is None


def test_tools_of_other_kinds() -> None:
    anthropic = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
    assert tools_from(anthropic) == [
        {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
    ]
    builtin = {"type": "web_search", "filters": None, "size": "low"}
    assert tools_from([builtin]) == [{"type": "web_search", "size": "low"}]
    assert to_responses_tools(tools_from([builtin])) == [{"type": "web_search", "size": "low"}]
    assert to_responses_tools(None) == []
    for wrong, says in (
        ([{"type": "function", "parameters": {}}], r"tools\[0\] has no name"),
        ([{"name": "a"}, 3], r"tools\[1\] is not an object"),
        ("[{", "tools cannot be read: not JSON"),
    ):
        with pytest.raises(ValueError, match=says):
            tools_from(wrong)


NESTED = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize(
    ("row", "messages", "tools", "params"),
    [
        ({"responses_create_params": {"input": None}}, [], None, {}),
        ({"responses_create_params": {"input": []}, "prompt": "not this"}, [], None, {}),
        (
            {"responses_create_params": {"max_output_tokens": 5}, "prompt": "Q"},
            [user("Q")],
            None,
            {"max_output_tokens": 5},
        ),
        (
            {
                "responses_create_params": {
                    "input": [user("Q")],
                    "instructions": "S",
                    "tools": [{"type": "function", "name": "add", "strict": None, "parameters": None}],
                    "temperature": 0.5,
                    "seed": None,
                    "parallel_tool_calls": False,
                }
            },
            [{"role": "system", "content": "S"}, user("Q")],
            [NESTED],
            {"temperature": 0.5, "parallel_tool_calls": False},
        ),
        ({"task_id": "t", "task_input": {"responses_create_params": {"input": "Q"}}}, [user("Q")], None, {}),
        ({"responses_create_params": '{"input":"Q","top_p":1}'}, [user("Q")], None, {"top_p": 1}),
        ({"messages": [user("Q")], "tools": [{"type": "function", "name": "add"}]}, [user("Q")], [NESTED], {}),
        ({"messages": json.dumps([user("Q")]), "tools": json.dumps([NESTED])}, [user("Q")], [NESTED], {}),
        ({"conversations": [{"from": "human", "value": "Q"}]}, [user("Q")], None, {}),
        ({"prompt": [user("Q")]}, [user("Q")], None, {}),
        ({"prompt": "[1, 2]", "messages": None}, [user("[1, 2]")], None, {}),
        ({"question": "Q", "answer": "A"}, [user("Q")], None, {}),
    ],
)
def test_prompts_of_rows(row: dict[str, Any], messages: Any, tools: Any, params: Any) -> None:
    prompt = prompt_of_row(row)
    assert (prompt.messages, prompt.tools, prompt.params) == (messages, tools, params)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"task_idx": 0},
            "no prompt: the row has the keys task_idx, and none of responses_create_params, messages, conv",
        ),
        (
            {"responses_create_params": {"seed": 1}},
            "no prompt: responses_create_params has no input; the row has the keys responses_create_params, and none",
        ),
        ({"responses_create_params": {"input": 3}}, "responses_create_params.input is neither a list nor text"),
        ({"responses_create_params": {"input": [user("a"), "b"]}}, "responses_create_params.input[1] is not an object"),
        (
            {"responses_create_params": {"input": [{"type": "item_reference"}]}},
            "responses_create_params.input has no message",
        ),
        ({"responses_create_params": []}, "responses_create_params is not an object"),
        ({"responses_create_params": "{"}, "responses_create_params cannot be read: not JSON"),
        ({"messages": "Hi"}, "messages cannot be read: not JSON"),
        ({"messages": [{"text": "Hi"}]}, "messages: message 0 has no role"),
        ({"messages": []}, "messages is empty"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": 3}, "prompt is not a list of messages"),
        ({"prompt": "Q", "tools": [1]}, "tools[0] is not an object"),
    ],
)
def test_a_row_without_a_prompt_says_what_is_missing(row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        prompt_of_row(row)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": "A", "expected_answer": "B"}, "B"),
        ({"expected_answer": None, "label": 0}, "0"),
        ({"target": [1, {"b": 1, "a": 2.0}]}, '[1,{"b":1,"a":2.0}]'),
        ({"ground_truth": 10**30}, str(10**30)),
        ({"solution": ""}, ""),
        ({"verifier_metadata": {"answer": "A"}, "metadata": {"answer": "A"}}, None),
    ],
)
def test_answers_of_rows(row: dict[str, Any], answer: str | None) -> None:
    assert answer_of_row(row) == answer
