"""Secrets among settings: known by their names, wrapped as soon as they are read, taken out where they are sent.

Commands, recipes and builds are recorded, with `***` where a secret stood: a key is said anew with each command, or
is in the environment. What endpoints echo is redact.py's matter.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from rolloutops.config.redact import keep_out, keep_out_variable
from rolloutops.errors import UsageError

HIDDEN = "***"
"""What is shown and recorded in a secret's place."""
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9]{0,19}([-_][A-Za-z0-9]{1,19}){0,5}")
"""The name of a header. A key in its place has a longer piece, a colon or a space."""
NAME = re.compile(r"[A-Za-z_]\w*")
"""The name of a variable. A key in its place hardly ever is one: most hold a hyphen."""
ALWAYS = re.compile(
    "password|passwd|passphrase|pwd|secret|secrets|apikey|accesskey|secretkey|authkey|privatekey|accesstoken|"
    "authtoken|authorization|auth|credential|credentials|cookie|cookies|bearer|jwt|sas|sig|hmac"
)
"""Words that make any value a secret, wherever they are in its name."""
KEYS = re.compile("api|access|secret|private|account|subscription|auth|shared|master|client|signing|encryption")
"""Words before `key` that make it a secret."""
NOT_TOKENS = re.compile(
    "eos|bos|pad|stop|unk|mask|sep|cls|start|end|begin|special|image|think|new|max|min|first|last|next"
)
"""Words before `token` that make it one of a model's."""
NOT_KEYS = re.compile("cache|answer|sort|primary|group|partition|field|row|prompt|label|output|input|reward")
"""Words before `key` that make it the name of something."""
HARMLESS_HEADERS = re.compile(
    "accept|content-type|user-agent|referer|http-referer|x-title|openai-beta|anthropic-version|anthropic-beta"
)
HARMLESS_QUERY = re.compile("api-version|api_version|version|v|beta|alt|model|deployment|region|location|project")
"""Names in an address's query whose values are shown; what it says otherwise may be a key."""
SCHEME = r"[A-Za-z][\w+.-]*://"
ADDRESS = re.compile(rf"{SCHEME}(?:[^/?#\s\"]*@)?(?:[^\s\",]|,(?!\s|{SCHEME}))*")
SEVERAL = re.compile(rf"\s*,\s*(?={SCHEME})")
MASKED = re.compile(r"://\*\*\*@|://\S*[?&;=#/]\*\*\*")
"""An address as it was recorded, with something hidden."""
KEY = re.compile(
    r"(?:sk|pk|rk|gsk|xai|hf|pplx|nvapi|ghp|gho|glpat|r8|fw|csk|tgp|AIza|AKIA|ya29)[-_.]?(?=[\w.-]*\d)[\w.-]{16,}"
    r"|(?i:bearer|basic) [\w.~+/=-]{8,}"
)
"""A text that is a key whatever its name says."""


class Secret:
    """A value that is sent and never shown: as text it is `***`, or the rest of an address. `reveal` takes it out."""

    __slots__ = ("_value", "shown")

    def __init__(self, value: Any, label: str = HIDDEN) -> None:
        self._value, self.shown = value, label
        for part in _parts(value) if label != HIDDEN else [str(value)]:
            keep_out(part)

    def reveal(self) -> Any:
        """The value, for whoever sends it."""
        return self._value

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return repr(self.shown)

    def __format__(self, spec: str) -> str:
        return format(self.shown, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[Any, str]]:  # also in another process it is kept out
        return Secret, (self._value, self.shown)


def wrapped(value: Any, name: str = "", inside: bool = False) -> Any:
    """Settings, at any depth, with each secret in its own type. name: the setting's. inside: all below it is secret."""
    if isinstance(value, Mapping):
        whole = inside or _verdict(name) is True
        if _words(name)[-1:] == ["headers"]:
            return {
                key: wrapped(inner, key, not HARMLESS_HEADERS.fullmatch(key.lower())) for key, inner in value.items()
            }
        return {key: wrapped(inner, key, whole) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [wrapped(inner, name, inside) for inner in value]
    if isinstance(value, Secret | bool | None) or value in ("", HIDDEN):
        return value
    if not isinstance(value, str):
        return Secret(value) if inside or (_verdict(name) is True and "token" not in _words(name)) else value
    if name.endswith("_env"):
        return _variable(value)
    if name == "api_key_header" and not HEADER.fullmatch(value):
        return Secret(value)
    if inside or _is_secret(name, value) or KEY.fullmatch(value):
        return Secret(value)
    shown = without_keys_in_addresses(value)
    return value if shown == value else Secret(value, shown)


def keep_out_settings(**settings: Any) -> None:
    """Know the secrets among settings as keys in use, where they come from code and not from a recipe."""
    wrapped(settings)


def secret_places(value: Any) -> list[str]:
    """Where the secrets among settings stand, as `engine_args.headers.x`."""
    return [path for path, inner in _leaves(value) if isinstance(inner, Secret)]


def public(value: Any, name: str = "") -> Any:
    """Settings, at any depth, as they may be shown and recorded."""
    return _mapped(wrapped(value, name), str)


def revealed(value: Any, name: str) -> Any:
    """Settings, at any depth, as they are sent. name: what takes them.

    Raises UsageError for one that was hidden when it was recorded.
    """
    for path, inner in _leaves(value):
        if isinstance(inner, str) and (inner == HIDDEN or MASKED.search(inner)):
            raise UsageError(
                f"{name}: {path} is not known here, because keys are not recorded: name the recipe that holds it, or "
                "give its flag again"
            )
    return _mapped(value, lambda secret: secret.reveal())


def without_secrets(value: Any, name: str = "") -> Any:
    """Settings, at any depth, without what is secret: what a fingerprint is made of."""
    if isinstance(value, Mapping):
        kept = {key: wrapped(inner, key) for key, inner in value.items()}
        if _words(name)[-1:] == ["headers"]:
            kept = wrapped(value, name)
        bare = {key: without_secrets(inner, key) for key, inner in kept.items() if str(inner) != HIDDEN}
        return {key: inner for key, inner in bare.items() if inner != {} or not kept[key]}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, name) for inner in value]
    return public(value, name)


def redacted_argv(words: Sequence[str]) -> list[str]:
    """A command line, word by word, without what may be a key. A flag's value may be a word of its own."""
    shown: list[str] = []
    before = ""
    for word in words:
        waits = before.startswith(("-", "+")) and "=" not in before and not word.startswith("--")
        flag, equals, text = (before, "", word) if waits else word.partition("=")
        if not waits and not equals:
            shown.append(without_keys_in_addresses(word) if not KEY.fullmatch(word) else HIDDEN)
        else:
            shown.append(f"{'' if waits else f'{without_keys_in_addresses(flag)}='}{_redact_text(flag, text)}")
        before = word
    return shown


def without_keys_in_addresses(text: str) -> str:
    """A text whose addresses have lost user name, password, fragment, and what their queries say under most names."""
    if re.match(SCHEME, text):  # addresses and nothing else, whatever characters are in them
        return ",".join(map(_redact_address, SEVERAL.split(text)))
    return ADDRESS.sub(lambda found: _redact_address(found[0]), text) if "://" in text else text


def _redact_text(flag: str, text: str) -> str:
    """The text of a flag, `--engine_args.headers.x`, as it may be recorded."""
    path = [part.replace("-", "_") for part in flag.lstrip("-+").split(".")]
    if path[0] in ("filter", "reward", "mix", "pair", "build", "metrics", "query", "responses_create_params"):
        return without_keys_in_addresses(text)  # parameters of steps and of models
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if not isinstance(value, dict | list):
        value = text
    nested = value
    for part in reversed(path):
        nested = {part: nested}
    clean = public(nested)
    for part in path:
        clean = clean[part]
    return clean if isinstance(clean, str) else text if clean == value else json.dumps(clean)


def _words(name: str) -> list[str]:
    """A name's words: `xApi-Key` is x, api, key."""
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def _verdict(name: str) -> bool | None:
    """Whether a name makes any text a secret; None where that hangs on the text."""
    words = _words(name)
    if not words or words[-1] in ("env", "required", "header"):
        return False
    if any(map(ALWAYS.fullmatch, words)):
        return True
    before = words[-2] if len(words) > 1 else ""
    if words[-1] == "token":
        return not NOT_TOKENS.fullmatch(before)
    if words[-1] in ("key", "keys", "signature"):
        if KEYS.fullmatch(before) or "signature" in words[1:]:
            return True
        return False if NOT_KEYS.fullmatch(before) else None
    return False


def _is_secret(name: str, text: str) -> bool:
    """Whether a setting is a secret. `key = "answer"` is not: a key is hardly ever a lower-case word."""
    found = _verdict(name)
    return found if found is not None else not re.fullmatch(r"[a-z]+(?:[ _.-][a-z]+)*", text)


def _variable(text: str) -> Any:
    """The name of a variable that holds a key, which is kept out from now on; or the key itself, in its place."""
    if text in os.environ or (
        NAME.fullmatch(text) and not (len(text) >= 16 and re.search(r"\d", text) and _mixed(text))
    ):
        keep_out_variable(text)
        return text
    return Secret(text)


def _mixed(text: str) -> bool:
    return any(c.islower() for c in text)


def _redact_address(text: str) -> str:
    head, hashed, _ = text.partition("#")
    head, requested, query = head.partition("?")
    scheme, _, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    _, at, host_alone = host.rpartition("@")
    host = f"{HIDDEN}@{host_alone}" if at else host
    path = "/".join(HIDDEN if KEY.fullmatch(unquote(part)) else part for part in path.split("/"))
    fields = re.split("([&;])", query)
    shown = "".join(field if field in ("&", ";") else _redact_field(field) for field in fields)
    return f"{scheme}://{host}{slash}{path}{requested}{shown}{hashed}{HIDDEN if hashed else ''}"


def _redact_field(field: str) -> str:
    name, equals, value = field.partition("=")
    if not equals:
        return HIDDEN if field else ""
    return field if HARMLESS_QUERY.fullmatch(name.lower()) or not value else f"{name}={HIDDEN}"


def _parts(address: str) -> Iterator[str]:
    """What is secret in addresses: the parts that their shown form hides."""
    for one in SEVERAL.split(address):
        head, _, fragment = one.partition("#")
        head, _, query = head.partition("?")
        rest = head.partition("://")[2]
        host, _, path = rest.partition("/")
        user = host.rpartition("@")[0]
        yield from (user, user.partition(":")[2], fragment)
        yield from (part for part in path.split("/") if KEY.fullmatch(unquote(part)))
        for field in re.split("[&;]", query):
            name, _, value = field.partition("=")
            if not HARMLESS_QUERY.fullmatch(name.lower()):
                yield value


def _mapped(value: Any, take: Callable[[Secret], Any]) -> Any:
    """The value with each secret in it replaced."""
    if isinstance(value, Secret):
        return take(value)
    if isinstance(value, Mapping):
        return {key: _mapped(inner, take) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, take) for inner in value]
    return value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value
