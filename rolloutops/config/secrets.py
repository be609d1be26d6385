"""What is not written down: keys, in the headers of an engine, in an address, or where a variable's name should be.

Commands, recipes and builds are recorded; a key is said anew with each command, or stands in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SOUNDS = "(?:auth|key|token|secret|sig)"
ADDRESS = re.compile(rf"(?<=://)[^/?#\s\"']*@|(?<=[?&])([\w.-]*{SOUNDS}[\w.-]*=)[^&#,\s\"']*", re.IGNORECASE)
"""In an address: a user's name with a password, and what its query says under a name that sounds like a key."""
HEADERS = re.compile(r"([.\"']headers\b[\w.-]*)[^\w.-].*", re.DOTALL)
"""In a word of a command line: headers, with all that follows."""
NAME = re.compile(r"[A-Za-z_]\w*")
"""The name of a variable. A key in its place hardly ever is one: most hold a hyphen."""
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9]{0,19}([-_][A-Za-z0-9]{1,19}){0,5}")
"""The name of a header. A key in its place has a longer piece, a colon or a space."""
HIDDEN = "[hidden]"


def public(value: Any, name: str = "") -> Any:
    """Settings, at any depth, without headers and without keys in addresses. name: the setting's, where it is one."""
    if isinstance(value, Mapping):
        return {key: public(inner, key) for key, inner in value.items() if key != "headers"}
    if isinstance(value, list | tuple):
        return [public(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if (name == "api_key_env" and not NAME.fullmatch(value)) or (
        name == "api_key_header" and not HEADER.fullmatch(value)
    ):
        return HIDDEN
    return ADDRESS.sub(lambda found: f"{found[1]}{HIDDEN}" if found[1] else "", value)


def told(words: Sequence[str]) -> list[str]:
    """A command line, word by word, without what may be a key. A flag's value may be a word of its own."""
    shown: list[str] = []
    before = ""
    for word in words:
        flag = f"{before}=" if before.startswith(("-", "+")) and "=" not in before else ""
        name, equals, value = f"{flag}{word}".partition("=")
        last = name.replace("-", "_").rpartition(".")[2].strip("_+")
        said = HEADERS.sub(rf"\1={HIDDEN}", f"{public(name)}{equals}{public(value, last) if value else ''}")
        shown.append(said.removeprefix(flag))
        before = word
    return shown
