"""Import, through the command line on files of many formats: each row's shape is recognized by name, what was asked
decides the task, and nothing vanishes."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rolloutops.formats.columns import ANSWER_COLUMNS, ENVIRONMENT_COLUMNS
from rolloutops.formats.prompt_shapes import PROMPT_COLUMNS
from rolloutops.formats.rollouts.task_keys import OF_THE_TASK
from rolloutops.ingest.import_rollouts import import_rollouts
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace, connect, open_workspace
from tests.helpers import query, read_jsonl, rolloutops, sums, write_jsonl

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ASK = [{"role": "user", "content": "Where?"}]

KNOWN: dict[str, tuple[dict[str, Any], str, str, list[str]]] = {
    # name: (row, prompt's last text, texts of the rollouts joined, names of tools called)
    "trl": ({"prompt": "Where?", "completion": "Here."}, "Where?", "Here.", []),
    "trl_chat": ({"prompt": ASK, "completion": [{"role": "assistant", "content": "Here."}]}, "Where?", "Here.", []),
    "verifiers": (
        {
            "example_id": 3,
            "prompt": ASK,
            "completion": [
                {"role": "assistant", "content": "", "tool_calls": [json.dumps(CALL)]},
                {"role": "tool", "content": "1", "tool_call_id": "c1", "tool_calls": None},
                {"role": "assistant", "content": "Here.", "tool_calls": None},
            ],
            "info": {"seed": 1},
            "answer": "here",
            "reward": 0.5,
            "metrics": {"format": 1.0},
            "format": 1.0,
            "tool_defs": [TOOL["function"]],
            "token_usage": {"input_tokens": 7.0, "output_tokens": 3.0},
            "is_truncated": False,
            "error": None,
        },
        "Where?",
        "Here.",
        ["look"],
    ),
    "open_r1": (
        {"problem": "Where?", "generations": ["Here.", "There."], "answer": "here"},
        "Where?",
        "Here.There.",
        [],
    ),
    "vllm": (
        {"prompt": "Where?", "outputs": [{"index": 0, "text": "Here.", "token_ids": [1], "finish_reason": "length"}]},
        "Where?",
        "Here.",
        [],
    ),
    "query": ({"query": "Where?", "model_output": "Here."}, "Where?", "Here.", []),
    "alpaca": (
        {"instruction": "Say", "input": "Where?", "output": "Here.", "system": "Be kind", "history": [["a", "b"]]},
        "Say\nWhere?",
        "Here.",
        [],
    ),
    "ranking": ({"instruction": "Where?", "input": "", "output": ["Here.", "There."]}, "Where?", "Here.There.", []),
    "printed_by_python": (
        {"messages": repr([*ASK, {"role": "assistant", "content": "Here."}])},
        "Where?",
        "Here.",
        [],
    ),
    "sharegpt": (
        {
            "conversations": [
                {"from": "human", "value": "Where?"},
                {"from": "function_call", "value": '{"name": "look", "arguments": {"at": 1}}'},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "Here."},
            ],
            "system": "Be kind",
            "tools": json.dumps([TOOL]),
        },
        "Where?",
        "Here.",
        ["look"],
    ),
    "text_of_table": (
        {"messages": json.dumps([*ASK, {"role": "assistant", "content": "Here."}])},
        "Where?",
        "Here.",
        [],
    ),
    "vertex": (
        {
            "request": {"contents": [{"role": "user", "parts": [{"text": "Where?"}]}]},
            "response": {
                "candidates": [{"content": {"role": "model", "parts": [{"text": "Here."}]}, "finishReason": "STOP"}]
            },
            "status": "",
        },
        "Where?",
        "Here.",
        [],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_row_of_each_format_comes_in_whole(tmp_path: Path, name: str) -> None:
    row, prompt, text, tools = KNOWN[name]
    done = import_rollouts(
        open_workspace(tmp_path / "w", create=True), "d", [str(write_jsonl(tmp_path / "r.jsonl", [row]))], "run1"
    )
    assert (done.rejected, done.left_out) == (0, {})
    found = look(
        tmp_path,
        "SELECT t.prompt::VARCHAR, r.text, r.tool_names FROM rollouts AS r JOIN tasks AS t USING (task_id) "
        "ORDER BY r.rollout_index",
    )
    assert "".join(each[1] for each in found) == text
    assert json.loads(found[0][0])[-1] == {"role": "user", "content": prompt}
    assert found[0][2] == tools
    if "system" in row:
        assert json.loads(found[0][0])[0] == {"role": "system", "content": "Be kind"}


LANGCHAIN = [
    {"type": "system", "content": "Be kind", "additional_kwargs": {}, "response_metadata": {}},
    {"type": "human", "content": "Where?", "additional_kwargs": {}, "response_metadata": {}, "example": False},
    {
        "type": "ai",
        "content": "",
        "tool_calls": [{"name": "look", "args": {"at": 1}, "id": "c1", "type": "tool_call"}],
        "invalid_tool_calls": [{"name": "look", "args": "{at", "id": "c2", "error": None, "type": "invalid_tool_call"}],
        "usage_metadata": {"input_tokens": 3},
    },
    {"type": "tool", "content": "1", "tool_call_id": "c1", "status": "success"},
    {"type": "ai", "content": [{"type": "text", "text": "Here."}], "additional_kwargs": {"reasoning_content": "Hm."}},
]


def test_messages_of_langchain_in_tasks_and_rollouts(tmp_path: Path) -> None:
    """Flat, in the objects of its two serializations, under each column, and as an answer beside a prompt."""
    names = {"human": "HumanMessage", "ai": "AIMessage", "system": "SystemMessage", "tool": "ToolMessage"}
    forms = [
        LANGCHAIN,
        [{"type": each["type"], "data": each} for each in LANGCHAIN],
        [{"lc": 1, "type": "constructor", "id": ["x", names[str(each["type"])]], "kwargs": each} for each in LANGCHAIN],
    ]
    rows = [{column: form, "n": n} for n, form in enumerate(forms) for column in ("messages", "conversations", "turns")]
    rows += [{"prompt": LANGCHAIN[:2], "completion": LANGCHAIN[2:], "n": 3}]
    said = rolloutops(
        "import", str(write_jsonl(tmp_path / "r.jsonl", rows)), "--data=w", "--policy=p", cwd=tmp_path
    ).stderr
    assert "messages[].usage_metadata (3)" in said
    found = "SELECT DISTINCT text, tool_names, completion->>'$[0].tool_calls[1].function.arguments', "
    found += "completion->>'$[1].role', completion->>'$[2].reasoning_content' FROM rollouts"
    assert query(tmp_path / "w", found) == [("Here.", ["look", "look"], "{at", "tool", "Hm.")]
    counts = "SELECT count(*), count(DISTINCT task_id) FROM rollouts"
    assert query(tmp_path / "w", counts) == [(10, 1)]
    tasks = [{column: form[:2]} for form in forms for column in ("messages", "prompt", "input", "turns")]
    write_jsonl(tmp_path / "t.jsonl", [*tasks, {"turns": json.dumps(LANGCHAIN[:2])}])
    rolloutops("chunk", "--input=t.jsonl", "--data=v", "--dataset=d", cwd=tmp_path)
    asked = [json.loads(each) for (each,) in query(tmp_path / "v", "SELECT DISTINCT prompt::VARCHAR FROM tasks")]
    assert asked == [[{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Where?"}]]
    assert query(tmp_path / "v", "SELECT count(*) FROM tasks") == [(13,)]


def test_a_preference_row_is_two_rollouts_of_one_task(tmp_path: Path) -> None:
    """As TRL writes it with and without a prompt, as UltraFeedback, LLaMA-Factory, and as texts of a table."""

    def said(text: str) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": text}]

    good, bad = said("Here."), said("There.")
    scored = {"score_chosen": 8.5, "score_rejected": 6.0, "prompt_id": "x"}
    rows: list[dict[str, Any]] = [
        {"prompt": "Where?", "chosen": "Here.", "rejected": "There."},
        {"prompt": ASK, "chosen": good, "rejected": bad},
        {"chosen": [*ASK, *good], "rejected": [*ASK, *bad]},
        {"chosen": json.dumps([*ASK, *good]), "rejected": repr([*ASK, *bad])},
        {"prompt": "Where?", "chosen": [*ASK, *good], "rejected": [*ASK, *bad], "messages": [*ASK, *good], **scored},
        {
            "conversations": [{"from": "human", "value": "Where?"}],
            "chosen": {"from": "gpt", "value": "Here."},
            "rejected": {"from": "gpt", "value": "There."},
        },
        {"instruction": "Where?", "input": "", "chosen": "Here.", "rejected": "There."},
    ]
    write_jsonl(tmp_path / "r.jsonl", [{**row, "source": n} for n, row in enumerate(rows)])
    told = rolloutops("import", "r.jsonl", "--data=w", cwd=tmp_path).stderr
    assert "recognized: preference (7)" in told
    for name in ("messages (1)", "prompt_id (1)", "source (7)"):
        assert name in told
    found = "SELECT text, reward, verifier, policy, count(*), count(DISTINCT task_id), max(metrics['score']) "
    found += "FROM rollouts GROUP BY ALL ORDER BY ALL"
    assert query(tmp_path / "w", found) == [
        ("Here.", 1.0, "preference", "imported", 7, 1, 8.5),
        ("There.", 0.0, "preference", "imported", 7, 1, 6.0),
    ]
    told = rolloutops("chunk", "--input=r.jsonl", "--data=v", "--dataset=d", cwd=tmp_path).stderr
    assert "chosen (7)" in told
    assert "rejected (7)" in told
    assert query(tmp_path / "v", "SELECT DISTINCT prompt::VARCHAR FROM tasks") == [
        (json.dumps(ASK, separators=(",", ":")),)
    ]
    models = {"prompt": "Why?", "chosen": "a", "rejected": "b", "chosen-model": "x/big", "rejected-model": "small"}
    write_jsonl(tmp_path / "m.jsonl", [models, {"prompt": "Why?", "chosen": "a", "rejected": [{"role": "assistant"}]}])
    told = rolloutops("import", "m.jsonl", "--data=u", cwd=tmp_path, code=2).stderr
    assert "m.jsonl:2: rejected: the answer is empty" in told
    assert query(tmp_path / "u", "SELECT policy, text FROM rollouts ORDER BY ALL") == [("big", "a"), ("small", "b")]


def test_verifiers_results_keep_reward_metrics_tools_and_tokens(tmp_path: Path) -> None:
    rows = [
        KNOWN["verifiers"][0],
        {"example_id": 4, "prompt": ASK, "completion": None, "reward": 0.0, "error": "Timeout"},
    ]
    write_jsonl(tmp_path / "results.jsonl", rows)
    said = rolloutops("import", "results.jsonl", "--data=w", cwd=tmp_path).stderr
    assert "recognized: prompt + completion (2)" in said
    facts = "SELECT reward, metrics['format'], answer, tools->>'$[0].function.name', input_tokens, output_tokens "
    facts += "FROM rollouts"
    assert query(tmp_path / "w", facts) == [(0.5, 1.0, "here", "look", 7, 3)]
    assert query(tmp_path / "w", "SELECT error, error_message FROM attempts WHERE error IS NOT NULL") == [
        ("server_error", "Timeout")
    ]


def test_rows_without_an_answer_are_rejected_with_their_keys(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Where?", "response": "Here."},
        {"question": "Where?", "answer": "here"},
        {"chosen": "x", "rejected": "y"},
        {"prompt": "Where?", "response": ""},
        {"prompt": "Where?", "response": {"code": 3}},
        {"conversations": [{"from": "human", "value": "Where?"}]},
        {"responses": ["a"], "reward": 1.0},
    ]
    write_jsonl(tmp_path / "r.jsonl", rows)
    rolloutops("import", "r.jsonl", "--data=w", cwd=tmp_path, code=2)
    reasons = {row["line"]: row["reason"] for row in read_jsonl(tmp_path / "w" / "rejected" / "r.import.jsonl")}
    assert sorted(reasons) == [2, 3, 4, 5, 6, 7]
    assert "answer is the expected one" in reasons[2]
    assert reasons[2].endswith("its keys: answer, question")
    assert reasons[3] == "not a known format of rollouts; its keys: chosen, rejected"
    assert reasons[4] == "response: the answer is empty; the row has the keys prompt, response"
    assert "an answer with none of text" in reasons[5]
    assert reasons[6].endswith("the row has the keys conversations")


def test_nulls_of_a_table_and_what_messages_hold_besides_are_counted(tmp_path: Path) -> None:
    """An object in Parquet has the keys of all rows' objects; what no reader knows inside messages is announced."""
    made = [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    schema = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x", None], "title": None}}}
    rows = [
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Where?", "video": None}]}],
            "completion": [
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": each}}]}
            ],
            "tool_defs": [{"name": "f", "parameters": schema | {"description": None}}],
        }
        for each in made
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    told = [{"role": "user", "content": "Why?", "mood": "sad"}]
    told.append({"role": "assistant", "content": [{"kind": "chart", "bars": [1]}, "So."], "thoughts": "Hm."})
    write_jsonl(tmp_path / "told.jsonl", [{"messages": told}])
    said = rolloutops("import", "table.parquet", "told.jsonl", "--data=w", cwd=tmp_path).stderr
    assert "table: 8 nulls left out: the file's format" in said
    assert "told: fields not used, kept in the column response only: messages[].mood (1), messages[].thoughts" in said
    assert "told: content parts of unknown types, kept as they are: {kind, bars} (1)" in said
    found = query(tmp_path / "w", "SELECT tools::VARCHAR, completion::VARCHAR FROM rollouts WHERE dataset = 'table'")
    calls = [json.loads(each[1])[0]["tool_calls"][0]["function"]["arguments"] for each in found]
    assert sorted(calls) == ['{"a":1}', '{"b":"x"}']
    assert all(json.loads(each[0])[0]["function"]["parameters"]["properties"] for each in found)
    assert {each[0].count("null") for each in found} == {1}  # of the enum, whose author wrote it
    again = rolloutops("import", "table.parquet", "--data=w", cwd=tmp_path).stderr
    assert query(tmp_path / "w", "SELECT count(*) FROM rollouts WHERE dataset = 'table'") == [(2,)], again


def test_an_answer_of_a_gym_row_is_read_or_announced(tmp_path: Path) -> None:
    """A response whose text stands elsewhere than in items is not an empty answer without a word."""
    responses: list[Any] = [
        {"output": "Here."},
        {"output_text": "There."},
        {"choices": [{"message": {"content": "Lost."}}]},
        {"output": [{"type": "speech", "words": "Lost."}]},
        {"output": []},
    ]
    rows = [
        {"responses_create_params": {"input": ASK}, "reward": 1.0, "_ng_task_index": number, "response": response}
        for number, response in enumerate(responses)
    ]
    write_jsonl(tmp_path / "r.jsonl", rows)
    said = rolloutops("import", "r.jsonl", "--data=w", cwd=tmp_path).stderr
    assert "fields not used, kept in the column response only: response (1), response.output[].speech (1)" in said
    found = query(tmp_path / "w", "SELECT text FROM rollouts ORDER BY text")
    assert [each[0] for each in found] == ["", "", "", "Here.", "There."]


def test_batches_of_three_providers_with_the_same_ids(tmp_path: Path) -> None:
    """Each request file with its answers is one dataset; of several answers to a request each is a rollout."""
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    choices = [
        {"index": n, "message": {"role": "assistant", "content": f"o{n}"}, "finish_reason": "stop"} for n in (0, 1)
    ]
    files: dict[str, dict[str, Any]] = {
        "openai_requests": {"custom_id": "1", "url": "/v1/x", "body": {"model": "gpt", "messages": ASK, "n": 2}},
        "openai_output": {
            "id": "b1",
            "custom_id": "1",
            "response": {"status_code": 200, "body": {"model": "gpt-1", "choices": choices, "usage": usage}},
        },
        "anthropic_requests": {
            "custom_id": "1",
            "params": {
                "model": "claude",
                "system": [{"type": "text", "text": "Be kind", "cache_control": {"type": "ephemeral"}}],
                "messages": [
                    {"role": "user", "content": "Where?"},
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}}],
                    },
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "1"}]},
                ],
                "tools": [{"name": "look", "input_schema": {"type": "object", "properties": {}}}],
            },
        },
        "anthropic_results": {
            "custom_id": "1",
            "result": {
                "type": "succeeded",
                "message": {
                    "id": "m1",
                    "model": "claude-9",
                    "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a0"}],
                    "stop_reason": "max_tokens",
                    "usage": {"input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 4},
                },
            },
        },
        "gemini_input": {
            "key": "1",
            "request": {
                "contents": [{"role": "user", "parts": [{"text": "Where?"}]}],
                "system_instruction": {"parts": [{"text": "Be kind"}]},
                "tools": [{"functionDeclarations": [{"name": "look", "parameters": {"type": "OBJECT"}}]}],
            },
        },
        "gemini_output": {
            "key": "1",
            "response": {
                "candidates": [
                    {"content": {"parts": [{"text": "t", "thought": True}, {"text": "g0"}]}, "finishReason": "STOP"},
                    {
                        "content": {"parts": [{"functionCall": {"name": "look", "args": {"at": 1}}}]},
                        "finishReason": "STOP",
                    },
                ],
                "usageMetadata": {"promptTokenCount": 6, "candidatesTokenCount": 3, "thoughtsTokenCount": 2},
                "modelVersion": "gemini-9",
            },
        },
    }
    for name, row in files.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [row])
    rolloutops("import", *(f"{name}.jsonl" for name in files), "--data=w", cwd=tmp_path)
    facts = "SELECT dataset, policy, text, finish_reason, input_tokens, output_tokens, tool_names FROM rollouts "
    facts += "ORDER BY ALL"
    assert query(tmp_path / "w", facts) == [
        ("anthropic_requests", "claude-9", "a0", "length", 5, 4, []),
        ("gemini_input", "gemini-9", "", "tool_calls", None, 2, ["look"]),
        ("gemini_input", "gemini-9", "g0", "stop", 6, 3, []),
        ("openai_requests", "gpt-1", "o0", "stop", 5, 4, []),
        ("openai_requests", "gpt-1", "o1", "stop", None, 3, []),
    ]
    asked = "SELECT prompt->>'$[0].role', json_array_length(prompt), tools->>'$[0].function.name' "
    asked += "FROM tasks ORDER BY dataset"
    assert query(tmp_path / "w", asked) == [("system", 4, "look"), ("system", 2, "look"), ("user", 1, None)]


def test_batches_of_bedrock_with_their_input(tmp_path: Path) -> None:
    """Each family of models has bodies of its own; a failed record is a failure."""
    says = [{"text": "Here."}]
    spec = {"name": "look", "inputSchema": {"json": {"type": "object", "properties": {}}}}
    use = {"toolUse": {"toolUseId": "c1", "name": "look", "input": {"at": 1}}}
    counts = {"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokens": 4}
    claude = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": ASK}
    converse = {"messages": [{"role": "user", "content": [{"text": "Where?"}]}], "system": [{"text": "Be kind"}]}
    choice = {"message": {"role": "assistant", "content": "Here."}, "finish_reason": "stop"}
    pairs: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
        (claude, {"id": "m", "model": "claude-x", "content": [{"type": "text", "text": "Here."}]}),
        (
            {**converse, "toolConfig": {"tools": [{"toolSpec": spec}]}},
            {
                "output": {"message": {"role": "assistant", "content": [*says, use]}},
                "stopReason": "tool_use",
                "usage": counts,
            },
        ),
        ({"messages": ASK}, {"model": "qwen", "choices": [choice]}),
        ({"prompt": "Where?"}, {"generation": "Here.", "prompt_token_count": 3, "stop_reason": "length"}),
        ({"inputText": "Where?"}, {"inputTextTokenCount": 3, "results": [{"outputText": "Here.", "tokenCount": 2}]}),
        ({"prompt": "Where?"}, {"outputs": [{"text": "Here.", "stop_reason": "stop"}]}),
        ({"prompt": "Why?"}, None),
        ({"prompt": "When?"}, {"thing": 1}),
    ]
    asked = [{"recordId": f"R{n}", "modelInput": body} for n, (body, _) in enumerate(pairs)]
    failed = {"error": {"errorCode": 400, "errorMessage": "Too long"}}
    done = [{**row, **({"modelOutput": out} if out else failed)} for row, (_, out) in zip(asked, pairs, strict=True)]
    write_jsonl(tmp_path / "b.jsonl", asked)
    write_jsonl(tmp_path / "b.jsonl.out", done)
    said = rolloutops("import", "b.jsonl", "b.jsonl.out", "--data=w", "--policy=p", cwd=tmp_path, code=2).stderr
    assert "Bedrock batch request (8), Bedrock batch output (7)" in said
    assert "b.jsonl.out:8: modelOutput holds no answer" in said
    facts = "SELECT dataset, text, count(*), sum(input_tokens), max(cached_tokens) FROM rollouts GROUP BY ALL"
    assert query(tmp_path / "w", facts) == [("b", "Here.", 6, 13, 4)]
    failures = "SELECT error_message FROM attempts WHERE error IS NOT NULL"
    assert query(tmp_path / "w", failures) == [("400: Too long",)]
    found = "SELECT tool_names, finish_reason FROM rollouts WHERE tools IS NOT NULL AND tools::VARCHAR <> '[]'"
    assert query(tmp_path / "w", found) == [(["look"], "tool_calls")]


def test_refused_and_failed_answers_of_batches_come_in_as_if_collected(tmp_path: Path) -> None:
    """What a prompt was refused for is a failure with its reason; what the model wrote and nobody could read is a
    rollout."""
    errors = {
        "filtered": (400, {"code": "content_filter", "message": "The response was filtered"}),
        "limited": (429, {"code": "rate_limit_exceeded", "message": "Slow down"}),
        "unread": (400, {"code": "tool_use_failed", "message": "Failed to call", "failed_generation": "<f>"}),
    }
    openai = [
        {"custom_id": name, "response": {"status_code": status, "body": {"error": error}}, "error": None}
        for name, (status, error) in errors.items()
    ]
    gone = {"custom_id": "late", "response": None, "error": {"code": "batch_expired", "message": "Not in time"}}
    results: dict[str, dict[str, Any]] = {
        "unread": {"type": "succeeded", "message": {"model": "c", "content": [], "stop_reason": "refusal"}},
        "filtered": {
            "type": "errored",
            "error": {
                "type": "error",
                "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
            },
        },
        "limited": {
            "type": "errored",
            "error": {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
        },
        "late": {"type": "expired"},
    }
    malformed = {
        "finishReason": "MALFORMED_FUNCTION_CALL",
        "finishMessage": "Malformed function call: look(",
        "index": 0,
    }
    responses: dict[str, dict[str, Any]] = {
        "unread": {"response": {"candidates": [malformed], "modelVersion": "g"}},
        "filtered": {"response": {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}},
        "limited": {"error": {"code": 8, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}},
        "late": {"response": {"candidates": [{"finishReason": "SAFETY"}], "modelVersion": "g"}},
    }
    names = [*errors, "late"]
    write_jsonl(tmp_path / "o_input.jsonl", [request(name, name, "o") for name in names])
    write_jsonl(tmp_path / "o_output.jsonl", [*openai, gone])
    asked = [{"custom_id": name, "params": {"model": "c", "messages": ASK}} for name in names]
    write_jsonl(tmp_path / "a_input.jsonl", asked)
    write_jsonl(tmp_path / "a_output.jsonl", [{"custom_id": name, "result": results[name]} for name in names])
    requests = [{"key": name, "request": {"contents": [{"parts": [{"text": name}]}]}} for name in names]
    write_jsonl(tmp_path / "g_input.jsonl", requests)
    write_jsonl(tmp_path / "g_output.jsonl", [{"key": name, **responses[name]} for name in names])
    done = rolloutops(
        "import", *(f"{of}_{what}.jsonl" for of in "oag" for what in ("input", "output")), "--data=w", cwd=tmp_path
    )
    reasons = "1 content_filter, 1 generation_refused, 1 rate_limited, 1 server_error"
    assert f"o_input: failed or refused: {reasons}" in done.stdout + done.stderr
    kept = "SELECT dataset, text, finish_reason, error_message FROM attempts WHERE error IS NULL ORDER BY dataset"
    assert query(tmp_path / "w", kept) == [
        ("g_input", "", "MALFORMED_FUNCTION_CALL", "Malformed function call: look("),
        ("o_input", "<f>", "generation_refused", "Failed to call"),
    ]
    failed = "SELECT dataset[1], list(error ORDER BY error) FROM failures GROUP BY dataset ORDER BY dataset"
    assert query(tmp_path / "w", failed) == [
        ("a", ["content_filter", "content_filter", "server_error", "server_error"]),
        ("g", ["content_filter", "content_filter", "rate_limited"]),
        ("o", ["content_filter", "rate_limited", "server_error"]),
    ]
    why = "SELECT count(*) FROM failures WHERE error_message ~ 'filtered|blocking|blocked|PROHIBITED|SAFETY|refused'"
    assert query(tmp_path / "w", why) == [(5,)]


def request(name: str, prompt: str, model: str) -> dict[str, Any]:
    return {"custom_id": name, "body": {"model": model, "messages": [{"role": "user", "content": prompt}]}}


def answered(name: str, text: str, model: str) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": text,
        "custom_id": name,
        "response": {"status_code": 200, "body": {"model": model, "choices": [choice]}},
    }


def test_batches_that_share_ids_are_told_apart_by_file_and_model(tmp_path: Path) -> None:
    for name, prompt, model in (("a", "A?", "m1"), ("b", "B?", "m1"), ("c", "C?", "m2")):
        write_jsonl(tmp_path / f"{name}_input.jsonl", [request("r0", prompt, model)])
    write_jsonl(tmp_path / "a_output.jsonl", [answered("r0", "to A", "m1-2026")])
    write_jsonl(tmp_path / "b_output.jsonl", [answered("r0", "to B", "m1-2026")])
    write_jsonl(tmp_path / "late.jsonl", [answered("r0", "to C", "m2-2026")])
    rolloutops(
        "import", *sorted(path.name for path in tmp_path.glob("*.jsonl")), "--data=w", "--dataset=d", cwd=tmp_path
    )
    pairs = "SELECT prompt->>'$[0].content', text FROM rollouts ORDER BY ALL"
    assert query(tmp_path / "w", pairs) == [("A?", "to A"), ("B?", "to B"), ("C?", "to C")]
    write_jsonl(tmp_path / "other.jsonl", [answered("r0", "to whom", "m1-2026")])
    said = rolloutops(
        "import", "a_input.jsonl", "b_input.jsonl", "other.jsonl", "--data=v", "--dataset=d", cwd=tmp_path, code=2
    )
    assert "'r0' is in a_input.jsonl and b_input.jsonl with different prompts" in said.stderr


def test_answers_of_another_batch_are_not_tied_to_the_only_requests(tmp_path: Path) -> None:
    """Ids that they share by chance do not tie them, also where the model is the same."""
    write_jsonl(tmp_path / "a_input.jsonl", [request(f"r{n}", f"{n}?", "m1") for n in range(2)])
    write_jsonl(tmp_path / "a_output.jsonl", [answered("r0", "to A", "m1-2026")])
    write_jsonl(tmp_path / "late.jsonl", [answered("r1", "late", "m1-2026")])
    write_jsonl(tmp_path / "other.jsonl", [answered(f"r{n}", f"other {n}", "m1-2026") for n in (1, 2, 3)])
    for dataset in (["--dataset=d"], []):
        said = rolloutops("import", "a_input.jsonl", "other.jsonl", "--data=w", *dataset, cwd=tmp_path, code=2).stderr
        assert "other.jsonl:1: its custom_id 'r1' has a request here, but 2 of the 3 answers in this file" in said
        assert "other.jsonl:2: its task is in none of the files" in said
    names = ["a_input.jsonl", "a_output.jsonl", "late.jsonl", "other.jsonl"]
    rolloutops("import", *names, "--data=v", "--dataset=d", cwd=tmp_path, code=2)
    assert query(tmp_path / "v", "SELECT text FROM rollouts ORDER BY ALL") == [("late",), ("to A",)]


def test_each_file_is_a_dataset_and_a_field_can_name_them(tmp_path: Path) -> None:
    rows = [
        {"task_name": name, "uid": n, "prompt": f"{n}?", "response": "x"}
        for n, name in enumerate(["math", "code", "math"])
    ]
    write_jsonl(tmp_path / "one.jsonl", rows[:1])
    write_jsonl(tmp_path / "two.jsonl", rows[1:])
    rolloutops("import", "one.jsonl", "two.jsonl", "--data=w", cwd=tmp_path)
    sizes = "SELECT dataset, count(*) FROM rollouts GROUP BY ALL ORDER BY ALL"
    assert query(tmp_path / "w", sizes) == [("one", 1), ("two", 2)]
    write_jsonl(tmp_path / "three.jsonl", [{"prompt": "?", "response": "nameless", "uid": 9}])
    words = ["one.jsonl", "two.jsonl", "three.jsonl", "--data=v", "--dataset_field=task_name", "--id=uid"]
    said = rolloutops("import", *words, cwd=tmp_path, code=2).stderr
    assert "three.jsonl:1: the dataset field 'task_name' is missing" in said
    ids = "SELECT dataset, task_id FROM rollouts ORDER BY ALL"
    assert query(tmp_path / "v", ids) == [("code", "1"), ("math", "0"), ("math", "2")]
    write_jsonl(tmp_path / "four.jsonl", [{"uid": 2, "prompt": "?", "response": "x"}, {"prompt": "?", "response": "x"}])
    said = rolloutops("import", "four.jsonl", "--data=v", "--dataset=math", "--id=uid", cwd=tmp_path, code=2).stderr
    assert "four.jsonl:1: its id '2' is that of another task" in said
    assert "four.jsonl:2: the id field 'uid' is missing" in said


def test_every_field_of_a_task_survives_export_and_import(tmp_path: Path) -> None:
    """Also those that only a custom environment or the judge's prompt reads."""
    tasks: list[dict[str, Any]] = [
        {
            **row,
            "rubric": f"r{row['n']}",
            "tests": ["assert True"],
            "meta": {"deep": [1]},
            "document": "d",
            "options": ["A"],
        }
        for row in sums(3)
    ]
    write_jsonl(tmp_path / "tasks.jsonl", tasks)
    rolloutops(
        "collect", "--input=tasks.jsonl", "--environment=exact_match", "--engine=scripted", "--data=w", cwd=tmp_path
    )
    rolloutops("export", "--data=w", "--output=out.jsonl", cwd=tmp_path)
    rolloutops("import", "out.jsonl", "--data=v", "--dataset=d", cwd=tmp_path)
    rows = [json.loads(row) for (row,) in query(tmp_path / "v", "SELECT row::VARCHAR FROM tasks ORDER BY row->'n'")]
    assert rows == tasks
    rolloutops("verify", "--data=v", "--dataset=d", "--environment=exact_match", cwd=tmp_path)
    rewards = "SELECT text, reward FROM rollouts ORDER BY ALL"
    assert query(tmp_path / "v", rewards) == query(tmp_path / "w", rewards)


def test_parts_and_fields_that_no_reader_knows_are_kept_and_counted(tmp_path: Path) -> None:
    hologram = {"type": "hologram", "data": [1]}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Where?"}, hologram], "weight": 0.5},
        {"role": "assistant", "content": "Here.", "mood": "calm"},
    ]
    rows = [{"messages": turns, "origin": "x"}, {"prompt": turns[:1], "response": turns[1:], "origin": "x"}]
    write_jsonl(tmp_path / "r.jsonl", rows)
    said = rolloutops("import", "r.jsonl", "--data=w", cwd=tmp_path).stderr
    assert "content parts of unknown types, kept as they are: hologram (2)" in said
    for name in ("origin (2)", "messages[].weight (1)", "messages[].mood (1)", "prompt[].weight (1)"):
        assert name in said
    assert "response[].mood (1)" in said
    assert query(tmp_path / "w", "SELECT DISTINCT prompt->'$[0].content[1].data' FROM tasks") == [("[1]",)]


def test_nulls_that_parquet_adds_to_objects_are_left_out(tmp_path: Path) -> None:
    """The task is the one that the same rows have as JSON lines."""
    schema = {"type": "object", "properties": {"at": {"type": "integer"}}}
    tools = [{"name": "look", "parameters": schema}, {"name": "stop", "parameters": {**schema, "required": ["at"]}}]
    rows = [{"prompt": ASK, "completion": [{"role": "assistant", "content": "Here."}], "tools": tools}]
    write_jsonl(tmp_path / "lines.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    said = rolloutops("import", "lines.jsonl", "table.parquet", "--data=w", cwd=tmp_path).stderr
    assert "left out: the file's format adds them to objects that lack a key" in said
    asked = query(tmp_path / "w", "SELECT dataset, prompt_hash, tools::VARCHAR FROM tasks ORDER BY dataset")
    assert [dataset for dataset, _, _ in asked] == ["lines", "table"]
    assert asked[0][1:] == asked[1][1:]


def test_every_field_that_an_environment_reads_is_the_tasks() -> None:
    for module in (Path(__file__).parents[1] / "rolloutops" / "environments").glob("*.py"):
        read = set(re.findall(r"""\brow(?:\.get\(|\[)"(\w+)\"""", module.read_text()))
        declared = {*ENVIRONMENT_COLUMNS.get(module.stem, ()), *ANSWER_COLUMNS, *PROMPT_COLUMNS}
        assert read <= declared, module
        assert declared - {*PROMPT_COLUMNS} <= {*OF_THE_TASK}


def look(tmp_path: Path, text: str) -> list[tuple[Any, ...]]:
    return sql.rows(connect(Workspace(tmp_path / "w")), text)


TEXTS = st.sampled_from(["a", "b"])
ASKED = st.fixed_dictionaries(
    {"prompt": TEXTS},
    optional={
        "system": TEXTS,
        "tools": st.sampled_from([[], [TOOL]]),
        "answer": TEXTS,
        "info": st.sampled_from([{"k": 1}, {"k": 2}]),
        "options": st.sampled_from([["x"], ["y"]]),
        "tests": st.sampled_from([["assert 1"], ["assert 2"]]),
        "images": st.sampled_from([["https://x.invalid/1.png"], ["https://x.invalid/2.png"]]),
    },
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ASKED, st.booleans()), min_size=2, max_size=40))
def test_rollouts_share_a_task_exactly_if_all_that_was_asked_is_equal(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[dict[str, Any], bool]]
) -> None:
    """As a chat log or as prompt and response, in one import or in two."""
    folder, rows = tmp_path_factory.mktemp("identity"), []
    for number, (asked, as_chat) in enumerate(drawn):
        rest = {key: value for key, value in asked.items() if key != "prompt"} | {"id": number, "model": f"m{number}"}
        turns = [{"role": "user", "content": asked["prompt"]}, {"role": "assistant", "content": f"text {number}"}]
        rows.append({"messages": turns, **rest} if as_chat else {**asked, **rest, "response": f"text {number}"})
    write_jsonl(folder / "r.jsonl", rows)
    import_rollouts(open_workspace(folder / "w", create=True), "d", [str(folder / "r.jsonl")], "run1")
    tasks = dict(sql.rows(connect(Workspace(folder / "w")), "SELECT text, task_id FROM rollouts"))
    expected, found = defaultdict(set), defaultdict(set)
    for number, (asked, _) in enumerate(drawn):
        same = json.dumps({key: value for key, value in asked.items() if value != []}, sort_keys=True)
        expected[same].add(number)
        found[tasks[f"text {number}"]].add(number)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected.values()))


FIELDS = (
    *("messages", "conversations", "prompt", "completion", "response", "responses", "output", "outputs", "instruction"),
    *("input", "question", "system", "history", "generation", "custom_id", "body", "result", "key", "request", "text"),
)
WORD = st.text("abcäß漢 ", min_size=1, max_size=6)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "critic"])},
    optional={"content": WORD | st.lists(WORD, max_size=2) | st.none(), "value": WORD},
)
VALUE = st.recursive(
    WORD | st.none() | st.integers(0, 9) | st.lists(TURN, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "text"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=5), min_size=1, max_size=60))
def test_any_object_is_found_in_the_tables_or_rejected_by_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [{"prompt": "p", "response": "r"}, *rows]
    write_jsonl(folder / "r.jsonl", rows)
    done = import_rollouts(open_workspace(folder / "w", create=True), "d", [str(folder / "r.jsonl")], "run1")
    rejected = (
        {row["line"] for row in read_jsonl(folder / "w" / "rejected" / "d.import.jsonl")} if done.rejected else set()
    )
    con = connect(Workspace(folder / "w"))
    stored: dict[str, list[str]] = defaultdict(list)
    for text, completion in sql.rows(con, "SELECT response, completion::VARCHAR FROM attempts WHERE error IS NULL"):
        assert any(said["content"] or said.get("tool_calls") for said in json.loads(completion)), text
        stored[json.dumps(json.loads(text)[0], sort_keys=True)].append(completion)
    requests = sum(shapes for name, shapes in done.shapes.items() if name.endswith("request"))
    missing = [
        row
        for line, row in enumerate(rows, 1)
        if line not in rejected and json.dumps(row, sort_keys=True) not in stored
    ]
    failures = sql.rows(con, "SELECT count(*) FROM attempts WHERE error IS NOT NULL")[0][0]
    assert len(missing) <= requests + failures
