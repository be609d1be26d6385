"""One validator for every table that a user writes: keys as data, checked by pydantic, with mistakes as sentences.

The same keys become a JSON Schema (`rolloutops schema`), the flags of commands and the tables of the reference.
pydantic is imported when the first table is checked: help, and commands that read no recipe, do not wait for it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rolloutops.errors import UsageError, did_you_mean

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter

LARGEST = 2**31 - 1
"""What whole numbers of a settings table may be at most, where their key does not say: they become 32-bit columns."""


@dataclass(frozen=True)
class Key:
    """One key of a table: what its value must be, and what it means.

    type: as annotated; a Path is written as text. least, above, most, below: bounds of numbers; of a text, least is its
    shortest length. one_of: the texts that it may be. one_text: one text and a list of one text mean the same. finite:
    without infinities, and in open tables only what JSON can hold. words: what the value must be, where its type does
    not say it well; items: the same of the values of a table.
    """

    type: Any
    default: Any = field(default=None, compare=False)
    about: str = field(default="", compare=False)
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    one_of: tuple[str, ...] = ()
    one_text: bool = False
    required: bool = False
    finite: bool = True
    words: str = field(default="", compare=False)
    items: str = field(default="", compare=False)

    @property
    def members(self) -> tuple[Any, ...]:
        """The types of a union, or the one type."""
        origin = typing.get_origin(self.type)
        return typing.get_args(self.type) if origin in (types.UnionType, typing.Union) else (self.type,)


Keys = Mapping[str, Key]
"""A table: the name of each key, in the order in which they are shown."""


def key(default: Any, about: str, *, one_of: str = "", **more: Any) -> Any:
    """A dataclass field that is a key of a table. one_of: the texts that it may be, as words. more: as in Key."""
    metadata = {"about": about, "one_of": tuple(one_of.split()), **more}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@lru_cache
def keys_of(kind: type) -> Keys:
    """The keys of a table that is written as a dataclass. A field without a default must be given."""
    hints = typing.get_type_hints(kind)
    found = {}
    for one in dataclasses.fields(kind):
        default = one.default_factory() if callable(one.default_factory) else one.default
        required = default is dataclasses.MISSING
        made = Key(hints[one.name], None if required else default, required=required, **one.metadata)
        whole = int in made.members and made.most is None
        found[one.name] = dataclasses.replace(made, most=LARGEST) if whole else made
    return found


def check_table(
    keys: Keys,
    values: Mapping[str, Any],
    where: str,
    *,
    any_name: bool = False,
    unknown: Callable[[str, str], str] | None = None,
    missing: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Check a table; return its values with their types. The first mistake is a UsageError.

    An int is taken where a float is wanted. where: what stands before a key in a sentence, as `r.toml [collect]: `.
    any_name: other keys pass unchecked. unknown: the sentence for a key that there is not, from its name and `, did you
    mean 'x'?` or nothing. missing: the sentence for a required key that is not there.
    """
    needed = tuple((name, one) for name, one in keys.items() if name in values or one.required)
    if not values and not needed:
        return {}
    from pydantic import ValidationError

    try:
        made = _adapter(needed, any_name).validate_python(dict(values))
    except ValidationError as error:
        faults: dict[Any, list[Any]] = {}
        for fault in error.errors(include_url=False):
            faults.setdefault(fault["loc"][0], []).append(fault)
    else:
        return {name: made[name] for name in values}
    for name in values:
        if name not in faults:
            continue
        if name in keys:
            raise UsageError(f"{where}{_must_be(name, keys[name], values[name], faults[name])}")
        hint = did_you_mean(name, keys)
        raise UsageError(unknown(name, hint) if unknown else f"{where}no key {name!r}{hint}")
    name = next(iter(faults))
    about = keys[name].about or words(keys[name])
    raise UsageError(missing(name) if missing else f"{where}{name} is missing: {about}")


def words(key: Key) -> str:
    """What a value must be: `a whole number or 'auto'`."""
    if key.words:
        return key.words
    kinds = [kind for kind in key.members if kind is not types.NoneType]
    return " or ".join(
        " or ".join(map(repr, key.one_of)) if kind is str and key.one_of else _one(kind) for kind in kinds
    )


def json_schema(keys: Keys, any_name: bool = False) -> dict[str, Any]:
    """The JSON Schema of a table. It allows no null, which TOML does not have."""
    from pydantic import Field
    from pydantic.json_schema import GenerateJsonSchema

    class Schema(GenerateJsonSchema):
        def nullable_schema(self, schema: Any) -> Any:
            return self.generate_inner(schema["schema"])

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    fields = {}
    for name, one in keys.items():
        extra = {} if one.default in (None, "", {}, []) else {"default": one.default}
        about = Field(description=one.about or None, json_schema_extra=extra)
        fields[name] = typing.Annotated[_annotated(one), about]
    made = _adapter_of(fields, keys, any_name).json_schema(schema_generator=Schema)
    made.pop("title", None)
    return made


@lru_cache(maxsize=512)
def _adapter(keys: tuple[tuple[str, Key], ...], any_name: bool) -> TypeAdapter[Any]:
    return _adapter_of({name: _annotated(one) for name, one in keys}, dict(keys), any_name)


def _adapter_of(fields: Mapping[str, Any], keys: Keys, any_name: bool) -> TypeAdapter[Any]:
    """The model of a table. A TypedDict takes any name for a key, and holds only the keys that were given."""
    from pydantic import TypeAdapter
    from typing_extensions import TypedDict  # typing's own holds no model before Python 3.12

    hints = {name: hint if keys[name].required else typing.NotRequired[hint] for name, hint in fields.items()}
    table = TypedDict("Table", hints)  # type: ignore[misc]
    table.__pydantic_config__ = {"strict": True, "extra": "allow" if any_name else "forbid"}  # type: ignore[attr-defined]
    return TypeAdapter(table)


def _annotated(key: Key) -> Any:
    """A key's type with its bounds, as pydantic reads it."""
    from pydantic import AfterValidator, BeforeValidator

    members = tuple(_bounded(kind, key) for kind in key.members)
    made: Any = typing.Union[members] if len(members) > 1 else members[0]  # noqa: UP007
    if key.one_text and str in key.members:
        return typing.Annotated[made, AfterValidator(_the_only_text)]
    if key.one_text:
        return typing.Annotated[made, BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
    return made


def _bounded(kind: Any, key: Key) -> Any:
    from pydantic import AfterValidator, Field

    bounds: dict[str, Any] = {"ge": key.least, "gt": key.above, "le": key.most, "lt": key.below}
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    if kind is int:
        return typing.Annotated[int, Field(**bounds)]
    if kind is float:
        return typing.Annotated[float, Field(allow_inf_nan=not key.finite, **bounds)]
    if kind is str and key.one_of:
        return typing.Literal[key.one_of]
    if kind in (str, Path):
        return typing.Annotated[str, Field(min_length=int(key.least))] if key.least is not None else str
    if kind is dict or typing.get_origin(kind) is dict:
        return typing.Annotated[kind, AfterValidator(_refuse_what_json_lacks)] if key.finite else kind
    return kind


def _the_only_text(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _refuse_what_json_lacks(value: Any) -> Any:
    """Settings are stored as JSON, open tables are sent so too: no dates, no infinity."""
    for path, one in _leaves(value, ""):
        if not isinstance(one, str | int | float | None) or (isinstance(one, float) and not math.isfinite(one)):
            raise ValueError(path, one)
    return value


def _leaves(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value


def _must_be(name: str, key: Key, value: Any, faults: Sequence[Mapping[str, Any]]) -> str:
    """Say what is wrong with a value."""
    kinds = {fault["type"]: fault for fault in faults}
    if "value_error" in kinds:
        path, found = kinds["value_error"]["ctx"]["error"].args
        return f"{name}{path} must be a JSON value (no dates, NaN or infinity), not {found}"
    bounded = key.least is not None or key.above is not None
    if "finite_number" in kinds and not (bounded and math.isnan(value)):
        return f"{name} must be a JSON value (no dates, NaN or infinity), not {value}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown = value if int in key.members else float(value)
        if {"greater_than_equal", "greater_than", "less_than_equal", "less_than", "finite_number"} & set(kinds):
            return f"{name} must be {_bounds(key, value)}, not {shown}"
    inside = [fault["loc"][1] for fault in faults if len(fault["loc"]) > 1]
    if inside and isinstance(value, Mapping) and inside[0] in value:
        kind = next(kind for kind in key.members if typing.get_origin(kind) is dict)
        items = key.items or _several(typing.get_args(kind)[1])
        table = f"[{name}]" if key.items else name
        return f"{table} may hold only {items}; found {inside[0]} = {value[inside[0]]!r:.80}"
    hint = did_you_mean(value, key.one_of) if isinstance(value, str) else ""
    return f"{name} must be {words(key)}, not {value!r:.80}{hint}"


def _bounds(key: Key, value: float) -> str:
    """The bound that a number breaks; both where a share is wanted."""
    if key.least is not None and key.below is not None:
        return f"from {key.least} to below {key.below}"
    if key.above is not None and not value > key.above:
        return f"more than {key.above}"
    if key.least is not None and not value >= key.least:
        return f"{key.least} or more"
    return f"{key.most} at most"


WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false values"),
    str: ("text", "texts"),
    Path: ("text", "texts"),
    dict: ("a table", "tables"),
    list: ("a list", "lists"),
}
"""A type in words: one value, and several."""


def _one(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is list and inner[0] is not Any:
        return f"a list of {_several(inner[0])}"
    if origin is dict and inner[1] is not Any:
        return f"a table of {_several(inner[1])}, {{ name = value, ... }}"
    return WORDS.get(origin or kind, ("a value", ""))[0]


def _several(kind: Any) -> str:
    return WORDS.get(typing.get_origin(kind) or kind, ("", "values"))[1]
