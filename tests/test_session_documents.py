"""Sessions that are one document or one row: mini-swe-agent's trajectories, OpenHands' trajectories and evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import query, rolloutops, write_jsonl
from tests.test_sessions import imported, only, roles


def document(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return path


def reply(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """A Chat Completions reply."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}
    usage["completion_tokens_details"] = {"reasoning_tokens": 4}
    return {
        "id": f"r{number}",
        "model": "m",
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": usage,
    }


def call(name: str, call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def trajectory(status: str) -> dict[str, Any]:
    """Two tool calls, one answer that could not be parsed, reasoning, and the note at the end."""
    first = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I look.",
        "tool_calls": [call("bash", "c1", command="ls")],
    }
    lost = {"role": "assistant", "content": "I forgot the call."}
    last = {"role": "assistant", "content": "Done.", "tool_calls": [call("bash", "c2", command="submit")]}
    return {
        "info": {
            "exit_status": status,
            "submission": "diff",
            "model_stats": {"api_calls": 3},
            "config": {"model": {"model_name": "anthropic/claude-x"}},
        },
        "messages": [
            {"role": "system", "content": "You are an agent."},
            {"role": "user", "content": "Solve it."},
            {**first, "extra": {"response": reply(1, first), "timestamp": 1756700000.5}},
            {"role": "tool", "tool_call_id": "c1", "content": "<returncode>1</returncode>", "extra": {"returncode": 1}},
            {
                "role": "user",
                "content": "No tool calls found.",
                "extra": {"interrupt_type": "FormatError", "response": reply(2, lost)},
            },
            {**last, "extra": {"response": reply(3, last)}},
            {"role": "exit", "content": "diff", "extra": {"exit_status": status, "submission": "diff"}},
        ],
        "trajectory_format": "mini-swe-agent-1.1",
        "instance_id": "django__django-1",
    }


@pytest.mark.parametrize(
    ("status", "reason"), [("Submitted", "stop"), ("LimitsExceeded", "LimitsExceeded"), ("", "interrupted")]
)
def test_mini_swe_agent_trajectory(tmp_path: Path, status: str, reason: str) -> None:
    document(tmp_path / "runs" / "a" / "a.traj.json", trajectory(status))
    document(tmp_path / "runs" / "preds.json", {"a": {"model_patch": "diff"}})
    data, printed = imported(tmp_path, "runs/**/*.json")
    row = only(data)
    assert roles(row["prompt"]) == ["system", "user"]
    assert roles(row["completion"]) == ["assistant", "tool", "assistant", "user", "assistant"]
    assert row["completion"][0]["reasoning_content"] == "I look."
    assert row["completion"][2]["content"] == "I forgot the call."
    assert (row["engine"], row["model"], row["finish_reason"]) == (
        "import:mini_swe_agent",
        "anthropic/claude-x",
        reason,
    )
    assert [row[f"{name}_tokens"] for name in ("input", "output", "cached", "reasoning")] == [300, 30, 180, 12]
    assert query(data, "SELECT dataset, row->>'instance_id' FROM tasks") == [("runs", "django__django-1")]
    assert "exit (1)" in printed
    assert "no rollouts in: runs/preds.json" in printed


def test_mini_swe_agent_messages_of_the_responses_api_and_of_version_1(tmp_path: Path) -> None:
    usage = {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
    answer = {
        "object": "response",
        "id": "resp_1",
        "model": "gpt-5",
        "usage": usage,
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I think."}]},
            {"type": "function_call", "call_id": "c1", "name": "bash", "arguments": '{"command":"ls"}'},
        ],
        "extra": {"actions": [{"command": "ls"}]},
    }
    output = {"type": "function_call_output", "call_id": "c1", "output": "a", "extra": {"returncode": 0}}
    head = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    info = {"exit_status": "Submitted", "submission": "x"}
    document(
        tmp_path / "t" / "new.traj.json",
        {"info": info, "messages": [*head, answer, output], "trajectory_format": "mini-swe-agent-1.1"},
    )
    text = {"role": "assistant", "content": "THOUGHT: go\n```bash\nls\n```"}
    old = [*head, text, {"role": "user", "content": "<returncode>0"}, text, {"role": "user", "content": "diff"}]
    document(tmp_path / "t" / "old.traj.json", {"info": info, "messages": old, "trajectory_format": "mini-swe-agent-1"})
    document(tmp_path / "t" / "first.traj.json", old)
    data, _ = imported(tmp_path, "t")
    found = query(data, "SELECT model, finish_reason, turns, tool_names, input_tokens FROM attempts ORDER BY ALL")
    assert found == [
        ("gpt-5", "stop", 1, ["bash"], 7),
        (None, "interrupted", 2, [], None),
        (None, "stop", 2, [], None),
    ]
    assert query(data, "SELECT count(*) FROM tasks") == [(1,)]


def openhands_events(end: str = "finish") -> list[dict[str, Any]]:
    """A function-calling session: two actions of one response, an error, a condensation, an end."""
    tools = [
        {"type": "function", "function": {"name": "execute_bash", "description": "", "parameters": {"type": "object"}}}
    ]
    calls = [call("execute_bash", "c1", command="ls"), call("think", "c2", thought="Two ways.")]
    said = {"role": "assistant", "content": "I list.", "reasoning_content": "Listing is cheap.", "tool_calls": calls}
    final = {"role": "assistant", "content": "", "tool_calls": [call("finish", "c3", message="All done")]}

    def of(call_id: str, number: int, message: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "tool_call_metadata": {
                "tool_call_id": call_id,
                "function_name": "f",
                "model_response": reply(number, message),
            }
        }

    facts = {"exit_code": 2, "working_dir": "/w", "prefix": "", "suffix": ""}
    events: list[dict[str, Any]] = [
        {"source": "agent", "action": "system", "args": {"content": "You are OpenHands.", "tools": tools}},
        {"source": "user", "action": "message", "args": {"content": "Fix it.", "image_urls": None}},
        {"source": "user", "action": "recall", "args": {"query": "Fix it."}},
        {
            "source": "environment",
            "observation": "agent_state_changed",
            "content": "",
            "extras": {"agent_state": "running"},
        },
        {"source": "agent", "action": "run", "args": {"command": "ls", "thought": "I list."}, **of("c1", 1, said)},
        {"source": "agent", "action": "think", "args": {"thought": "Two ways."}, **of("c2", 1, said)},
        {
            "source": "agent",
            "observation": "run",
            "content": "ls: no",
            "extras": {"metadata": facts},
            **of("c1", 1, said),
        },
        {"source": "agent", "observation": "think", "content": "Logged.", "extras": {}, **of("c2", 1, said)},
        {"source": "agent", "action": "condensation", "args": {"summary": "s"}},
        {"source": "agent", "action": "message", "args": {"content": "Shall I go on?"}},
        {"source": "user", "action": "message", "args": {"content": "Go on."}},
    ]
    if end == "finish":
        events.append(
            {"source": "agent", "action": "finish", "args": {"final_thought": "All done"}, **of("c3", 2, final)}
        )
    if end == "error":
        state = {"agent_state": "error"}
        events.append({"source": "agent", "action": "run", "args": {"command": "x"}, **of("c3", 2, final)})
        events.append({"source": "environment", "observation": "agent_state_changed", "content": "", "extras": state})
    for number, event in enumerate(events):
        event |= {"id": number, "timestamp": f"2025-05-01T10:00:{number:02d}.123456", "message": ""}
    return events


@pytest.mark.parametrize(("end", "reason"), [("finish", "stop"), ("error", "error"), ("cut", "interrupted")])
@pytest.mark.parametrize("form", ["list", "trajectory", "lines"])
def test_openhands_trajectory(tmp_path: Path, end: str, reason: str, form: str) -> None:
    events = openhands_events(end)
    if form == "lines":
        file = write_jsonl(tmp_path / "t" / "trajectory.jsonl", events)
    else:
        file = document(tmp_path / "t" / "trajectory.json", events if form == "list" else {"trajectory": events})
    data, printed = imported(tmp_path, str(file))
    row = only(data)
    assert [item["content"] for item in row["prompt"]] == ["You are OpenHands.", "Fix it."]
    assert roles(row["completion"])[:5] == ["assistant", "tool", "tool", "assistant", "user"][: len(row["completion"])]
    first = row["completion"][0]
    assert (first["content"], first["reasoning_content"]) == ("I list.", "Listing is cheap.")
    assert row["tool_names"] == ["execute_bash", "think", "finish"][: 2 if end == "cut" else 3]
    shown = "ls: no\n[Current working directory: /w]\n[Command finished with exit code 2]"
    assert row["completion"][1] == {"role": "tool", "content": shown, "tool_call_id": "c1"}
    assert (row["finish_reason"], row["model"]) == (reason, "m")
    assert (row["input_tokens"], row["output_tokens"]) == ((100, 10) if end == "cut" else (200, 20))
    assert query(data, "SELECT tools->0->'function'->>'name', dataset FROM tasks") == [("execute_bash", "t")]
    assert "action:condensation (1)" in printed
    assert "action:recall (1)" in printed


def test_openhands_evaluation_rows(tmp_path: Path) -> None:
    """One row is one rollout; pairs and events without the model's message are read too; a report is the reward."""
    bare = [{k: v for k, v in event.items() if k != "tool_call_metadata"} for event in openhands_events()]
    bare[6]["cause"], bare[7]["cause"] = 4, 5
    metrics = {"accumulated_token_usage": {"prompt_tokens": 11, "completion_tokens": 5, "cache_read_tokens": 3}}
    meta = {"llm_config": {"model": "litellm_proxy/claude"}}
    rows = [
        {
            "instance_id": "a",
            "instruction": "Fix it.",
            "history": openhands_events(),
            "test_result": {"report": {"resolved": True}},
            "metadata": meta,
            "metrics": metrics,
            "error": None,
        },
        {
            "instance_id": "b",
            "instruction": "Solve b.",
            "history": [bare[4:5] + bare[6:7]],
            "test_result": {"git_patch": ""},
            "metadata": meta,
            "error": "RuntimeError: maximum iteration",
            "extra_note": 1,
        },
        {"instance_id": "c", "instruction": "Solve c.", "history": bare[:4], "test_result": {}},
    ]
    write_jsonl(tmp_path / "output.jsonl", rows)
    data, printed = imported(tmp_path, "output.jsonl", "--skip_bad_lines")
    found = query(
        data,
        "SELECT row->>'instance_id', finish_reason, model, input_tokens, tool_names "
        "FROM attempts JOIN tasks USING (task_id) ORDER BY 1",
    )
    assert found == [
        ("a", "stop", "litellm_proxy/claude", 11, ["execute_bash", "think", "finish"]),
        ("b", "error", "litellm_proxy/claude", None, ["run"]),
    ]
    assert query(data, "SELECT verifier, reward FROM verdicts") == [("openhands", 1.0)]
    assert query(
        data,
        "SELECT t.prompt->0->>'content', completion->1->>'tool_call_id' "
        "FROM attempts JOIN tasks AS t USING (task_id) WHERE finish_reason = 'error'",
    ) == [("Solve b.", "event_4")]
    assert "output.jsonl:3: the session holds no answer of a model" in printed
    assert "extra_note (1)" in printed


def test_trajectories_in_rows_of_a_table(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]
    chat: list[dict[str, Any]] = [
        {"role": "system", "content": "S", "tool_calls": None, "name": None},
        {"role": "user", "content": "U", "tool_calls": None, "name": None},
        {"role": "assistant", "content": "I look.", "tool_calls": [call("bash", "c1", command="ls")], "name": None},
        {"role": "tool", "content": "a", "tool_calls": None, "name": "bash", "tool_call_id": "c1"},
    ]
    finish = {"role": "assistant", "content": "", "tool_calls": [call("finish", "c2")]}
    words = [
        {"role": "system", "system_prompt": "S", "text": None},
        {"role": "user", "text": "V"},
        {"role": "ai", "text": "W"},
    ]
    rows = [
        {"instance_id": "1", "trajectory": [*chat, finish], "tools": tools, "exit_status": "submit", "resolved": 1},
        {"instance_id": "2", "trajectory": json.dumps(chat), "tools": tools, "model_patch": "diff"},
        {
            "instance_id": "3",
            "trajectory": words,
            "exit_status": "exit_context",
            "target": False,
            "model_name": "llama",
        },
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data, printed = imported(tmp_path, "rows.jsonl")
    found = query(data, "SELECT finish_reason, text, tool_names, model FROM attempts ORDER BY 1")
    assert found == [
        ("exit_context", "W", [], "llama"),
        ("interrupted", "I look.", ["bash"], None),
        ("stop", "", ["bash", "finish"], None),
    ]
    assert query(data, "SELECT verifier, reward FROM verdicts ORDER BY 2") == [("trajectory", 0.0), ("trajectory", 1.0)]
    assert query(data, "SELECT prompt->0->>'content', prompt->1->>'content' FROM tasks ORDER BY ALL") == [
        ("S", "U"),
        ("S", "V"),
    ]
    assert "model_patch (1)" in printed


def sdk_events(end: str) -> list[dict[str, Any]]:
    """Events of the SDK: two calls of one response, a rejected branch, an error, an end."""

    def event(kind: str, source: str, event_id: str, parent: str | None, **more: Any) -> dict[str, Any]:
        return {
            "kind": kind,
            "source": source,
            "id": event_id,
            "parent_id": parent,
            "timestamp": "2026-02-01T10:00:00",
            **more,
        }

    def action(
        event_id: str, parent: str, response: str, name: str, thought: Sequence[str] = (), **more: Any
    ) -> dict[str, Any]:
        tool = {"id": f"c{event_id}", "name": name, "arguments": '{"command":"ls"}', "origin": "completion"}
        texts = [{"type": "text", "text": one} for one in thought]
        own = {
            "thought": texts,
            "tool_name": name,
            "tool_call_id": tool["id"],
            "tool_call": tool,
            "llm_response_id": response,
        }
        return event("ActionEvent", "agent", event_id, parent, thinking_blocks=[], **own, **more)

    seen = {"kind": "TerminalObservation", "content": [{"type": "text", "text": "a b"}], "is_error": False}
    stats = {
        "usage_to_metrics": {
            "agent": {
                "accumulated_token_usage": {
                    "prompt_tokens": 50,
                    "completion_tokens": 6,
                    "cache_read_tokens": 40,
                    "reasoning_tokens": 2,
                }
            }
        }
    }
    state = {"agent": {"llm": {"model": "openhands/claude"}}, "stats": stats}
    tools = [
        {"kind": "TerminalTool", "title": "terminal", "description": "Runs."},
        {"kind": "MCPTool", "mcp_tool": {"name": "fetch", "description": "Gets.", "inputSchema": {"type": "object"}}},
    ]
    user = {"role": "user", "content": [{"type": "text", "text": "Fix it."}]}
    found = [
        event(
            "SystemPromptEvent",
            "agent",
            "1",
            None,
            system_prompt={"type": "text", "text": "You are OpenHands."},
            tools=tools,
        ),
        event(
            "MessageEvent",
            "user",
            "2",
            "1",
            llm_message=user,
            extended_content=[{"type": "text", "text": " Mind the rules."}],
        ),
        action("3", "2", "r1", "terminal", ["I look."], reasoning_content="Cheap first."),
        action("4", "3", "r1", "fetch"),
        event(
            "ObservationEvent",
            "environment",
            "5",
            "4",
            tool_name="terminal",
            tool_call_id="c3",
            action_id="3",
            observation=seen,
        ),
        event("AgentErrorEvent", "agent", "6", "5", tool_name="fetch", tool_call_id="c4", error="no network"),
        action("7", "6", "r2", "forgotten"),
        event("Condensation", "environment", "8", "6", summary="s"),
        event("ConversationStateUpdateEvent", "environment", "9", "8", key="full_state", value=state),
    ]
    if end == "finish":
        found.append(action("10", "9", "r3", "finish"))
    if end == "error":
        found.append(event("ConversationErrorEvent", "environment", "10", "9", code="LLMError", detail="500"))
    return found


@pytest.mark.parametrize(("end", "reason"), [("finish", "stop"), ("error", "error"), ("cut", "interrupted")])
def test_openhands_sdk_events(tmp_path: Path, end: str, reason: str) -> None:
    document(tmp_path / "t" / "events.json", sdk_events(end))
    data, printed = imported(tmp_path, "t")
    row = only(data)
    assert [item["content"] for item in row["prompt"]] == ["You are OpenHands.", "Fix it. Mind the rules."]
    first = row["completion"][0]
    assert (first["content"], first["reasoning_content"]) == ("I look.", "Cheap first.")
    assert [one["id"] for one in first["tool_calls"]] == ["c3", "c4"]
    assert [item["content"] for item in row["completion"][1:3]] == ["a b", "no network"]
    assert row["tool_names"] == ["terminal", "fetch", "finish"][: 3 if end == "finish" else 2]
    assert (row["finish_reason"], row["model"]) == (reason, "openhands/claude")
    assert [row[f"{name}_tokens"] for name in ("input", "output", "cached", "reasoning")] == [50, 6, 40, 2]
    assert query(data, "SELECT json_array_length(tools) FROM tasks") == [(2,)]
    assert "other branch (1)" in printed
    assert "Condensation (1)" in printed


def test_openhands_sdk_folder_of_events_is_one_rollout(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for number, event in enumerate(sdk_events("cut")):
            document(tmp_path / "conversations" / name / "events" / f"event-{number:05d}-{name}{number}.json", event)
        document(tmp_path / "conversations" / name / "base_state.json", {"execution_status": "finished"})
    data, printed = imported(tmp_path, "conversations/**/*.json")
    found = query(data, "SELECT finish_reason, model, tool_names FROM attempts")
    assert found == [("stop", "openhands/claude", ["terminal", "fetch"])] * 2
    assert query(data, "SELECT DISTINCT dataset FROM tasks") == [("conversations",)]
    assert "no rollouts" not in printed
    rolloutops("import", "conversations/one", "--data=other", cwd=tmp_path)
    assert query(tmp_path / "other", "SELECT dataset FROM attempts") == [("one",)]


@pytest.mark.parametrize(
    ("status", "reason"), [("submitted", "stop"), ("exit_cost", "exit_cost"), (None, "interrupted")]
)
def test_swe_agent_trajectory(tmp_path: Path, status: str | None, reason: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    config = {"agent": {"model": {"name": "m/big"}}, "problem_statement": {"id": "django__django-1"}}
    shown = {"is_demo": True, "agent": "main"}
    history: list[dict[str, Any]] = [
        {"role": "system", "content": "You are an agent.", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": "A demonstration.", **shown},
        {"role": "assistant", "content": "Shown.", **shown},
        {"role": "user", "content": [{"type": "text", "text": "Solve it."}], "agent": "main"},
        {"role": "assistant", "content": "I look.", "thought": "I look.", "action": "ls", "agent": "main"},
        {"role": "tool", "content": "a.py", "tool_call_ids": ["c1"], "message_type": "observation", "agent": "main"},
        {"role": "assistant", "content": "Done.", "thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]},
    ]
    history[4] |= {"tool_calls": [call], "tool_call_ids": ["c1"]}
    run: dict[str, Any] = {
        "trajectory": [{"action": "ls", "observation": "a.py", "response": "I look.", "state": {}}],
        "history": history,
        "info": {"exit_status": status, "submission": "diff", "model_stats": {"tokens_sent": 9, "tokens_received": 4}},
        "replay_config": json.dumps(config),
        "environment": "main",
    }
    document(tmp_path / "runs" / "a" / "a.traj", run)
    (tmp_path / "runs" / "half.traj").write_text('{"history": [')
    data, printed = imported(tmp_path, "runs/**/*.traj", code=2)
    row = only(data)
    assert roles(row["prompt"]) == ["system", "user", "assistant", "user"]
    assert roles(row["completion"]) == ["assistant", "tool", "assistant"]
    assert row["completion"][1]["tool_call_id"] == "c1"
    assert row["completion"][2]["reasoning_content"] == "Hm."
    assert (row["engine"], row["model"], row["finish_reason"]) == ("import:swe_agent", "m/big", reason)
    assert (row["input_tokens"], row["output_tokens"], row["tool_names"]) == (9, 4, ["bash"])
    assert query(data, "SELECT row->>'instance_id' FROM tasks") == [("django__django-1",)]
    assert "half.traj:1: not JSON" in printed
    assert "trajectory (1)" in printed


def test_a_file_without_an_answer_is_rejected_with_its_path(tmp_path: Path) -> None:
    document(tmp_path / "runs" / "good.traj.json", trajectory("Submitted"))
    document(tmp_path / "runs" / "asked.traj.json", {**trajectory(""), "messages": trajectory("")["messages"][:2]})
    (tmp_path / "runs" / "half.traj.json").write_text('{"messages": [{"role": "user", "con')
    done = rolloutops("import", "runs/*.traj.json", "--data=ws", cwd=tmp_path, code=2)
    printed = done.stdout + done.stderr
    assert "asked.traj.json:1: the session holds no answer of a model" in printed
    assert "half.traj.json:1: not JSON" in printed
    assert only(tmp_path / "ws")["finish_reason"] == "stop"


def test_the_same_session_is_imported_once(tmp_path: Path) -> None:
    document(tmp_path / "a.traj.json", trajectory("Submitted"))
    imported(tmp_path, "a.traj.json", "--dataset=d")
    _, printed = imported(tmp_path, "a.traj.json", "--dataset=d")
    assert query(tmp_path / "ws", "SELECT count(*) FROM attempts") == [(1,)]
    assert "recognized: mini_swe_agent session (1)" in printed
