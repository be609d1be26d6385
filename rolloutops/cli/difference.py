"""Two rollouts of one task as lines for a terminal: where they first differ, then both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from rolloutops.cli.printing import Line
from rolloutops.cli.turns import Results, end, heading, key_of, results_of, rule, turn, turns_of, wrapped
from rolloutops.errors import UsageError
from rolloutops.layout import pad

if TYPE_CHECKING:
    from rolloutops.store.conversation import Conversation

WIDE = 100
"""Columns from which on two rollouts stand side by side."""

AROUND = 40
"""Characters that are shown before and after the first difference."""

BETWEEN = " │ "
MARK = ": first difference"


class Difference(NamedTuple):
    """Where two rollouts first differ. turn: the message, from 0. part: of it. at: the character, from 0. texts: what
    each has there, None if it lacks the part."""

    turn: int
    part: str
    at: int
    texts: tuple[str | None, str | None]


def difference(one: Conversation, other: Conversation, columns: int) -> Iterator[Line]:
    """Write two rollouts of one task. Raises UsageError where they are not of one task, or the same."""
    if one.facts["attempt_id"] == other.facts["attempt_id"]:
        raise UsageError(f"both keys name the same rollout, {key_of(one)}; --diff compares two")
    task, its = ((each.facts["dataset"], each.facts["task_id"]) for each in (one, other))
    if task != its:
        raise UsageError(f"{key_of(one)} and {key_of(other)} are of different tasks; --diff compares two of one task")
    found = first_difference(one.messages, other.messages)
    results = results_of(one.messages)
    same = _turn_with(found.turn, results, results_of(other.messages)) if found else len(one.messages)
    for number in turns_of(one.messages, results):
        if number < same:
            yield from turn(one.messages, number, results, columns)
            yield Line("")
    yield from _mark(found, columns)
    yield Line("")
    if columns >= WIDE:
        yield from _side_by_side(one, other, same, columns)
        return
    yield from _rest(one, "A: ", same, columns)
    yield Line("")
    yield from _rest(other, "B: ", same, columns)


def _turn_with(message: int, *sides: Results) -> int:
    """The turn that shows a message: of a result, the one that called."""
    return min((call for side in sides for (call, _), numbers in side.items() if message in numbers), default=message)


def _rest(one: Conversation, name: str, same: int, columns: int) -> Iterator[Line]:
    """One rollout from where they differ."""
    for block in _blocks(one, name, same, columns):
        yield from block


def _side_by_side(one: Conversation, other: Conversation, same: int, columns: int) -> Iterator[Line]:
    """Both from where they differ, turn beside turn."""
    half = (columns - len(BETWEEN)) // 2
    sides = (_blocks(each, name, same, half) for each, name in ((one, "A: "), (other, "B: ")))
    for left, right in zip(*_aligned(*map(list, sides)), strict=True):
        for mine, its in zip_longest(left, right, fillvalue=Line("")):
            yield Line(pad(mine.text, half), mine.style, Line(BETWEEN, "quiet", its))


def _blocks(one: Conversation, name: str, same: int, columns: int) -> Iterator[list[Line]]:
    """The heading of a rollout, each turn from where they differ, and its end."""
    yield list(heading(one, columns, name))
    results = results_of(one.messages)
    for number in turns_of(one.messages, results):
        if number >= same:
            yield [Line(""), *turn(one.messages, number, results, columns, MARK if number == same else "")]
    yield list(end(one, columns))


def _aligned(one: list[list[Line]], other: list[list[Line]]) -> tuple[list[list[Line]], list[list[Line]]]:
    """Blocks of two sides in pairs, the ends in the last one."""
    most = max(len(one), len(other))
    left, right = ([*side[:-1], *([[]] * (most - len(side))), side[-1]] for side in (one, other))
    return left, right


def _mark(difference: Difference | None, columns: int) -> Iterator[Line]:
    """Say where the first difference is, with what is around it."""
    if difference is None:
        yield from rule("no difference: both rollouts are equal", columns, "mark")
        return
    place = f"turn {difference.turn + 1}, {difference.part}, character {difference.at + 1}"
    yield from rule(f"first difference: {place}", columns, "mark")
    start = max(difference.at - AROUND, 0)
    for name, text in zip("AB", difference.texts, strict=True):
        if text is None:
            yield Line(f"{name}: (nothing)", "mark")
            continue
        before, after = text[start : difference.at], text[difference.at : difference.at + AROUND]
        shown = f"{'…' if start else ''}{before}▶{after}{'…' if len(text) > difference.at + AROUND else ''}"
        yield from wrapped(" ".join(shown.split()), columns, f"{name}: ", "   ", "mark")


def first_difference(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> Difference | None:
    """Find where two conversations first differ; None where they are equal."""
    for number, (left, right) in enumerate(zip_longest(one, other)):
        mine, theirs = _parts(left), _parts(right)
        for part in {**mine, **theirs}:
            texts = mine.get(part), theirs.get(part)
            if texts[0] != texts[1]:
                return Difference(number, part, _common(texts[0] or "", texts[1] or ""), texts)
    return None


def _parts(item: Mapping[str, Any] | None) -> dict[str, str]:
    """What a message says, part by part, in the order in which it is shown."""
    from rolloutops.store.conversation import arguments_of, media_of, text_of

    if item is None:
        return {}
    calls = enumerate(item.get("tool_calls") or (), 1)
    parts = {
        "role": str(item.get("role")),
        "reasoning": str(item.get("reasoning_content") or ""),
        "text": text_of(item),
        "media": ", ".join(str(one["reference"]) for one in media_of(item)),
        **{f"tool call {n}": f"{(call.get('function') or {}).get('name')} {arguments_of(call)}" for n, call in calls},
    }
    return {part: text for part, text in parts.items() if text}


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next(
        (at for at, (mine, its) in enumerate(zip(one, other, strict=False)) if mine != its), min(len(one), len(other))
    )
