"""One command line, word by word: `sort_words` finds the flags, `bind` gives their text its type.

A flag is written `--name=value`, `--name value` or, where it is true or false, `--name` and `--no-name`; as users of
NeMo Gym do, also `name=value`, `+name=value` and `++name=value`. Hyphens and underscores in its name are the same.
`--table.key=value` sets a key of an open table. What follows `--` is positional.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from rolloutops.cli.flags import TRUTHS, Command, Flag, Parsed, expected, json_or_text, quoted, read, takes
from rolloutops.errors import UsageError, did_you_mean, near_names

ASSIGNMENT = re.compile(r"(\+{0,2})([A-Za-z_][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
NEGATIVE_NUMBER = re.compile(r"-\.?[0-9].*", re.DOTALL)


def sort_words(command: Command, words: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """A command line -> its tokens (`=positional`, `+table.key=text`) and the text of each flag, by its one name.

    Raises UsageError for a flag that the command does not have, that has no value, or that is given twice with
    different values. Several values of a list become one JSON array.
    """
    tokens: list[str] = []
    given: dict[str, list[str]] = {}
    waiting = deque(words)
    while waiting:
        word = waiting.popleft()
        if word == "--":
            tokens += [f"={positional}" for positional in waiting]
            break
        if word.startswith("--"):
            typed, equals, text = word[2:].partition("=")
            target, text = _resolve_flag(command, typed, text if equals else None, waiting)
        elif (assigned := ASSIGNMENT.fullmatch(word)) and _is_assignment(command, *assigned.groups()):
            target, text = _resolve(command, assigned[2]) or _unknown(command, assigned[2]), assigned[3]
        elif _is_dashed(word):
            _unknown(command, word.lstrip("-–—").partition("=")[0], word.partition("=")[0])
        else:
            tokens.append(f"={word}")
            continue
        if isinstance(target, Flag):
            given.setdefault(target.name, []).append(text)
        else:
            tokens.append(f"+{target}={text}")
    declared = {flag.name: flag for flag in command.flags}
    return tokens, {name: _one_text(declared[name], texts) for name, texts in given.items()}


def bind(command: Command, tokens: Sequence[str], flags: Mapping[str, str], argv: list[str]) -> Parsed:
    """The words of `sort_words` -> values of the declared types. Raises UsageError where one does not fit."""
    values = {flag.name: read(flag, flags[flag.name], f"--{flag.name}") for flag in command.flags if flag.name in flags}
    overrides: dict[str, Any] = {}
    for path, _, text in (token[1:].partition("=") for token in tokens if token[0] == "+"):
        value: Any = json_or_text(text, f"--{path}")
        if path in command.open_tables and not isinstance(value, dict):
            raise UsageError(f"--{path} expects a JSON object, got {quoted(text)}")
        for key in reversed(path.split(".")):
            if not key:
                raise UsageError(f"--{path} has an empty key")
            value = {key: value}
        _merge(overrides, value)
    texts = [token[1:] for token in tokens if token[0] == "="]
    return Parsed(command.name, _positionals(command, texts), values, overrides, argv)


def _resolve(command: Command, typed: str) -> Flag | str | None:
    """The flag, or the dotted path below an open table, that a name stands for. Keys stay as they were typed."""
    head, dot, key = typed.partition(".")
    typed = command.aliases.get(head.replace("-", "_"), head) + dot + key
    name = typed.replace("-", "_")
    for flag in command.flags:
        if flag.name == name:
            return flag
    for table in command.open_tables:
        if name == table or name.startswith(f"{table}."):
            return table + typed[len(table) :]
    return None


def _resolve_flag(command: Command, typed: str, text: str | None, waiting: deque[str]) -> tuple[Flag | str, str]:
    """What `--typed` sets, and to what: the text after `=`, `true` or `false`, or the next word."""
    target = _resolve(command, typed)
    if target is None:
        positive = _resolve(command, typed[3:]) if typed.startswith(("no-", "no_")) else None
        if not isinstance(positive, Flag):
            _unknown(command, typed)
        if not takes(positive, bool):
            raise UsageError(f"--{typed} is not a flag: --{positive.name} expects {expected(positive)}")
        if text is not None:
            raise UsageError(f"--{typed} takes no value; write --{typed} or --{positive.name}={text}")
        return positive, "false"
    if text is not None:
        return target, text
    if isinstance(target, Flag) and takes(target, bool):
        if waiting and waiting[0].lower() in TRUTHS and waiting[0].isalpha():
            raise UsageError(f"write --{typed}={waiting[0]}: a true or false flag has its value after '='")
        return target, "true"
    if not waiting or _is_dashed(waiting[0]):
        dash = bool(waiting) and not waiting[0].startswith("--")
        raise UsageError(f"--{typed} needs a value" + (f", did you mean --{typed}={waiting[0]}?" if dash else ""))
    return target, waiting.popleft()


def _is_assignment(command: Command, plus: str, key: str, text: str) -> bool:
    """Is `key=text` an assignment? Without a plus only where the key is a flag, or nearly: `run=a/x` is a path."""
    return bool(plus) or _resolve(command, key) is not None or ("/" not in text and bool(_did_you_mean(command, key)))


def _is_dashed(word: str) -> bool:
    """Does the word look like a flag? `-` and negative numbers do not; a dash that an editor has made long does."""
    return word.startswith(("-", "–", "—")) and len(word) > 1 and not NEGATIVE_NUMBER.fullmatch(word)


def _did_you_mean(command: Command, typed: str) -> str:
    """`, did you mean '--rows'?` for a mistyped or shortened name, else an empty string."""
    name, keys = typed.replace("-", "_"), typed.split(".")
    known = [*(flag.name for flag in command.flags), *command.aliases]
    below = {key: f"{table}.{key}" for table, names in command.known_keys.items() for key in names}
    if len(keys) > 1:
        tables = {table: keys[table.count(".") + 1 :] or keys[-1:] for table in command.open_tables}
        return did_you_mean(f"--{typed}", [f"--{table}.{'.'.join(rest)}" for table, rest in tables.items()])
    if found := near_names(name.lower(), [*known, *below]):
        return f", did you mean '--{found[0] if found[0] in known else below[found[0]]}'?"
    longer = [f"'--{word}'" for word in known if name and word.startswith(name)]
    return f", did you mean {' or '.join(longer)}?" if 0 < len(longer) < 4 else ""


def _unknown(command: Command, typed: str, label: str = "") -> NoReturn:
    """Say that there is no such flag, and what was probably meant."""
    hint = _did_you_mean(command, typed)
    if not hint and typed in [flag.name for flag in command.positionals]:
        hint = f"; {typed.upper()} is given without a name"
    elif not hint and not label and command.open_tables:
        table = command.name if command.name in command.open_tables else command.open_tables[0]
        written = command.key.replace("KEY", typed.rpartition(".")[2])
        hint = f"; to set a key of a table, write --{table}.{written}"
    dashes = ": a flag begins with two hyphens" if label else ""
    raise UsageError(f"no flag {label or '--' + typed}{dashes}{hint or '; --help lists the flags'}")


def _one_text(flag: Flag, texts: list[str]) -> str:
    """The text of a flag that was given once or more: a list grows, anything else must be the same each time."""
    values = [read(flag, text, f"--{flag.name}") for text in texts]
    if len(texts) > 1 and all(isinstance(value, list) for value in values):
        return json.dumps([item for value in values for item in value])
    if len({repr(value) for value in values}) > 1:
        raise UsageError(f"--{flag.name} is given twice, as {' and as '.join(map(quoted, dict.fromkeys(texts)))}")
    return texts[-1]


def _merge(into: dict[str, Any], new: dict[str, Any], path: str = "--") -> None:
    """Merge nested overrides; a key that is set twice must be set to the same value."""
    for key, value in new.items():
        if key not in into:
            into[key] = value
        elif isinstance(into[key], dict) and isinstance(value, dict):
            _merge(into[key], value, f"{path}{key}.")
        elif json.dumps(into[key]) != json.dumps(value):
            both = f"{quoted(json.dumps(into[key]))} and as {quoted(json.dumps(value))}"
            raise UsageError(f"{path}{key} is given twice, as {both}")


def _positionals(command: Command, texts: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for flag in command.positionals:
        shown = flag.name.upper()
        if not texts and flag.required:
            raise UsageError(f"{shown} is missing: {flag.help}")
        if texts and takes(flag, list):
            values[flag.name], texts = list(texts), []
        elif texts:
            values[flag.name] = read(flag, texts.pop(0), shown)
    if texts:
        room = f"after {command.positionals[-1].name.upper()}" if command.positionals else "this command takes none"
        many = "one argument" if len(texts) == 1 else f"{len(texts)} arguments"
        raise UsageError(f"{many} too many ({room}): {' '.join(map(quoted, texts[:3]))}")
    return values
