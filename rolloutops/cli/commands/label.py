"""`label`: what a person says of rollouts, from the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say
from rolloutops.cli.shared_flags import DATA, QUERIES
from rolloutops.cli.which_recipe import plan_of
from rolloutops.cli.which_rollouts import only
from rolloutops.errors import UsageError
from rolloutops.layout import count
from rolloutops.store.author import VARIABLE, author

if TYPE_CHECKING:
    from rolloutops.store.labels import LabelRow

SHOWN = 20
"""Rows that are printed one by one."""

ABOUT = f"""
KEY is what `show` takes: dataset/task_id/policy/rollout_index, a part of it, or an attempt_id. --where labels all
rollouts that a condition on the view rollouts matches. What is not named stays as it was; null takes it away. The label
belongs to the attempt that was read: a rollout that is collected again has none. A recipe may follow: it names the
workspace. The author is --author, else {VARIABLE}, else the name of the user.

    rolloutops label sums/7/careful/0 --label="bad reasoning" --score=0.2 --note="guesses in step 3"
    rolloutops label --where="reward = 1 AND output_tokens > 4000" --label=long
    rolloutops label sums/7/careful/0 --withdraw
    rolloutops sql "SELECT label, count(*), avg(reward) FROM rollouts GROUP BY label"
"""


def body(parsed: Parsed) -> None:
    """Label the rollouts that a key or a condition names, and print what was written."""
    from rolloutops.store.compact import compact_share
    from rolloutops.store.find_rollouts import Rollouts, find, matching
    from rolloutops.store.labels import LabelLog, check_changes, check_text
    from rolloutops.store.removal import beside_writers
    from rolloutops.store.workspace import open_workspace, writing

    flags, words = parsed.flags, list(parsed.positionals.get("key", ()))
    changes = check_changes({name: flags[name] for name in ("label", "score", "note", "withdraw") if name in flags})
    name = check_text("author", flags.get("author") or author())
    key, recipe = _key_and_recipe(words, "where" in flags)
    plan = plan_of(dataclasses.replace(parsed, positionals={"recipe": recipe} if recipe else {}))
    workspace = open_workspace(plan.data)
    with writing(workspace), beside_writers(workspace, alone=False):  # what is found is not forgotten meanwhile
        rollouts = Rollouts(workspace, plan.rows)
        if key is None:
            found = matching(rollouts, flags["where"], None)[0]
        else:
            found = [only(key, find(rollouts, key, exact=True))]
        if not found:
            raise UsageError(f"no rollout matches --where={flags['where']}")
        written = LabelLog(workspace).write(found, changes, name)  # type: ignore[arg-type]
    say(*sentences(written, len(found)))
    compact_share(workspace, "labels")


COMMAND = Command(
    "label",
    body,
    "Label rollouts: a label, a score, a note",
    (
        DATA,
        Flag("label", str | None, "the label, a word or a few"),
        Flag("score", float | None, 'the score; the reward of datasets with verifier = "human"'),
        Flag("note", str | None, "a note beside it"),
        Flag("withdraw", bool, "take label, score and note away"),
        Flag("where", str, "label all rollouts that match this SQL condition, e.g. \"finish_reason = 'length'\""),
        Flag("author", str, f"who labels (default: {VARIABLE}, else the user's name)"),
        *QUERIES,
    ),
    (Flag("key", list[str], "the rollout, then the recipe (default: the one last used)"),),
    about=ABOUT,
    group="looking",
)


def _key_and_recipe(words: Sequence[str], by_condition: bool) -> tuple[str | None, str | None]:
    """Split the words of a command line into the key, without a condition, and a recipe."""
    wanted = 0 if by_condition else 1
    if len(words) < wanted:
        raise UsageError(
            "label needs a rollout, as in: label KEY --label=TEXT, or label --where=CONDITION --label=TEXT"
        )
    if len(words) > wanted + 1:
        raise UsageError(f"{words[wanted + 1]!r} is one word too many: label takes {count(wanted, 'key')} and a recipe")
    return words[0] if wanted else None, next(iter(words[wanted:]), None)


def sentences(rows: Sequence[LabelRow], rollouts: int) -> Iterator[str]:
    """Say what was written."""
    from rolloutops.store.find_rollouts import key_of

    if len(rows) <= SHOWN:
        yield from (f"{key_of(row)}: {describe(row)}" for row in rows)
    else:
        yield f"{count(len(rows), 'rollout')} labeled: {describe(rows[0])} and the like"
    if len(rows) < rollouts:
        yield f"{count(rollouts - len(rows), 'rollout')} unchanged: it is what they have"


def describe(row: LabelRow | dict[str, Any]) -> str:
    """Write a row as a person reads it."""
    if row["withdrawn"]:
        return f"label withdrawn by {row['author']}"
    parts = [
        row["label"] and f"label {row['label']!r}",
        None if row["score"] is None else f"score {row['score']:g}",
        row["note"] and f"note {row['note']!r}",
    ]
    return f"{', '.join(part for part in parts if part)}, by {row['author']}"
