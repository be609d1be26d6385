"""Whatever a model said in a session, in any format and cut off anywhere: it is in the completion, in its order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rolloutops.formats.sessions import claude_code, codex, mini_swe_agent, openhands
from rolloutops.formats.sessions.session import Session
from tests.test_session_documents import call, openhands_events, reply, sdk_events, trajectory
from tests.test_sessions import Claude, claude_session, codex_lines, text

Step = tuple[str, str, list[str], bool]
"""One answer: its text, its reasoning, the commands that it calls, and whether tools answered."""

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    """Answers that all say something, each text of them with a mark of its own."""
    found: list[Step] = []
    for number in range(draw(st.integers(1, 4))):
        said, thought = (f"<{kind}{number}>{draw(words)}" if draw(st.booleans()) else "" for kind in ("say", "think"))
        commands = [f"<do{number}.{n}>{draw(words)}" for n in range(draw(st.integers(0 if said else 1, 3)))]
        found.append((said, thought, commands, draw(st.booleans())))
    return found


def of_claude(answers: Sequence[Step]) -> Session:
    made = Claude()
    made.user("Begin.")
    for number, (said, thought, commands, answered) in enumerate(answers):
        if thought:
            made.said(f"m{number}", {"type": "thinking", "thinking": thought})
        if said:
            made.said(f"m{number}", text(said))
        uses = [
            (
                f"c{number}.{n}",
                made.said(
                    f"m{number}", {"type": "tool_use", "id": f"c{number}.{n}", "name": "Bash", "input": {"c": one}}
                ),
            )
            for n, one in enumerate(commands)
        ]
        for call_id, parent in uses if answered else ():
            made.result(call_id, "out", parent=parent)
        if not commands:
            made.user("Go on.")
    assert claude_code.recognizes(made.lines)
    return claude_code.read(made.lines)


def of_codex(answers: Sequence[Step]) -> Session:
    items: list[dict[str, Any]] = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Begin."}]}
    ]
    for number, (said, thought, commands, answered) in enumerate(answers):
        if thought:
            items.append({"type": "reasoning", "summary": [{"type": "summary_text", "text": thought}]})
        if said:
            items.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said}]})
        for n, one in enumerate(commands):
            items.append({"type": "custom_tool_call", "call_id": f"c{number}.{n}", "name": "apply", "input": one})
        for n, _ in enumerate(commands if answered else ()):
            items.append({"type": "custom_tool_call_output", "call_id": f"c{number}.{n}", "output": "out"})
    lines = [{"type": "response_item", "timestamp": "2025-01-01T00:00:00Z", "payload": item} for item in items]
    assert codex.recognizes(lines)
    return codex.read(lines)


def chat_message(number: int, said: str, thought: str, commands: Sequence[str]) -> dict[str, Any]:
    calls = [call("bash", f"c{number}.{n}", command=one) for n, one in enumerate(commands)]
    return {
        "role": "assistant",
        "content": said or None,
        "reasoning_content": thought or None,
        "tool_calls": calls or None,
    }


def of_mini(answers: Sequence[Step]) -> Session:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Begin."}]
    for number, (said, thought, commands, answered) in enumerate(answers):
        message = chat_message(number, said, thought, commands)
        if commands:
            messages.append(message)
        else:  # an answer without a call is an error to mini-swe-agent, and stands in its note alone
            extra = {"interrupt_type": "FormatError", "response": reply(number, message)}
            messages.append({"role": "user", "content": "No call.", "extra": extra})
        for n, _ in enumerate(commands if answered else ()):
            messages.append({"role": "tool", "tool_call_id": f"c{number}.{n}", "content": "out"})
    document = {"messages": messages, "info": {}, "trajectory_format": "mini-swe-agent-1.1"}
    assert mini_swe_agent.recognizes(document)
    return mini_swe_agent.read(document)


def of_openhands(answers: Sequence[Step]) -> Session:
    events: list[dict[str, Any]] = [{"source": "user", "action": "message", "args": {"content": "Begin."}}]
    for number, (said, thought, commands, answered) in enumerate(answers):
        response = reply(number, chat_message(number, said, thought, commands))
        for n, one in enumerate(commands):
            metadata = {"tool_call_id": f"c{number}.{n}", "function_name": "bash", "model_response": response}
            events.append(
                {
                    "source": "agent",
                    "action": "run",
                    "args": {"command": one, "thought": said},
                    "tool_call_metadata": metadata,
                }
            )
        for n, _ in enumerate(commands if answered else ()):
            metadata = {"tool_call_id": f"c{number}.{n}", "function_name": "bash", "model_response": response}
            events.append({"source": "agent", "observation": "run", "content": "out", "tool_call_metadata": metadata})
        if not commands:  # the event of a message holds no reasoning
            events.append({"source": "agent", "action": "message", "args": {"content": thought + said}})
    assert openhands.recognizes(events)
    return openhands.read(events)


def of_openhands_sdk(answers: Sequence[Step]) -> Session:
    user = {"role": "user", "content": [text("Begin.")]}
    events: list[dict[str, Any]] = [{"kind": "MessageEvent", "source": "user", "llm_message": user}]
    for number, (said, thought, commands, answered) in enumerate(answers):
        thinking = [{"type": "thinking", "thinking": thought}] if thought else []
        for n, one in enumerate(commands):
            tool = {"id": f"c{number}.{n}", "name": "terminal", "arguments": json.dumps({"command": one})}
            own = {
                "tool_name": "terminal",
                "tool_call_id": tool["id"],
                "tool_call": tool,
                "llm_response_id": f"r{number}",
            }
            first = (
                {"thought": [text(said)] if said else [], "thinking_blocks": thinking} if n == 0 else {"thought": []}
            )
            events.append({"kind": "ActionEvent", "source": "agent", **own, **first})
        for n, _ in enumerate(commands if answered else ()):
            seen = {"kind": "TerminalObservation", "content": [text("out")]}
            events.append(
                {
                    "kind": "ObservationEvent",
                    "source": "environment",
                    "tool_call_id": f"c{number}.{n}",
                    "observation": seen,
                }
            )
        if not commands:
            message = {"role": "assistant", "content": [text(said)], "thinking_blocks": thinking}
            events.append({"kind": "MessageEvent", "source": "agent", "llm_message": message})
    assert openhands.recognizes(events)
    return openhands.read(events)


@pytest.mark.parametrize("written", [of_claude, of_codex, of_mini, of_openhands, of_openhands_sdk])
@settings(deadline=None, max_examples=60)
@given(answers=steps())
def test_nothing_that_the_model_said_is_lost(written: Callable[[Sequence[Step]], Session], answers: list[Step]) -> None:
    session = written(answers)
    said = "".join(str(item["content"]) for item in session.completion if item["role"] == "assistant")
    thought = "".join(item.get("reasoning_content", "") for item in session.completion) + said
    calls = [one["function"]["arguments"] for item in session.completion for one in item.get("tool_calls", ())]
    at = 0
    for text_said, reasoning, _, _ in answers:
        assert reasoning in thought
        at = said.index(text_said, at) + len(text_said)
    commands = [one for _, _, listed, _ in answers for one in listed]
    assert len(calls) == len(commands)
    for arguments, one in zip(calls, commands, strict=True):
        assert (
            one in arguments
            or json.dumps(one, ensure_ascii=False)[1:-1] in arguments
            or json.dumps(one)[1:-1] in arguments
        )
    outputs = sum(len(listed) for _, _, listed, answered in answers if answered)
    assert sum(item["role"] == "tool" for item in session.completion) == outputs
    due = bool(answers[-1][2]) and not answers[-1][3]
    assert not (due and session.finish_reason == "stop")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each place in a JSON value, as what holds it and its key."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *places(value[key])]]


FORMATS = {
    "claude_code": (lambda: claude_session().lines, claude_code),
    "codex": (codex_lines, codex),
    "mini_swe_agent": (lambda: trajectory("Submitted"), mini_swe_agent),
    "openhands": (openhands_events, openhands),
    "openhands_sdk": (lambda: sdk_events("finish"), openhands),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_damaged_session_is_read_or_rejected_with_a_reason(name: str, data: st.DataObject) -> None:
    """Any value in any place: what is not read raises ValueError, which rejects the file."""
    make, module = FORMATS[name]
    session: Any = make()
    odd = st.sampled_from(["", "x", 1, 1.5, True, None, "[]", "{}", "[1]", "[null]", '{"a":1}', '[{"type":"text"}]'])
    for _ in range(data.draw(st.integers(1, 3))):
        every = places(session)
        holder, key = every[data.draw(st.integers(0, len(every) - 1))]
        value = data.draw(odd)
        holder[key] = json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
    if module.recognizes(session):
        with contextlib.suppress(ValueError):
            module.read(session)
