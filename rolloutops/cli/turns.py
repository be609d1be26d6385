"""A conversation as lines for a terminal: its key, its turns by role with tool calls beside results, its verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rolloutops.cli.printing import Line
from rolloutops.cli.tables import cell
from rolloutops.config.redact import for_screen
from rolloutops.layout import count, width, wrap

if TYPE_CHECKING:
    from rolloutops.store.conversation import Conversation

STYLES = {"user": "user", "assistant": "assistant", "tool": "tool"}
"""Role -> the style of its heading; others have that of a heading."""

TAB = 4
"""Columns of a tab."""

Results = Mapping[tuple[int, int], Sequence[int]]
"""(message, place of a call in it) -> the messages with its results."""


def conversation(one: Conversation, columns: int) -> Iterator[Line]:
    """Write a whole conversation."""
    yield from heading(one, columns)
    results = results_of(one.messages)
    for number in turns_of(one.messages, results):
        yield Line("")
        yield from turn(one.messages, number, results, columns)
    yield from end(one, columns)


def heading(one: Conversation, columns: int, name: str = "") -> Iterator[Line]:
    """Write the key, and what is known of the rollout. name: before the key."""
    yield from wrapped(name + key_of(one), columns, style="heading")
    for text in _facts(one):
        yield from wrapped(text, columns, style="quiet")


def key_of(one: Conversation) -> str:
    """Write the key of a rollout."""
    return "/".join(str(one.facts[name]) for name in ("dataset", "task_id", "policy", "rollout_index"))


def _facts(one: Conversation) -> Iterator[str]:
    facts = one.facts
    tokens = [
        f"{facts[name]:,} {word} tokens"
        for name, word in (
            ("input_tokens", "input"),
            ("output_tokens", "output"),
            ("reasoning_tokens", "reasoning"),
            ("cached_tokens", "cached"),
        )
        if facts[name] or (facts[name] == 0 and name in ("input_tokens", "output_tokens"))
    ]
    rewards = [v["reward"] for v in one.verdicts if v["present"] and v["reward"] is not None]
    parts = [
        *(f"reward {cell(reward)}" for reward in rewards),
        f"policy {facts['policy']}: {facts['engine']} {facts['model'] or ''}".rstrip(),
        f"finish reason {facts['finish_reason'] or 'not known'}",
        *tokens,
        *([f"{facts['seconds']:.3g} s"] if facts["seconds"] is not None else []),
        *([count(facts["tool_calls"], "tool call")] if facts["tool_calls"] else []),
    ]
    yield " · ".join(parts)
    place = f" · {facts['origin']} line {cell(facts['line'])}" if facts["origin"] else ""
    yield f"attempt {facts['attempt']}: {facts['attempt_id']}{place}"
    if one.request:
        yield f"request {_json(one.request)}"


def results_of(messages: Sequence[Mapping[str, Any]]) -> Results:
    """Find the results of each tool call. Ids may come again: the last call before a result counts."""
    found: dict[tuple[int, int], list[int]] = {}
    calls: dict[str, tuple[int, int]] = {}
    for number, item in enumerate(messages):
        for place, call in enumerate(item.get("tool_calls") or ()):
            found[number, place] = []
            calls[str(call.get("id"))] = (number, place)
        if item.get("role") == "tool" and (made := calls.get(str(item.get("tool_call_id")))):
            found[made].append(number)
    return found


def turns_of(messages: Sequence[Mapping[str, Any]], results: Results) -> list[int]:
    """Return the messages that have a heading: all but results, which stand below their calls."""
    below = {number for numbers in results.values() for number in numbers}
    return [number for number in range(len(messages)) if number not in below]


def turn(
    messages: Sequence[Mapping[str, Any]], number: int, results: Results, columns: int, note: str = ""
) -> Iterator[Line]:
    """Write one message, its calls with their results. note: stands in its heading."""
    from rolloutops.store.conversation import arguments_of

    item = messages[number]
    role = str(item.get("role"))
    style = STYLES.get(role, "heading")
    name = f" {item['name']}" if item.get("name") else ""
    yield from rule(f"{role}{name}{note}", columns, "mark" if note else style)
    if item.get("reasoning_content"):
        yield from wrapped(str(item["reasoning_content"]), columns, "  reasoning │ ", "  │ ", "quiet")
    yield from _content(item, columns)
    for place, call in enumerate(item.get("tool_calls") or ()):
        called = (call.get("function") or {}).get("name")
        yield from wrapped(f"{called} {arguments_of(call)}", columns, "  → ", "    ", "tool")
        for result in results[number, place]:
            yield from _content(messages[result], columns, "  ← ", "    ")
        if not results[number, place]:
            yield Line("  ← (no result)", "quiet")


def _content(item: Mapping[str, Any], columns: int, first: str = "", rest: str = "") -> Iterator[Line]:
    """The text of a message, and the names of its pictures, sounds and videos."""
    from rolloutops.store.conversation import media_of, text_of

    text = text_of(item)
    media = media_of(item)
    if text or first:
        yield from wrapped(text or "" if media else text or "(empty)", columns, first, rest)
    for one in media:
        yield from wrapped(f"[{one['medium']}: {one['reference'][:200]}]", columns, rest, rest, "quiet")


def end(one: Conversation, columns: int) -> Iterator[Line]:
    """Write what came of it: the error of an attempt that failed, the expected answer, its label, each verdict."""
    facts = one.facts
    yield Line("")
    if facts["error"]:
        yield from rule("failed", columns, "mark")
        yield from wrapped(f"{facts['error']}: {facts['error_message'] or 'no message'}", columns)
    elif not one.has_texts:
        yield from wrapped("(no answer is stored)", columns, style="quiet")
    if facts["answer"] is not None:
        yield from rule("expected answer", columns, "heading")
        yield from wrapped(str(facts["answer"]), columns)
    if one.label:
        yield from rule(f"label, by {one.label['author']}", columns, "heading")
        for name in ("label", "score", "note"):
            if (value := one.label[name]) is not None:
                yield from wrapped(f"{name}: {cell(value) if name == 'score' else value}", columns)
    for verdict in one.verdicts:
        earlier = "" if verdict["present"] else ", which does not count now"
        verifier = f"{verdict['verifier']} {verdict['verifier_version'] or ''}".strip()
        yield from rule(f"verdict: {verifier}{earlier}", columns, "heading" if verdict["present"] else "quiet")
        yield from _verdict(verdict, columns)
    if not one.verdicts and not facts["error"]:
        yield Line("(not verified)", "quiet")


def _verdict(verdict: Mapping[str, Any], columns: int) -> Iterator[Line]:
    if verdict["error"]:
        yield from wrapped(f"{verdict['error']}: {verdict['error_message'] or 'no message'}", columns, style="mark")
    else:
        yield Line(f"reward {cell(verdict['reward'])}")
    for name in ("metrics", "details"):
        held = verdict[name]
        if isinstance(held, dict):
            for key, value in held.items():
                twice = name == "metrics" and isinstance(verdict["details"], dict) and key in verdict["details"]
                if not twice and not (key == "reward" and value == verdict["reward"]):
                    yield from wrapped(
                        f"{key}: {value if isinstance(value, str) else _json(value)}", columns, rest="  "
                    )
        elif held is not None:
            yield from wrapped(f"{name}: {_json(held)}", columns, rest="  ")


def rule(text: str, columns: int, style: str) -> Iterator[Line]:
    """Write a heading with a line to the edge."""
    *before, last = wrapped(f"── {text} ", columns, style=style)
    yield from before
    yield Line(last.text + " " + "─" * max(columns - width(last.text) - 1, 0), style)


def wrapped(text: str, columns: int, first: str = "", rest: str = "", style: str = "") -> Iterator[Line]:
    """Write a text as lines of the terminal, with escapes for what it would obey. first and rest: before its lines."""
    lead = first
    for line in for_screen(text).expandtabs(TAB).split("\n"):
        room = max(columns - max(width(first), width(rest)), 8)
        indent = line[: min(len(line) - len(line.lstrip(" ")), room // 2)]
        for piece in wrap(line[len(indent) :], room - len(indent)):
            yield Line(f"{lead}{indent}{piece}".rstrip(), style)
            lead = rest


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
