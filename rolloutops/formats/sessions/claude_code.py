"""Sessions of Claude Code: `~/.claude/projects/FOLDER/SESSION.jsonl`, and those of its subagents, `agent-ID.jsonl`.

Source: files of versions 1.0 to 2.1, as described by 23min/copilot-lens (docs/research/claude-code-sessions.md,
3163988, files of 2.1.39) and microsoft/amplifier (ai_working/claude_code_logging, the graph of messages).

A line is an event. Lines of type `user` and `assistant` hold a Messages API message; `parentUuid` makes them a tree,
in which a rewind leaves branches. The rollout is the thread of the last leaf. Three things are no branches: an answer
is written as one line a content block, all with the same `message.id`; outputs of parallel tool calls hang on the
block that called; and where a conversation was compacted the thread goes on at `logicalParentUuid`.
The file has neither the system prompt nor the tools.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rolloutops.formats.chat import as_text, content_of, message, tool_call, with_ids
from rolloutops.formats.finish_reasons import known
from rolloutops.formats.sessions import claude_stream
from rolloutops.formats.sessions.session import (
    ERROR,
    INTERRUPTED,
    Session,
    Tokens,
    count_of,
    first_time,
    halves,
    joined,
    objects,
    summed,
    thread,
    with_open_calls,
)
from rolloutops.types import Message

AGENT = "claude_code"
SYNTHETIC = "<synthetic>"
"""The model of answers that Claude Code itself wrote, e.g. an error of the API."""

STOPPED_BY_USER = "[Request interrupted by user"
NOT_A_REQUEST = ("<command-name>", "<command-message>", "<local-command-", "<bash-", "Caveat: ")
"""How lines begin that Claude Code writes for the user's own commands: nobody answers them."""

Line = dict[str, Any]


def recognizes(rows: Sequence[Any]) -> bool:
    """Whether the first rows of a file are those of a Claude Code session, or of what it printed."""
    return claude_stream.is_stream(rows) or any(
        isinstance(row, dict)
        and isinstance(row.get("type"), str)
        and (
            ("parentUuid" in row and "uuid" in row)
            or ("leafUuid" in row and row["type"] == "summary")
            or ("snapshot" in row and row["type"] == "file-history-snapshot")
            or ("sessionId" in row and row["type"] == "queue-operation")
        )
        for row in rows
    )


def read(rows: Sequence[Any]) -> Session:
    """The session that a file's lines are. Raises ValueError where it has no prompt or no answer."""
    aside: Counter[str] = Counter()
    whole = objects(rows, aside)
    stream = claude_stream.is_stream(whole)
    lines = _thread(claude_stream.linked(whole) if stream else whole, aside)
    messages = with_ids(_messages(lines, aside))
    prompt, completion, unanswered = halves(messages)
    answers = [line for line in lines if _is_answer(line)]
    aside["user without an answer"] += len(unanswered)
    reason = _finish_reason(lines, completion, unanswered)
    return Session(
        AGENT,
        prompt,
        completion,
        claude_stream.finish_reason(whole, reason) if stream else reason,
        model=as_text(answers[-1]["message"].get("model")) or None,
        tokens=_tokens(answers),
        started_at=first_time(line.get("timestamp") for line in lines),
        left_aside=+aside,
    )


def _thread(lines: Sequence[Line], aside: Counter[str]) -> list[Line]:
    """The messages of the main thread, in the file's order; what is not of it is counted."""
    said = {number for number, line in enumerate(lines) if _is_message(line)}
    # A subagent's file holds nothing but a sidechain, which is its main thread.
    alone = all(lines[number].get("isSidechain") for number in said)
    main = [number for number, line in enumerate(lines) if alone or not line.get("isSidechain")]
    own = [number for number in main if number in said]
    found = _leaf_thread(lines, own, _parents(lines, main))
    found |= _rest_of_answers(lines, own, found)
    kept = [number for number in own if number in found]
    for number in set(range(len(lines))).difference(kept):
        aside[_name(lines[number], number in said, alone)] += 1
    return [lines[number] for number in kept]


def _name(line: Line, is_message: bool, alone: bool) -> str:
    """What a line that is not of the main thread is counted as."""
    if is_message:
        return "sidechain" if line.get("isSidechain") and not alone else "other branch"
    return ":".join(filter(None, (as_text(line.get("type")) or "no type", as_text(line.get("subtype")))))


def _parents(lines: Sequence[Line], main: Sequence[int]) -> dict[int, int | None]:
    """The line that each line of the main thread's tree follows. One whose parent is not in the file, and the summary
    of what was compacted, follow the line before them."""
    numbers = {as_text(lines[number].get("uuid")): number for number in reversed(main) if lines[number].get("uuid")}
    parents: dict[int, int | None] = {}
    before: int | None = None
    for number in main:
        line = lines[number]
        if not line.get("uuid"):
            continue
        above = as_text(line.get("parentUuid") or line.get("logicalParentUuid"))
        parent = numbers.get(above)
        starts_anew = not above and not (line.get("isCompactSummary") or line.get("subtype") == "compact_boundary")
        parents[number] = None if starts_anew else before if parent is None or parent >= number else parent
        before = number
    return parents


def _leaf_thread(lines: Sequence[Line], own: Sequence[int], parents: Mapping[int, int | None]) -> set[int]:
    """The thread of the last message that has an answer above it."""
    answers = [number for number in own if _is_answer(lines[number])]
    if not answers:
        return set(own)
    last = thread(parents, own[-1])
    return last if last.intersection(answers) else thread(parents, answers[-1])


def _rest_of_answers(lines: Sequence[Line], own: Sequence[int], main: set[int]) -> set[int]:
    """The other lines of the thread's answers, and the outputs of the tools that they call."""
    ids = {_answer_id(lines[number]) for number in own if number in main and _is_answer(lines[number])}
    parts = {number for number in own if _is_answer(lines[number]) and _answer_id(lines[number]) in ids}
    calls = {as_text(block.get("id")) for number in parts for block in _blocks(lines[number]) if _is_call(block)}
    outputs = {
        number
        for number in own
        if lines[number]["type"] == "user"
        and any(as_text(block.get("tool_use_id")) in calls for block in _blocks(lines[number]))
    }
    return parts | outputs


def _messages(lines: Sequence[Line], aside: Counter[str]) -> list[Message]:
    """The thread's lines as messages: one for each answer, one for each tool output, one for what a user wrote."""
    found: list[Message] = []
    places: dict[str, int] = {}
    for line in lines:
        if line["type"] == "user":
            found += _of_user(line, aside)
        elif not _is_answer(line):
            aside["API error" if line.get("isApiErrorMessage") else "written by Claude Code"] += 1
        else:
            said, outputs = _of_model(line, aside)
            if (place := places.get(_answer_id(line))) is not None:
                found[place] = joined(found[place], said)
            else:
                places[_answer_id(line)] = len(found)
                found.append(said)
            found += outputs
    return found


def _of_model(line: Line, aside: Counter[str]) -> tuple[Message, list[Message]]:
    """One line of an answer, and the outputs of tools that ran on the server, which are in it."""
    content: list[Any] = []
    calls, outputs = [], []
    for block in _blocks(line):
        kind = as_text(block.get("type"))
        if _is_call(block):
            calls.append(tool_call(block.get("id"), block.get("name"), block.get("input")))
        elif kind.endswith("_tool_result"):
            output, _ = content_of(block.get("content"), of_tool=True)
            outputs.append(message("tool", output, tool_call_id=as_text(block.get("tool_use_id")) or None))
        elif kind == "redacted_thinking":
            aside[kind] += 1
        else:
            content.append(block)
    text, reasoning = content_of(content) if content else ("", "")
    return message("assistant", text, reasoning=reasoning or None, tool_calls=calls or None), outputs


def _of_user(line: Line, aside: Counter[str]) -> Iterator[Message]:
    """The tool outputs of a user's line, then what the user wrote. That an answer was stopped is no message."""
    written: list[Any] = []
    for block in _blocks(line):
        if block.get("type") == "tool_result":
            content, _ = content_of(_readable(block.get("content")), of_tool=True)
            yield message("tool", content, tool_call_id=as_text(block.get("tool_use_id")) or None)
        elif as_text(block.get("text")).startswith(STOPPED_BY_USER):
            aside["interruption"] += 1
        else:
            written.append(block)
    if written:
        content, _ = content_of(_readable(written))
        yield message("user", content)


def _readable(content: Any) -> Any:
    """Blocks of the Messages API with pictures and documents as chat parts."""
    return [_part(block) for block in content] if isinstance(content, list) else content


def _part(block: Any) -> Any:
    source = block.get("source") if isinstance(block, dict) else None
    if not isinstance(source, dict) or block.get("type") not in ("image", "document"):
        return block
    if source.get("type") == "url":
        url = as_text(source.get("url"))
    elif source.get("type") == "base64":
        url = f"data:{as_text(source.get('media_type'))};base64,{as_text(source.get('data'))}"
    else:
        return block
    if block["type"] == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"file_data": url}}


def _finish_reason(lines: Sequence[Line], completion: Sequence[Message], unanswered: Sequence[Message]) -> str | None:
    """Why the session ended. Many versions write no `stop_reason`: then a last text says nothing of its end."""
    answers = [line for line in lines if _is_answer(line)]
    after = lines[max(number for number, line in enumerate(lines) if _is_answer(line)) + 1 :]
    if any(line.get("isApiErrorMessage") for line in after):
        return ERROR
    if any(STOPPED_BY_USER in as_text(block.get("text")) for line in after for block in _blocks(line)):
        return INTERRUPTED
    if with_open_calls(completion) or any(_asks(said) for said in unanswered):
        return INTERRUPTED
    last = _answer_id(answers[-1])
    reasons = [line["message"].get("stop_reason") for line in answers if _answer_id(line) == last]
    received = next((as_text(reason) for reason in reversed(reasons) if reason), None)
    if received:
        return known(received) or ERROR
    return INTERRUPTED if any(line["message"].get("stop_reason") for line in answers) else None


def _asks(message_of_user: Message) -> bool:
    """Whether a user's message waits for an answer."""
    return not (isinstance(message_of_user["content"], str) and message_of_user["content"].startswith(NOT_A_REQUEST))


def _tokens(answers: Sequence[Line]) -> Tokens:
    """The tokens of the thread's answers, each counted once: the counts of an answer grow from line to line."""
    usages: dict[str, Tokens] = {}
    for line in answers:
        usage = line["message"].get("usage")
        if not isinstance(usage, Mapping):
            continue
        cached = count_of(usage.get("cache_read_input_tokens"))
        parts = (count_of(usage.get("input_tokens")), count_of(usage.get("cache_creation_input_tokens")), cached)
        output = count_of(usage.get("output_tokens"))
        before = usages.get(_answer_id(line), Tokens())
        if before.output is None or (output or 0) >= before.output:
            read = [part for part in parts if part is not None]
            usages[_answer_id(line)] = Tokens(sum(read) if read else None, output, cached)
    return summed(usages.values())


def _blocks(line: Line) -> list[dict[str, Any]]:
    """The content blocks of a line's message; text is one block."""
    content = line["message"].get("content")
    listed = content if isinstance(content, list) else [content]
    return [block if isinstance(block, dict) else {"type": "text", "text": as_text(block)} for block in listed if block]


def _is_message(line: Line) -> bool:
    return line.get("type") in ("user", "assistant") and isinstance(line.get("message"), dict)


def _is_answer(line: Line) -> bool:
    """Whether the model said it, and not Claude Code in its place."""
    if not _is_message(line) or line["type"] != "assistant":
        return False
    return not line.get("isApiErrorMessage") and line["message"].get("model") != SYNTHETIC


def _answer_id(line: Line) -> str:
    """What the lines of one answer share."""
    return as_text(line["message"].get("id") or line.get("requestId") or line.get("uuid"))


def _is_call(block: Mapping[str, Any]) -> bool:
    return block.get("type") in ("tool_use", "server_tool_use", "mcp_tool_use")
