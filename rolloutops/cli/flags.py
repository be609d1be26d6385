"""What a command declares: its flags and their types, and how the text of a flag becomes a value.

Nothing here guesses. Text stays text unless the declaration says otherwise, so `1e5`, `a,b` and `C# code` arrive at a
`str` flag as they were typed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import GenericAlias, NoneType, UnionType
from typing import Any, TypeAlias, get_args, get_origin

from rolloutops.errors import UsageError, did_you_mean

Kind: TypeAlias = type | UnionType | GenericAlias
"""`str`, `int`, `float`, `bool`, `dict` (a JSON object), `list[str]`, or a union: `int | None`, `int | str`."""


@dataclass(frozen=True)
class Flag:
    """One `--name`, or one positional argument.

    name: as in Python; `--num-repeats` and `--num_repeats` both mean `num_repeats`. type: see Kind. default: shown in
    the help, never filled in. choices: the texts that are allowed. required: a positional that must be given.
    """

    name: str
    type: Kind
    help: str
    default: object = None
    choices: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True)
class Parsed:
    """A command line that was checked against its command. Only what was given is in it, with its declared type.

    overrides: nested, `{"responses_create_params": {"temperature": 0.7}}`. argv: the command line as typed.
    """

    command: str
    positionals: dict[str, Any]
    flags: dict[str, Any]
    overrides: dict[str, Any]
    argv: list[str]


@dataclass(frozen=True)
class Command:
    """One command of the program.

    run: its body; what it returns is the exit code, None being 0. summary: one line. positionals: one whose type is a
    list takes all that follow. open_tables: dotted prefixes below which any key may be set, `responses_create_params`.
    key: how it is written, `NAME.KEY` where the tables hold one for each name. about: more help, indented lines kept as
    they are. group: the heading it stands under in the list of commands. aliases: other names of its flags,
    `input_jsonl_fpath` -> `input`. groups: headings of the help -> names of flags; what no group names comes last.
    `input_jsonl_fpath` -> `input`. known_keys: open table -> keys that it has, which a mistyped flag may mean.
    """

    name: str
    run: Callable[[Parsed], int | None]
    summary: str
    flags: tuple[Flag, ...] = ()
    positionals: tuple[Flag, ...] = ()
    open_tables: tuple[str, ...] = ()
    key: str = "KEY"
    about: str = ""
    group: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    known_keys: Mapping[str, Collection[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [flag.name for flag in (*self.flags, *self.positionals)] + list(self.aliases)
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: a name is declared twice")
        if astray := set(self.aliases.values()) - {flag.name for flag in self.flags} - set(self.open_tables):
            raise ValueError(f"{self.name}: {astray} is neither a flag nor a table")
        if strange := [flag.name for flag in (*self.flags, *self.positionals) if not members(flag.type)]:
            raise ValueError(f"{self.name}: {strange} has a type that cannot be read")


def members(kind: Kind) -> list[Any]:
    """The types that a kind allows, narrowest first: `str | int | None` -> [NoneType, int, str]."""
    allowed = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return [member for known in WORDS for member in allowed if plain(member) is known]


def plain(member: Any) -> type:
    """`list[str]` -> list, `int` -> int."""
    return get_origin(member) or member


def takes(flag: Flag, kind: type) -> bool:
    """Is this one of the types that the flag allows?"""
    return any(plain(member) is kind for member in members(flag.type))


def read(flag: Flag, text: str, label: str) -> Any:
    """The value of a flag's text; of several allowed types the narrowest that fits.

    `label` names the flag in the UsageError that tells what was expected.
    """
    for member in members(flag.type):
        try:
            value = _read_as(member, text, label)
        except ValueError:
            continue
        items = value if isinstance(value, list) else [value]
        if not flag.choices or all(item in flag.choices for item in items if isinstance(item, str)):
            return value
    raise UsageError(f"{label} expects {expected(flag)}, got {quoted(text)}{did_you_mean(text, flag.choices)}")


def expected(flag: Flag) -> str:
    """What the flag takes, in words: `a whole number or 'auto'`."""
    choices = [repr(choice) for choice in flag.choices]
    chosen = " or ".join(choices) if len(choices) < 3 else "one of " + ", ".join(choices)
    words = {**WORDS, str: chosen, list: f"a list of {chosen}"} if choices else WORDS
    return " or ".join(words[plain(member)] for member in members(flag.type))


def json_or_text(text: str, label: str) -> Any:
    """The value of an override: JSON where the text is JSON, else the text itself. NaN and infinities: UsageError."""

    def refuse(number: str) -> float:
        raise UsageError(f"{label} expects JSON or text, and {number} is not a JSON number (as text: '\"{number}\"')")

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(number)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError):
        return text


def quoted(text: str) -> str:
    """The user's text inside a message: on one line, and not too long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _read_as(kind: Any, text: str, label: str) -> Any:
    """The text as one type; ValueError where it is not of that type."""
    if plain(kind) is list:
        (item_kind,) = get_args(kind) or (str,)
        return [_read_as(item_kind, item, label) for item in _items(text)]
    if kind is int and re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    if kind is float and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        if math.isfinite(float(text)):
            return float(text)
    elif kind is bool and text.lower() in TRUTHS:
        return TRUTHS[text.lower()]
    elif kind is NoneType and text.lower() in ("null", "none"):
        return None
    elif plain(kind) is dict and isinstance(value := json_or_text(text, label), dict):
        return value
    elif kind is str:
        return text
    raise ValueError(text)


def _items(text: str) -> list[str]:
    """`a,b`, `[a,b]` and `["a", "b"]` are one list. An item that holds a comma needs the last form."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return [item if isinstance(item, str) else json.dumps(item) for item in json.loads(text)]
        except (ValueError, RecursionError):
            text = text[1:-1]
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise ValueError(text)
    return items


TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

WORDS: dict[type, str] = {
    NoneType: "null",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a JSON object",
    list: "a list",
    str: "text",
}
"""Each type in words, from the narrowest to the widest."""
