"""Session files of coding agents, imported by the command line: one file is one rollout, and nothing said is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rolloutops.ingest.session_files import read_session
from tests.helpers import query, rolloutops, write_jsonl

COLUMNS = "engine, model, finish_reason, input_tokens, output_tokens, cached_tokens, reasoning_tokens, tool_names"


def imported(folder: Path, *words: str, code: int = 0) -> tuple[Path, str]:
    """Import into a new workspace; returns it and what was printed."""
    done = rolloutops("import", *words, "--data=ws", cwd=folder, code=code)
    return folder / "ws", done.stdout + done.stderr


def only(data: Path) -> dict[str, Any]:
    """The one rollout of a workspace."""
    found = query(
        data,
        f"SELECT t.prompt::VARCHAR, completion::VARCHAR, {COLUMNS} FROM attempts JOIN tasks AS t USING (task_id)",
    )
    assert len(found) == 1
    prompt, completion, *rest = found[0]
    names = ["prompt", "completion", *COLUMNS.split(", ")]
    return dict(zip(names, [json.loads(prompt), json.loads(completion), *rest], strict=True))


def roles(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    return [item["role"] for item in messages]


class Claude:
    """Writes the lines of a Claude Code session: each follows the one before, unless it names its parent."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def add(self, kind: str, message: Any = None, parent: str | None = "", **more: Any) -> str:
        uuid = f"u{len(self.lines)}"
        before = next((line["uuid"] for line in reversed(self.lines) if "uuid" in line), None)
        line = {"parentUuid": before if parent == "" else parent, "isSidechain": False, "type": kind, "uuid": uuid}
        line |= {"sessionId": "s", "timestamp": f"2025-09-01T10:00:{len(self.lines):02d}.000Z"}
        self.lines.append(line | ({"message": message} if message else {}) | more)
        return uuid

    def user(self, content: Any, **more: Any) -> str:
        return self.add("user", {"role": "user", "content": content}, **more)

    def said(
        self, message_id: str, block: Mapping[str, Any], stop: str | None = None, out: int = 1, **more: Any
    ) -> str:
        usage = {
            "input_tokens": 10,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 100,
            "output_tokens": out,
        }
        said = {"id": message_id, "role": "assistant", "model": "claude-sonnet-4", "content": [block]}
        return self.add("assistant", said | {"stop_reason": stop, "usage": usage}, **more)

    def result(self, call: str, content: Any, **more: Any) -> str:
        return self.user([{"type": "tool_result", "tool_use_id": call, "content": content, "is_error": True}], **more)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def use(call: str, command: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call, "name": "Bash", "input": {"command": command}}


def claude_session() -> Claude:
    """Reasoning, two parallel calls whose outputs hang on their own blocks, a rewind, a sidechain, a compaction."""
    made = Claude()
    made.lines.append({"type": "summary", "summary": "Fix it", "leafUuid": "x"})
    made.user("Fix the test.")
    made.said("m1", {"type": "thinking", "thinking": "Look first.", "signature": "s"})
    first = made.said("m1", use("c1", "ls"))
    second = made.said("m1", use("c2", "cat a"), stop="tool_use", out=40)
    made.result("c1", "a b", parent=first)
    made.result("c2", [text("No such file")], parent=second)
    made.add("progress")
    fork = made.said("m2", text("It is missing."), stop="end_turn", out=20)
    made.user("Rewound words.")
    made.said("m3", text("Forgotten answer."), stop="end_turn", out=999)
    made.user("A subagent's prompt", isSidechain=True, parent=None)
    made.user("Then make it.", parent=fork)
    boundary = made.add("system", subtype="compact_boundary", parent=None, logicalParentUuid=made.lines[-1]["uuid"])
    made.user("Summary: a file is missing.", isCompactSummary=True, parent=boundary)
    made.said("m4", text("Made."), stop="end_turn", out=7)
    return made


def test_claude_code_main_thread_is_the_rollout(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "-home-me-x" / "1.jsonl", claude_session().lines)
    data, printed = imported(tmp_path, str(file))
    row = only(data)
    assert row["prompt"] == [{"role": "user", "content": "Fix the test."}]
    assert roles(row["completion"]) == ["assistant", "tool", "tool", "assistant", "user", "user", "assistant"]
    calls = row["completion"][0]
    assert calls["reasoning_content"] == "Look first."
    assert [call["id"] for call in calls["tool_calls"]] == ["c1", "c2"]
    assert json.loads(calls["tool_calls"][1]["function"]["arguments"]) == {"command": "cat a"}
    assert [(item["tool_call_id"], item["content"]) for item in row["completion"][1:3]] == [
        ("c1", "a b"),
        ("c2", "No such file"),
    ]
    assert (row["engine"], row["model"], row["finish_reason"]) == ("import:claude_code", "claude-sonnet-4", "stop")
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (
        345,
        67,
        300,
    )  # three answers, once each
    assert row["tool_names"] == ["Bash", "Bash"]
    for counted in (
        "other branch (2)",
        "sidechain (1)",
        "system:compact_boundary (1)",
    ):
        assert counted in printed
    assert query(data, "SELECT DISTINCT dataset FROM attempts") == [("home-me-x",)]
    assert query(data, "SELECT json_array_length(response, '$[0]') FROM attempts") == [(len(claude_session().lines),)]


def test_a_session_that_has_grown_replaces_what_was_imported_of_it(tmp_path: Path) -> None:
    one, other, third = (f"{digit * 8}-1111-4111-8111-{digit * 12}" for digit in "123")

    def lines(session: str, answers: int, prompt: str = "Count to ten.") -> list[dict[str, Any]]:
        made = Claude()
        made.user(prompt)
        for number in range(answers):
            made.said(f"m{number}", use(f"c{number}", "ls"), stop="tool_use")
            made.result(f"c{number}", "a b")
        return [line | {"sessionId": session} for line in made.lines]

    for answers, kept in ((1, 1), (2, 2), (2, 2), (3, 3)):
        write_jsonl(tmp_path / f"{one}.jsonl", lines(one, answers))
        write_jsonl(tmp_path / f"{third}.jsonl", lines(third, answers, "Count to five."))
        data, printed = imported(tmp_path, f"{one}.jsonl", f"{third}.jsonl", "--dataset=d")
        assert query(data, "SELECT rollout_index, turns FROM rollouts") == [(0, kept)] * 2
        assert ("the longer one counts" in printed) == (answers > 1 and "already_present  0" in printed)
    # Another session that began alike is another rollout, also where it has gone on.
    write_jsonl(tmp_path / f"{other}.jsonl", lines(other, 4))
    data, printed = imported(tmp_path, f"{other}.jsonl", "--dataset=d")
    assert query(data, "SELECT rollout_index, turns FROM rollouts ORDER BY ALL") == [(0, 3), (0, 3), (1, 4)]
    attempts = query(data, "SELECT rollout_index, attempt, count(*) FROM attempts GROUP BY ALL ORDER BY ALL")
    assert attempts == [(0, 1, 2), (0, 2, 2), (0, 3, 2), (1, 1, 1)]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("cut", "interrupted"),
        ("error", "error"),
        ("stopped", "interrupted"),
        ("long", "length"),
        ("unsaid", None),
        ("asked", "interrupted"),
        ("left", "stop"),
    ],
)
def test_claude_code_session_that_did_not_end_is_not_stop(tmp_path: Path, last: str, reason: str | None) -> None:
    made = Claude()
    made.user(
        [
            text("Count the files."),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        ]
    )
    if last == "unsaid":  # many versions write no stop_reason at all
        made.said("m1", text("Two."))
    else:
        made.said("m1", use("c1", "ls"), stop="tool_use")
    if last not in ("cut", "unsaid"):
        made.result("c1", "a b")
        made.said("m2", text("Two."), stop="max_tokens" if last == "long" else "end_turn")
    if last == "error":
        error = {"id": "x", "role": "assistant", "model": "<synthetic>", "content": [text("API Error: 500")]}
        made.add("assistant", error, isApiErrorMessage=True)
    if last == "stopped":
        made.user([text("[Request interrupted by user]")])
    if last == "asked":
        made.user("And folders?")
    if last == "left":
        made.user("<command-name>/exit</command-name>")
    write_jsonl(tmp_path / "s.jsonl", made.lines)
    with (tmp_path / "s.jsonl").open("a") as file:
        file.write('{"type":"assistant","uu')  # killed while it wrote
    data, printed = imported(tmp_path, "s.jsonl")
    row = only(data)
    assert row["finish_reason"] == reason
    assert row["prompt"][0]["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert "not an object (1)" in printed
    assert "API Error" not in json.dumps(row["completion"])


def codex_lines(last: str = "task_complete") -> list[dict[str, Any]]:
    """Base instructions, reasoning, two kinds of calls, token counts written twice, a turn taken back."""
    when = "2025-11-02T08:00:00.000Z"

    def line(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"timestamp": when, "type": kind, "payload": payload}

    def item(kind: str, **more: Any) -> dict[str, Any]:
        return line("response_item", {"type": kind, **more})

    def event(kind: str, **more: Any) -> dict[str, Any]:
        return line("event_msg", {"type": kind, **more})

    def count(inputs: int, outputs: int) -> dict[str, Any]:
        total = {
            "input_tokens": inputs,
            "cached_input_tokens": 50,
            "output_tokens": outputs,
            "reasoning_output_tokens": 9,
        }
        return event("token_count", info={"total_token_usage": total, "last_token_usage": {"input_tokens": 1}})

    def user(words: str) -> dict[str, Any]:
        return item("message", role="user", content=[{"type": "input_text", "text": words}])

    def said(words: str) -> dict[str, Any]:
        return item("message", role="assistant", content=[{"type": "output_text", "text": words}])

    return [
        line(
            "session_meta", {"id": "1", "timestamp": when, "cwd": "/", "base_instructions": {"text": "You are Codex."}}
        ),
        line("turn_context", {"model": "gpt-5-codex", "cwd": "/"}),
        user("<environment_context>\n  <cwd>/</cwd>\n</environment_context>"),
        user("List the files."),
        event("user_message", message="List the files."),
        event("task_started"),
        event("agent_reasoning", text="I will list."),
        item("reasoning", summary=[{"type": "summary_text", "text": "I will list."}], encrypted_content="gA=="),
        item("function_call", name="shell", arguments='{"command":["ls"]}', call_id="c1"),
        item("function_call_output", call_id="c1", output='{"output":"a","metadata":{"exit_code":1}}'),
        item("web_search_call", id="w1", status="completed", action={"type": "search", "query": "ls"}),
        item("local_shell_call", call_id="c2", status="completed", action={"type": "exec", "command": ["pwd"]}),
        item("function_call_output", call_id="c2", output="/"),
        count(100, 20),
        said("One file: a."),
        event("agent_message", message="One file: a."),
        count(300, 45),
        count(300, 45),
        event("task_complete"),
        user("Delete it."),
        said("No."),
        event("thread_rolled_back", num_turns=1),
        event("agent_message", message="Only an event says this."),
        item("ghost_snapshot", ghost_commit={"id": "f"}),
        event(last),
    ]


@pytest.mark.parametrize(
    ("end", "reason"), [("success", "stop"), ("error_max_turns", "error_max_turns"), (None, "interrupted")]
)
def test_what_claude_code_prints(tmp_path: Path, end: str | None, reason: str) -> None:
    """A stream is a session where it holds the prompt; else its own file is named, as of Codex."""
    own: dict[str, Any] = {"session_id": "s1", "parent_tool_use_id": None}

    def said(kind: str, content: Any, **more: Any) -> dict[str, Any]:
        message = {"role": kind, "content": content}
        if kind == "assistant":
            message |= {"id": f"m{content}", "model": "claude-x", "usage": {"input_tokens": 3, "output_tokens": 2}}
        return {"type": kind, "message": message, **own, **more}

    call = {"type": "tool_use", "id": "c1", "name": "Task", "input": {}}
    lines = [
        {"type": "system", "subtype": "init", "tools": ["Task"], "model": "claude-x", **own},
        said("user", "Where?"),
        said("assistant", [call]),
        said("assistant", [{"type": "text", "text": "Inner."}], parent_tool_use_id="c1"),
        said("user", [{"type": "tool_result", "tool_use_id": "c1", "content": "1"}]),
        said("assistant", [{"type": "text", "text": "Here."}]),
    ]
    lines += [{"type": "result", "subtype": end, "is_error": end != "success", **own}] if end else []
    write_jsonl(tmp_path / "a.jsonl", lines)
    write_jsonl(tmp_path / "b.jsonl", [lines[0], *lines[2:]])
    started = {"type": "thread.started", "thread_id": "t1"}
    answer = {"type": "item.completed", "item": {"type": "agent_message", "text": "Done."}}
    write_jsonl(tmp_path / "c.jsonl", [started, answer])
    write_jsonl(tmp_path / "d.jsonl", [{"type": "session.created", "session_id": "t2"}, answer])
    write_jsonl(tmp_path / "e.jsonl", [{"type": "turn.started"}, answer])
    data, printed = imported(tmp_path, "*.jsonl", code=2)
    row = only(data)
    assert roles(row["completion"]) == ["assistant", "tool", "assistant"]
    assert (row["engine"], row["model"], row["finish_reason"]) == ("import:claude_code", "claude-x", reason)
    assert (row["input_tokens"], row["output_tokens"], row["tool_names"]) == (6, 4, ["Task"])
    assert "sidechain (1)" in printed
    assert "b.jsonl:1: the log does not hold the prompt" in printed
    assert "~/.claude/projects/*/s1.jsonl" in printed
    assert "c.jsonl:1: what codex exec --json prints does not hold the prompt" in printed
    for name, own_file in (("c", "rollout-*-t1"), ("d", "rollout-*-t2"), ("e", "rollout-*-ID")):
        with pytest.raises(ValueError, match=rf"the session's own file, .*{re.escape(own_file)}\.jsonl"):
            read_session(tmp_path / f"{name}.jsonl")


@pytest.mark.parametrize(
    ("last", "reason"), [(None, "stop"), ("stream_error", "error"), ("turn_aborted", "interrupted"), ("error", "error")]
)
def test_what_codex_printed_with_the_prompt(tmp_path: Path, last: str | None, reason: str) -> None:
    """Its map of the configuration, the prompt and the events, of 2025's summer; a reply is whole where no tool ran."""
    prompt = "Why? " * 300_000  # longer than what is read to recognize a file
    config = {"workdir": "/a", "model": "gpt-5", "provider": "openai", "reasoning effort": "high", "approval": "never"}
    events: list[dict[str, Any]] = [
        {"type": "task_started", "model_context_window": 272000},
        {"type": "user_message", "message": prompt},
        {"type": "stream_error", "message": "stream disconnected; retrying 1/5"},
        {"type": "agent_reasoning", "text": "Think."},
        {"type": "agent_message", "message": "Because."},
        {"type": "token_count", "input_tokens": 30, "cached_input_tokens": 10, "output_tokens": 4},
        *([{"type": last, "message": "gone"}] if last else []),
    ]
    lines = [config, {"prompt": prompt}, *({"id": "0", "msg": event} for event in events)]
    write_jsonl(tmp_path / "log.jsonl", lines)
    data, printed = imported(tmp_path, "log.jsonl")
    row = only(data)
    assert row["prompt"] == [{"role": "user", "content": prompt}]
    assert row["completion"] == [{"role": "assistant", "content": "Because.", "reasoning_content": "Think."}]
    assert (row["engine"], row["model"], row["finish_reason"]) == ("import:codex", "gpt-5", reason)
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (30, 4, 10)
    assert "configuration (1)" in printed


def test_what_codex_printed_is_rejected_where_it_is_not_whole(tmp_path: Path) -> None:
    """The events show the tools at work: a patch as files, a command as it was run. None is imported as a question."""
    config = {"workdir": "/a", "model": "gpt-5", "provider": "openai"}
    asked, configured = {"prompt": "Why?"}, {"type": "session_configured", "session_id": "s1", "model": "gpt-5"}
    answer = {"type": "agent_message", "message": "Because."}
    begun = {"type": "exec_command_begin", "call_id": "c", "command": ["bash", "-lc", "ls"], "cwd": "/a"}

    def event(msg: dict[str, Any]) -> dict[str, Any]:
        return {"id": "0", "msg": msg}

    own = "import the session's own file, ~/.codex/sessions/**/rollout-*-"
    said = "what codex exec --json prints does not hold the"
    logs: dict[str, list[dict[str, Any]]] = {
        f"{said} calls as the model made them: {own}s1.jsonl": [
            config,
            asked,
            *map(event, (configured, begun, answer)),
        ],
        f"{said} calls as the model made them: {own}ID.jsonl": [asked, event({"type": "plan_update"}), event(answer)],
        f"{said} prompt: {own}s1.jsonl": [event(configured), event(answer)],
        "the log holds 2 runs of codex exec --json: give each a file of its own": [config, asked, event(answer)] * 2,
        "the session holds no answer of a model": [config, asked, event({"type": "error", "message": "no key"})],
    }
    for number, (reason, lines) in enumerate(logs.items()):
        write_jsonl(tmp_path / f"{number}.jsonl", lines)
        _, printed = imported(tmp_path, f"{number}.jsonl", code=2)
        assert f"{number}.jsonl:1: {reason}\n" in printed


def test_codex_rollout_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "2025" / "rollout-2025-11-02T08-00-00-1.jsonl", codex_lines())
    data, printed = imported(tmp_path, "2025/*.jsonl", "--dataset=mine")
    row = only(data)
    assert [item["content"].split("\n")[0] for item in row["prompt"]] == [
        "You are Codex.",
        "<environment_context>",
        "List the files.",
    ]
    assert row["completion"][0]["reasoning_content"] == "I will list."
    assert row["tool_names"] == ["shell", "web_search", "local_shell"]
    texts = [item["content"] for item in row["completion"] if item["role"] == "assistant" and item["content"]]
    assert texts == ["One file: a.", "Only an event says this."]
    assert (row["model"], row["finish_reason"]) == ("gpt-5-codex", "stop")
    assert [row[f"{name}_tokens"] for name in ("input", "output", "cached", "reasoning")] == [300, 45, 50, 9]
    for counted in ("event_msg:token_count (3)", "item of a turn taken back (2)", "ghost_snapshot (1)"):
        assert counted in printed


@pytest.mark.parametrize(("last", "reason"), [("turn_aborted", "interrupted"), ("error", "error")])
def test_codex_session_that_was_broken_off(tmp_path: Path, last: str, reason: str) -> None:
    write_jsonl(tmp_path / "rollout-1.jsonl", codex_lines(last))
    assert only(imported(tmp_path, "rollout-1.jsonl")[0])["finish_reason"] == reason


def test_codex_files_without_envelopes(tmp_path: Path) -> None:
    """Files of 2025's summer, one item a line, and the document that the first CLI wrote."""
    items = [line["payload"] for line in codex_lines() if line["type"] == "response_item"][1:6]
    head = {"id": "2", "timestamp": "2025-07-01T00:00:00Z", "instructions": "Be kind."}
    folder = tmp_path / "old"
    write_jsonl(folder / "rollout-2025-07-01-2.jsonl", [head, {"record_type": "state"}, *items])
    (folder / "rollout-2025-05-01-3.json").write_text(json.dumps({"session": head, "items": items}, indent=2))
    data, _ = imported(tmp_path, "old")
    found = query(data, "SELECT finish_reason, tool_names, started_at::VARCHAR FROM attempts")
    assert [row[:2] for row in found] == [("interrupted", ["shell", "web_search"])] * 2
    assert {row[2][:10] for row in found} == {"2025-07-01"}
    assert query(
        data,
        "SELECT prompt->>'$[0].content', rollout_count FROM (SELECT any_value(t.prompt) AS prompt, count(*) "
        "AS rollout_count FROM attempts JOIN tasks AS t USING (task_id) GROUP BY task_id)",
    ) == [("Be kind.", 2)]


def test_codex_texts_that_only_events_hold(tmp_path: Path) -> None:
    def event(**payload: Any) -> dict[str, Any]:
        return {"timestamp": "2026-06-05T10:00:00Z", "type": "event_msg", "payload": payload}

    said = {"type": "AgentMessage", "id": "i", "phase": "final_answer", "content": [{"type": "Text", "text": "Yes."}]}
    lines = [
        {"timestamp": "2026-06-05T10:00:00Z", "type": "session_meta", "payload": {"id": "1", "instructions": None}},
        event(type="user_message", message="Is it so?"),
        event(type="agent_reasoning", text="It is."),
        event(type="item_completed", item=said),
        event(type="agent_message", message="Yes."),
        event(type="task_complete", last_agent_message="Yes."),
    ]
    write_jsonl(tmp_path / "rollout-2.jsonl", lines)
    row = only(imported(tmp_path, "rollout-2.jsonl")[0])
    assert row["prompt"] == [{"role": "user", "content": "Is it so?"}]
    assert row["completion"] == [{"role": "assistant", "content": "Yes.", "reasoning_content": "It is."}]
    assert row["finish_reason"] == "stop"
