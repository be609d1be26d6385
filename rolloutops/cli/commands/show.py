"""`show`: conversations at the terminal, turn by turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rolloutops.cli.difference import difference
from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import Line, say, show_json, show_painted
from rolloutops.cli.shared_flags import DATA, JSON, QUERIES
from rolloutops.cli.turns import conversation
from rolloutops.cli.which_recipe import plan_of
from rolloutops.cli.which_rollouts import only
from rolloutops.errors import UsageError
from rolloutops.layout import columns_of, count

if TYPE_CHECKING:
    from rolloutops.store.conversation import Conversation

ABOUT = """
KEY is dataset/task_id/policy/rollout_index, or a part of it that matches one rollout, e.g. a task's id, its first
characters, or policy/rollout_index; or an attempt_id, also of a failed attempt. --where takes a condition on the
columns of the view rollouts, instead of KEY. --diff takes two KEYs. A recipe may follow, to name the workspace.

    rolloutops show --where="reward = 0 AND finish_reason = 'length'" --limit=5 --pager
    rolloutops show --diff sums/7/careful/0 sums/7/bold/0
"""


def body(parsed: Parsed) -> None:
    """Print the conversations that a key or a condition names."""
    from rolloutops.store.find_rollouts import Rollouts, find, matching
    from rolloutops.store.workspace import open_workspace

    flags, words = parsed.flags, list(parsed.positionals.get("key", ()))
    keys, recipe = _keys_and_recipe(words, flags)
    plan = plan_of(dataclasses.replace(parsed, positionals={"recipe": recipe} if recipe else {}))
    rollouts = Rollouts(open_workspace(plan.data), plan.rows)
    if "where" in flags:
        attempts, total = matching(rollouts, flags["where"], flags.get("limit", 1))
    else:
        attempts = [only(key, find(rollouts, key)) for key in keys]
        total = len(attempts)
    if not attempts:
        raise UsageError(f"no rollout matches --where={flags['where']}")
    found = [rollouts.load(one) for one in attempts]
    if flags.get("json"):
        show_json(_as_json(found))
        return
    wide = columns_of()
    lines: list[Line] = []
    if flags.get("diff"):
        lines += difference(found[0], found[1], wide)
    else:
        for place, one in enumerate(found):
            lines += [*([Line("")] if place else []), *conversation(one, wide)]
    show_painted(lines, flags.get("pager", False))
    if total > len(found):
        more = f"--limit={min(total, 10 * len(found))}"
        say(f"shown: {len(found):,} of {count(total, 'rollout')} that match; add {more}, or --limit=null for all")


COMMAND = Command(
    "show",
    body,
    "Print conversations turn by turn",
    (
        DATA,
        Flag("where", str, "show rollouts that match this SQL condition, e.g. \"reward = 0 AND policy = 'bold'\""),
        Flag("limit", int | None, "with --where, maximum number of rollouts", 1),
        Flag("diff", bool, "compare two rollouts of one task: where they first differ, then both"),
        Flag("pager", bool, "page the output ($PAGER, else less)"),
        JSON,
        *QUERIES,
    ),
    (Flag("key", list[str], "key of a rollout, or two keys with --diff; a recipe may follow"),),
    about=ABOUT,
    group="Inspect and set up",
)


def _keys_and_recipe(words: Sequence[str], flags: dict[str, Any]) -> tuple[list[str], str | None]:
    """Split the words of a command line into as many keys as its flags ask for, and a recipe."""
    if flags.get("diff") and "where" in flags:
        raise UsageError("--diff compares two rollouts by their keys; leave --where out")
    if "limit" in flags and "where" not in flags:
        raise UsageError("--limit is for --where; without it, show prints the rollout that KEY names")
    limit = flags.get("limit")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit expects a whole number of 1 or more, or null, got {limit}")
    wanted = 0 if "where" in flags else 2 if flags.get("diff") else 1
    if len(words) < wanted:
        example = "show --diff KEY KEY" if wanted == 2 else "show KEY, or show --where=CONDITION"
        raise UsageError(
            f"{'--diff needs two rollouts' if wanted == 2 else 'show needs a rollout'}, as in: {example}; "
            "KEY is dataset/task_id/policy/rollout_index, a part of it, or an attempt_id"
        )
    if len(words) > wanted + 1:
        raise UsageError(f"{words[wanted + 1]!r} is one word too many: show takes {count(wanted, 'key')} and a recipe")
    return list(words[:wanted]), next(iter(words[wanted:]), None)


def _as_json(conversations: Sequence[Conversation]) -> str:
    from rolloutops.formats.strict_json import dump

    return dump(
        [
            {
                **{name: value for name, value in one.facts.items() if name not in ("answer", "origin", "line")},
                "started_at": _time(one.facts["started_at"]),
                "messages": list(one.messages),
                "prompt_messages": one.prompt,
                "tools": one.tools,
                "answer": one.facts["answer"],
                "request": one.request,
                "verdicts": list(one.verdicts),
                "label": one.label and {**one.label, "created_at": _time(one.label["created_at"])},
            }
            for one in conversations
        ]
    )


def _time(milliseconds: int | None) -> str | None:
    """Write a time since 1970 as ISO 8601."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
