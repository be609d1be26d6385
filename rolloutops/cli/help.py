"""The help of the program and of each command, as plain text: wrapped at 100 columns, no pager, no colors."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any

from rolloutops.cli.flags import Command, Flag, members, plain, takes

WIDTH = 100
LEFT = 34  # the widest left column; what is longer stands on its own line

PLACEHOLDERS: dict[type, str] = {
    NoneType: "null",
    int: "N",
    float: "X",
    bool: "true|false",
    dict: "JSON",
    list: "A,B",
    str: "TEXT",
}


def overview(commands: Sequence[Command], program: str, about: str) -> str:
    """The list of commands, under the headings of their groups, in the order in which they are declared."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for command in commands:
        groups.setdefault(command.group, []).append((command.name, command.summary))
    widest = max((len(command.name) for command in commands), default=0)
    return _page(
        f"Usage: {program} COMMAND [ARGUMENTS] [--flag=value ...]",
        _prose(about),
        *(_columns(heading or "Commands", rows, widest) for heading, rows in groups.items()),
        f"'{program} COMMAND --help' explains a command; '{program} --version' prints the version.",
    )


def help_text(command: Command, program: str) -> str:
    """All there is to know about one command. The reference pages are made of it too."""
    tables = [(f"--{table}.{command.key}=VALUE", "") for table in command.open_tables]
    return _page(
        _usage(command, program),
        _prose(command.summary),
        _columns("Arguments", [(flag.name.upper(), _meaning(flag)) for flag in command.positionals]),
        *_flags(command),
        _columns("Recipe keys settable as flags (values are parsed as JSON, otherwise as text)", tables),
        _columns("Other names", [(f"--{other}", f"the same as --{name}") for other, name in command.aliases.items()]),
        _prose(command.about),
    )


def _usage(command: Command, program: str) -> str:
    words = ["Usage:", program, command.name]
    for flag in command.positionals:
        word = flag.name.upper() + ("..." if takes(flag, list) else "")
        words.append(word if flag.required else f"[{word}]")
    return " ".join(words + (["[--flag=value ...]"] if command.flags or command.open_tables else []))


def _flags(command: Command) -> Iterator[str]:
    """The flags under the headings of their groups, all as wide as the widest; without groups, under one heading."""
    left = {flag.name: flag for flag in command.flags}
    groups = {heading: [left.pop(name) for name in names if name in left] for heading, names in command.groups.items()}
    groups["Other flags" if groups else "Flags"] = list(left.values())
    heads = [len(_spelling(flag)) for flag in command.flags]
    widest = max((head for head in heads if head <= LEFT), default=0)
    for heading, flags in groups.items():
        yield _columns(heading, [(_spelling(flag), _meaning(flag)) for flag in flags], widest)


def _spelling(flag: Flag) -> str:
    """`--limit=N|null`, `--engine=vllm|openai`, `--[no-]dry_run`."""
    kinds = [plain(member) for member in members(flag.type)]
    if kinds == [bool]:
        return f"--[no-]{flag.name}" if flag.default is True else f"--{flag.name}"
    chosen = "|".join(flag.choices)
    words = [PLACEHOLDERS[kind] for kind in kinds if kind is not NoneType]
    if chosen and kinds[-1] is str:
        words[-1] = chosen if len(chosen) <= 24 else "NAME"
    return f"--{flag.name}={'|'.join(words + ['null'] * (NoneType in kinds))}"


def _meaning(flag: Flag) -> str:
    """The flag's sentence, with what its left side does not say: choices and default."""
    notes = []
    chosen = "|".join(flag.choices)
    if flag.choices and (takes(flag, list) or len(chosen) > 24):
        notes.append(f"one of {', '.join(flag.choices)}")
    if flag.default is not False and flag.default not in (None, "", (), []):
        notes.append(f"default: {as_typed(flag.default)}")
    return flag.help + (f" ({'; '.join(notes)})" if notes else "")


def as_typed(value: Any) -> str:
    """A value as one types it after a flag."""
    if isinstance(value, (list, tuple)):
        return ",".join(as_typed(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _columns(heading: str, rows: Sequence[tuple[str, str]], widest: int = 0) -> str:
    """Two columns under a heading; the left one as wide as its widest text that fits, or `widest`."""
    if not rows:
        return ""
    fitting = [len(left) for left, _ in rows if len(left) <= LEFT]
    margin = (max([widest, *fitting]) or LEFT) + 4
    lines = [heading + ":"]
    for left, right in rows:
        head = f"  {left}".ljust(margin)
        if right and len(left) > LEFT:
            lines.append(head.rstrip())
            head = " " * margin
        lines += textwrap.wrap(
            right, WIDTH, initial_indent=head, subsequent_indent=" " * margin, break_on_hyphens=False
        ) or [head.rstrip()]
    return "\n".join(lines)


def _prose(text: str) -> str:
    """Paragraphs, wrapped; one with an indented line (an example) stays as it is."""
    return "\n\n".join(
        paragraph if "\n " in f"\n{paragraph}" else textwrap.fill(paragraph, WIDTH, break_on_hyphens=False)
        for paragraph in inspect.cleandoc(text).split("\n\n")
    )


def _page(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
