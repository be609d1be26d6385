"""The shapes of task rows: each is known by its names, none comes in empty, and what is left aside is said."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers import query, rolloutops, write_jsonl


def chunk(folder: Path, *flags: str, code: int = 0, file: str = "in.jsonl") -> str:
    """Chunk a folder's file into w; what it said."""
    return rolloutops("chunk", f"--input={file}", "--data=w", "--dataset=d", *flags, cwd=folder, code=code).stderr


def prompts(folder: Path) -> list[list[dict[str, Any]]]:
    """The prompts of the tasks, in the order of the file."""
    return [json.loads(text) for (text,) in query(folder / "w", "SELECT prompt::VARCHAR FROM tasks ORDER BY line")]


SYSTEM, ASKED = {"role": "system", "content": "S"}, {"role": "user", "content": "Q"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
CALLED = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [CALL]}
RETURNED = {"role": "tool", "content": "2", "tool_call_id": "c1"}

SHAPES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "OpenAI Assistants": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": {"value": "Q", "annotations": []}}]}]},
        [ASKED],
    ),
    "ChatGPT export": ({"messages": [{"role": "user", "content": {"content_type": "text", "parts": ["Q"]}}]}, [ASKED]),
    "Bedrock": (
        {
            "system": [{"text": "S"}],
            "messages": [
                {"role": "user", "content": [{"text": "Q"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "x"}}},
                        {"toolUse": {"toolUseId": "c1", "name": "add", "input": {"a": 1}}},
                    ],
                },
                {"role": "user", "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "2"}]}}]},
            ],
        },
        [SYSTEM, ASKED, CALLED, RETURNED],
    ),
    "Anthropic": (
        {
            "system": "S",
            "messages": [
                {"role": "user", "content": "Q"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "2"}]},
                        {"type": "text", "text": "Q"},
                    ],
                },
            ],
        },
        [SYSTEM, ASKED, CALLED, RETURNED, ASKED],
    ),
    "Gemini": (
        {
            "systemInstruction": {"parts": [{"text": "S"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Q"}]},
                {
                    "role": "model",
                    "parts": [
                        {"text": "Hm.", "thought": True},
                        {"functionCall": {"id": "c1", "name": "add", "args": {"a": 1}}},
                    ],
                },
                {"role": "user", "parts": [{"functionResponse": {"id": "c1", "name": "add", "response": {"sum": 2}}}]},
            ],
        },
        [SYSTEM, ASKED, CALLED, {**RETURNED, "content": '{"sum":2}', "name": "add"}],
    ),
    "AI SDK": (
        {
            "prompt": [
                {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "text": "Hm."},
                        {"type": "tool-call", "toolCallId": "c1", "toolName": "add", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "tool",
                    "content": [
                        {
                            "type": "tool-result",
                            "toolCallId": "c1",
                            "toolName": "add",
                            "output": {"type": "text", "value": "2"},
                        }
                    ],
                },
            ]
        },
        [ASKED, CALLED, {**RETURNED, "name": "add"}],
    ),
    "LLaMA-Factory v1": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "Q"}], "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "value": "Hm."},
                        {"type": "tool_call", "value": '{"id":"c1","name":"add","arguments":{"a":1}}'},
                    ],
                },
            ]
        },
        [ASKED, CALLED],
    ),
    "verifiers": (
        {
            "prompt": [
                ASKED,
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": [{"type": "summary_text", "text": "Hm."}],
                    "tool_calls": ['{"id":"c1","name":"add","arguments":"{\\"a\\":1}"}'],
                },
            ]
        },
        [ASKED, CALLED],
    ),
    "OpenRouter": (
        {
            "messages": [
                ASKED,
                {
                    **CALLED,
                    "content": None,
                    "reasoning_content": None,
                    "reasoning_details": [
                        {"type": "reasoning.summary", "summary": "Hm."},
                        {"type": "reasoning.encrypted", "data": "x"},
                    ],
                },
            ]
        },
        [ASKED, CALLED],
    ),
    "messages as JSON text": ({"prompt": json.dumps([ASKED]), "system_prompt": "S"}, [SYSTEM, ASKED]),
    "ShareGPT with roles": ({"system": "S", "conversation": [{"role": "human", "text": "Q"}]}, [SYSTEM, ASKED]),
    "Responses": (
        {"instructions": "S", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Q"}]}]},
        [SYSTEM, ASKED],
    ),
    "Responses with text": ({"instructions": "S", "input": "Q"}, [SYSTEM, ASKED]),
    "printed by Python": ({"question": repr([SYSTEM, {**ASKED, "name": None}])}, [SYSTEM, ASKED]),
    "results of tools under other keys": (
        {
            "prompt": [
                ASKED,
                CALLED,
                {"role": "tool", "content": [{"type": "tool_result", "value": "2"}]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "c2", "is_error": True, "error": {"code": 4}}],
                },
            ]
        },
        [ASKED, CALLED, RETURNED, {"role": "tool", "content": '{"error":{"code":4}}', "tool_call_id": "c2"}],
    ),
    "a part of an unknown type": (
        {"messages": [{"role": "user", "content": [{"type": "markdown", "text": "Q", "index": 0}]}]},
        [ASKED],
    ),
    "Dolly": (
        {"system": "S", "instruction": "Q", "context": "C", "response": "A"},
        [SYSTEM, {"role": "user", "content": "Q\nC"}],
    ),
}


def test_each_shape_is_a_conversation(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [row for row, _ in SHAPES.values()])
    said = chunk(tmp_path)
    for name, (_, expected), found in zip(SHAPES, SHAPES.values(), prompts(tmp_path), strict=True):
        assert found == expected, name
    for part in (
        "chat messages in messages (7)",
        "Gemini contents (1)",
        "Responses input (1)",
        "Alpaca (instruction) (1)",
    ):
        assert part in said
    assert query(tmp_path / "w", "SELECT answer FROM tasks WHERE answer IS NOT NULL") == [("A",)]


def test_what_is_left_aside_is_said_with_its_count(tmp_path: Path) -> None:
    document = {"type": "document", "title": "T", "text": "D"}
    rows = [
        {"n": 1, "messages": [{**ASKED, "weight": 1}], "options": {"A": "x"}, "source": "s", "answer": "A"},
        {"n": 2, "messages": [{"role": "user", "content": [document, "Q"]}], "source": "t", "level": None},
        {"n": 3, "input": [ASKED, {"type": "web_search_call", "id": "w"}]},
        {"n": 4, "messages": [ASKED], "images": ["https://x.org/a.png"], "tools": []},
    ]
    write_jsonl(tmp_path / "in.jsonl", rows)
    said = chunk(tmp_path, "--environment=mcqa", "--id=n")
    assert "columns that are not part of the prompt: source (2); verifiers" in said
    assert "fields that have no place in a conversation: messages[].weight (1), input[].web_search_call (1)" in said
    assert "content parts of unknown types, sent as they are: document (1)" in said
    assert prompts(tmp_path)[1] == [{"role": "user", "content": [document, {"type": "text", "text": "Q"}]}]


def test_the_system_message_is_part_of_what_a_task_is(tmp_path: Path) -> None:
    rows = [{"question": "Q"}, *({"question": "Q", "system": text} for text in ("S", "T"))]
    rows.append({"messages": [SYSTEM, ASKED], "system": "S"})
    write_jsonl(tmp_path / "in.jsonl", rows)
    chunk(tmp_path)
    assert prompts(tmp_path) == [[ASKED], [SYSTEM, ASKED], [{**SYSTEM, "content": "T"}, ASKED], [SYSTEM, ASKED]]
    assert query(tmp_path / "w", "SELECT count(DISTINCT prompt_hash) FROM tasks") == [(3,)]


NO_PROMPT = [
    ({"text": "T", "level": 3}, "the row has the keys text, level"),
    ({"messages": [{"role": "user", "utterance": "Q"}]}, "has the keys role, utterance"),
    ({"messages": [{"speaker": "user", "line": "Q"}]}, "has the keys speaker, line"),
    ({"messages": [{"role": "user", "content": []}], "topic": "t"}, "the row has the keys messages, topic"),
    ({"conversations": [], "topic": "t"}, "the row has the keys conversations, topic"),
    ({"prompt": "[{'role': 'user', 'content': 'Q'}\n {'role': 'user'}]"}, "as Python prints it"),
]


def test_a_row_without_a_prompt_is_rejected_with_its_line_and_its_keys(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Q"}, *(row for row, _ in NO_PROMPT)])
    said = chunk(tmp_path, code=2)
    assert "in.jsonl:2: no prompt" in said
    rejected = [json.loads(line) for line in (tmp_path / "w/rejected/d.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rejected] == [2, 3, 4, 5, 6, 7]
    for row, (_, says) in zip(rejected, NO_PROMPT, strict=True):
        assert says in row["reason"]


# --- nulls of struct columns -----------------------------------------------------------------------------------------


def tool(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": properties}}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_nulls_that_a_table_adds_to_objects_are_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "name": "f", "arguments": {"a": 1}}]}
    other = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "name": "g", "arguments": {"b": [None, 2]}}],
    }
    rows = [
        {
            "responses_create_params": {"input": [ASKED], "tools": [tool("f", {"a": {"type": "integer"}})]},
            "messages": None,
            "tools": None,
        },
        {
            "responses_create_params": None,
            "messages": [ASKED, called, RETURNED, ASKED],
            "tools": json.dumps([tool("f", {"a": {"default": None}})]),
        },
        {
            "responses_create_params": None,
            "messages": [ASKED, other, RETURNED, ASKED],
            "tools": json.dumps([tool("g", {"b": {"enum": [None, 2]}})]),
        },
        {
            "responses_create_params": {"input": None, "tools": [tool("g", {"b": {"type": "array"}})]},
            "messages": None,
            "tools": None,
        },
    ]
    table = pa.Table.from_pylist(rows)
    if kind == "parquet":
        pq.write_table(table, tmp_path / "in.parquet")
    else:
        with pa.ipc.new_file(tmp_path / "in.arrow", table.schema) as writer:
            writer.write_table(table)
    said = chunk(tmp_path, file=f"in.{kind}")
    assert "4 nulls left out of the tools and messages of 4 rows" in said
    tools = [json.loads(text) for (text,) in query(tmp_path / "w", "SELECT tools::VARCHAR FROM tasks ORDER BY line")]
    assert [each[0]["function"]["parameters"]["properties"] for each in tools] == [
        {"a": {"type": "integer"}},
        {"a": {"default": None}},
        {"b": {"enum": [None, 2]}},
        {"b": {"type": "array"}},
    ]
    calls = [found[1]["tool_calls"][0]["function"]["arguments"] for found in prompts(tmp_path)[1:3]]
    assert calls == ['{"a":1}', '{"b":[null,2]}']


def test_a_null_that_a_line_of_json_holds_stays(tmp_path: Path) -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "name": "f", "arguments": {"a": None}}]}
    write_jsonl(
        tmp_path / "in.jsonl", [{"messages": [ASKED, called, RETURNED, ASKED], "tools": [tool("f", {"a": None})]}]
    )
    assert "left out" not in chunk(tmp_path)
    assert prompts(tmp_path)[0][1]["tool_calls"][0]["function"]["arguments"] == '{"a":null}'


# --- an answer at the end of a prompt --------------------------------------------------------------------------------


def test_a_prompt_that_ends_with_its_answer_is_announced_and_the_answer_taken_out(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    called = [{**CALLED, "content": "Let me add."}, RETURNED, {"role": "assistant", "content": "2"}]
    rows = [{"conversations": turns}, {"messages": [ASKED, *called], "answer": "two"}, {"prompt": "Q"}]
    write_jsonl(tmp_path / "in.jsonl", rows)
    said = chunk(tmp_path)
    assert "2 prompts end with an assistant turn" in said
    assert "in.jsonl:1" in said
    assert "--last_turn=answer" in said
    (tmp_path / "r.toml").write_text('data = "w"\n[datasets.d]\ninput = "in.jsonl"\n')
    assert "WARN d: of the first 1,000 rows, 2 prompts end" in rolloutops("check", "r.toml", cwd=tmp_path).stdout
    taken = rolloutops("chunk", "--input=in.jsonl", "--data=v", "--last_turn=answer", cwd=tmp_path).stderr
    assert "the last turn of 2 tasks was removed from the prompt" in taken
    found = query(tmp_path / "v", "SELECT prompt::VARCHAR, answer FROM tasks ORDER BY line")
    assert [(json.loads(prompt), answer) for prompt, answer in found] == [
        ([ASKED], "A"),
        ([ASKED], "two"),
        ([ASKED], None),
    ]
    (tmp_path / "r.toml").write_text('data = "w"\n[datasets.d]\ninput = "in.jsonl"\nlast_turn = "answer"\n')
    assert "WARN" not in rolloutops("check", "r.toml", cwd=tmp_path).stdout
    assert "last_turn must be" in chunk(tmp_path, "--last_turn=gold", code=2)


# --- whatever comes --------------------------------------------------------------------------------------------------

NEEDLE = "Ñeedle"
NAMES = st.sampled_from(
    [
        *("messages", "conversations", "prompt", "question", "instruction", "input", "contents", "system", "tools"),
        *("role", "from", "content", "value", "text", "parts", "type", "thinking", "reasoning", "summary", "output"),
        *("tool_calls", "name", "arguments", "image", "title", "note", "history", "responses_create_params"),
    ]
)
TYPES = st.sampled_from(
    ["text", "input_text", "refusal", "thinking", "tool_use", "tool_result", "image", "message", "memo"]
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "human", "model"])
LEAF = st.sampled_from([NEEDLE, NEEDLE, "", "other", None, 1, True]) | TYPES | ROLES
ANY = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3),
    max_leaves=8,
)
CONTENT = st.lists(
    st.dictionaries(NAMES, ANY, max_size=3).flatmap(
        lambda part: st.builds(lambda kind: part | kind, st.builds(lambda kind: {"type": kind}, TYPES) | st.just({}))
    ),
    min_size=1,
    max_size=3,
)
TURN = st.builds(lambda role, content: {"role": role, "content": content}, ROLES, CONTENT | ANY)
ROW = (
    st.builds(lambda turns: {"messages": turns}, st.lists(TURN, min_size=1, max_size=3))
    | st.builds(lambda content: {"prompt": content}, CONTENT | ANY)
    | st.dictionaries(NAMES, ANY, min_size=1, max_size=4)
)
SLOW = settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
)


@SLOW
@given(rows=st.lists(ROW, min_size=60, max_size=60))
@example(rows=[{"contents": {"text": {"reasoning": 1}}}, {"contents": [{"parts": [{"type": "text", "text": ["a"]}]}]}])
def test_text_anywhere_is_found_again_or_its_line_is_rejected(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [{"n": number, **row} for number, row in enumerate(rows)] + [{"n": -1, "prompt": "Q"}]
    write_jsonl(folder / "in.jsonl", rows)
    rolloutops("chunk", "--input=in.jsonl", "--data=w", "--dataset=d", "--id=n", "--skip_bad_lines", cwd=folder)
    rejects = folder / "w/rejected/d.jsonl"
    rejected = {json.loads(line)["line"] for line in rejects.read_text().splitlines()} if rejects.exists() else set()
    tasks = {
        n: (json.loads(p), row)
        for n, p, row in query(folder / "w", "SELECT line, prompt::VARCHAR, row::VARCHAR FROM tasks")
    }
    assert rejected | tasks.keys() == set(range(1, len(rows) + 1))
    assert not rejected & tasks.keys()
    for line, (prompt, row) in tasks.items():
        assert json.loads(row) == rows[line - 1]
        assert any(said["content"] or said.keys() & {"tool_calls", "reasoning_content"} for said in prompt), row


@SLOW
@given(rows=st.lists(st.dictionaries(NAMES, ANY, max_size=4), min_size=40, max_size=40), seed=st.integers(0, 99))
def test_rows_that_differ_in_more_than_how_they_are_written_are_two_tasks(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], seed: int
) -> None:
    folder, shuffle = tmp_path_factory.mktemp("same"), random.Random(seed)
    rows = [{**row, "responses_create_params": {"input": "Q"}} for row in rows]
    again = [dict(shuffle.sample(list(row.items()), len(row))) for row in rows]
    lines = [json.dumps(row) for row in rows] + [
        json.dumps(row, indent=None, separators=(" ,", " : ")) for row in again
    ]
    (folder / "in.jsonl").write_text("\n".join(lines))
    rolloutops("chunk", "--input=in.jsonl", "--data=w", "--dataset=d", "--skip_bad_lines", cwd=folder)
    rejects = folder / "w/rejected/d.jsonl"
    bad = {json.loads(line)["line"] for line in rejects.read_text().splitlines()} if rejects.exists() else set()
    assert all(number + len(rows) in bad for number in bad if number <= len(rows)), "a line is bad in both forms"
    different = {json.dumps(row, sort_keys=True) for number, row in enumerate(rows, 1) if number not in bad}
    assert query(folder / "w", "SELECT count(*), count(DISTINCT task_id) FROM tasks") == [
        (len(different), len(different))
    ]
