"""Look up engines and environments: a built-in name, `package.module:attr`, `my_env.py:attr`, or an entry point.

What is found is a factory: a callable that takes settings by name and returns the engine or environment. That of a
shipped engine is its class. A class may have `from_settings`, which is called in place of its constructor.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from rolloutops.config import versions
from rolloutops.config.secrets import public, revealed
from rolloutops.config.validation import Key, check_table
from rolloutops.errors import MissingExtra, RolloutopsError, UsageError, did_you_mean

Kind = Literal["engine", "environment"]

BUILT_IN: dict[Kind, dict[str, str | None]] = {
    "engine": {"vllm": "vllm", "openai": None, "batch": None, "gym": None, "scripted": None},
    "environment": {
        **{"exact_match": None, "mcqa": None, "math": "math", "reasoning_gym": "tasks", "multi_step": None},
        **{"code": None, "llm_judge": None, "remote": None},
    },
}
"""kind -> name -> the extra that it needs. The factory is in `rolloutops/<kind>s/<name>.py`: `make`, or an engine's
class."""

ENGINES = {
    **{"vllm": "VllmEngine", "openai": "OpenAIEngine", "batch": "OpenAIBatches", "gym": "GymEngine"},
    **{"scripted": "ScriptedEngine"},
}
"""The class of each shipped engine, and of the client that answers in batches."""

WHERE = frozenset(("base_url", "agents", "api_key_env", "api_key_header", "api_key_required", "headers"))
"""Settings that say where and as whom a server is asked."""
UNDECLARED = WHERE.union(
    ("connect_timeout", "request_timeout", "timeout", "max_connections", "max_reply_bytes", "delay", "faults"),
    ("max_num_seqs", "tensor_parallel_size", "gpu_memory_utilization"),
    ("wait", "poll_seconds", "requests_per_batch", "bytes_per_batch", "settle_seconds"),
)
"""The operational arguments of an engine that does not declare its own in `operational`: those of these names."""


@dataclass(frozen=True)
class Plugin:
    """Where a factory is. target: `package.module:attr` or `/folder/my_env.py:attr`. extra: the extra that it needs.

    folder: the recipe's folder, importable like the working directory while a user's module is looked up.
    """

    kind: Kind
    name: str
    target: str
    extra: str | None = None
    folder: str = "."

    def load(self) -> Callable[..., Any]:
        """The factory, imported. Raises MissingExtra, or UsageError where the module or the name in it is wrong."""
        place, _, attr = self.target.rpartition(":")
        module = self._import()
        factory = module
        for part in attr.split("."):
            known = vars(factory)
            factory = getattr(factory, part, None)  # type: ignore[assignment]
            if factory is None:
                raise UsageError(
                    f"{self._called} names '{part}', which {place} does not have{did_you_mean(part, known)}"
                )
        if not callable(factory):
            raise UsageError(f"{self._called} must be a function or class that makes one, not {factory!r:.80}")
        return factory

    def takes(self) -> dict[str, inspect.Parameter]:
        """The settings that the factory takes by name."""
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {name: p for name, p in inspect.signature(self.load()).parameters.items() if p.kind in kinds}

    def takes_any_name(self) -> bool:
        """Whether the factory takes settings by names that it does not list."""
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.load()).parameters.values())

    def keys(self) -> dict[str, Key]:
        """The settings as keys: types from annotations, meanings from the docstring.

        Types that JSON has are checked, so that `strip = "no"` is not taken for true; all else is the factory's
        business.
        """
        factory, takes = self.load(), self.takes()
        meanings = setting_meanings(inspect.getdoc(factory) or "", list(takes))
        hints = _hints(factory)
        return {name: _key(one, hints.get(name), meanings[name]) for name, one in takes.items()}

    def operational(self) -> Collection[str]:
        """The settings of an engine that say where and how fast a model answers, not what: no part of a policy's
        fingerprint, nor of the version of a verifier that asks it. Raises UsageError where one of them is none."""
        declared = getattr(self.load(), "operational", None)
        if declared is None:
            return UNDECLARED
        if isinstance(declared, str) or not isinstance(declared, Collection):
            raise UsageError(f"{self._called}: operational must be a list of settings, not {declared!r:.80}")
        takes = self.takes()
        for name in declared:
            if name not in takes and not self.takes_any_name():
                raise UsageError(
                    f"{self._called} declares {name!r:.80} operational and has no such setting"
                    f"{did_you_mean(str(name), takes)} (it takes {', '.join(takes)})"
                )
        return declared

    def make(self, settings: Mapping[str, Any]) -> Any:
        """Call the factory with these settings, secrets as they are. Raises UsageError where it does not take them."""
        factory, keys = self.load(), self.keys()
        listed = f"it takes {', '.join(keys)}" if keys else "it takes no settings"
        sent = revealed(settings, self._called)
        check_table(
            *(keys, sent, f"{self._called}: setting "),
            any_name=self.takes_any_name(),
            unknown=lambda name, hint: f"{self._called} has no setting '{name}'{hint} ({listed})",
            missing=lambda name: f"{self._called} needs the setting '{name}' ({listed})",
        )
        try:
            return getattr(factory, "from_settings", factory)(**sent)
        except RolloutopsError:
            raise
        except ImportError as error:
            raise self._cannot_import(error) from error
        except Exception as error:
            raise UsageError(f"{self._called} cannot be created: {type(error).__name__}: {error}") from error

    def version(self, settings: Mapping[str, Any]) -> str:
        """Name the version of the verifier that the factory makes with these settings (`versions.py`).

        Where and as whom a server is asked, and how fast, is not part of it: a new key or a moved server makes nothing
        unverified. A secret counts as `***`.
        """
        counts = versions.settings_that_count(public(settings), WHERE, UNDECLARED, operational_of)
        return versions.version(*self._source(), self._attr, counts)

    def equal_versions(self, settings: Mapping[str, Any]) -> list[str]:
        """The names that earlier commits gave to the present version: verdicts that bear them are not made again."""
        return versions.equal_versions(*self._source(), self._attr, settings)

    @property
    def _attr(self) -> str:
        return self.target.rpartition(":")[2]

    @property
    def _called(self) -> str:
        return f"{self.kind} '{self.name}'"

    def file(self) -> Path:
        """The file that the factory is in."""
        return self._source()[0]

    def _source(self) -> tuple[Path, str]:
        """The module's file and its name."""
        place = self.target.rpartition(":")[0]
        if place.endswith(".py"):
            if not Path(place).is_file():
                raise UsageError(f"{self._called}: there is no file {place}")
            return Path(place), ""
        _make_importable(self.folder)
        try:
            spec = importlib.util.find_spec(place)
        except (ImportError, ValueError) as error:
            raise self._cannot_import(error) from error
        if spec is None or spec.origin is None or not Path(spec.origin).is_file():
            raise UsageError(
                f"{self._called}: no module '{place}' in the working directory, {self.folder} or installed"
            )
        return Path(spec.origin), place

    def _import(self) -> ModuleType:
        path, name = self._source()
        try:
            if name:
                return importlib.import_module(name)
            return _import_file(path)
        except ImportError as error:
            raise self._cannot_import(error) from error
        except RolloutopsError:
            raise
        except Exception as error:
            where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise UsageError(f"{self._called}: {path}{where} fails: {type(error).__name__}: {error}") from error

    def _cannot_import(self, error: Exception) -> RolloutopsError:
        missing = getattr(error, "name", None) or ""
        if self.extra and not missing.startswith("rolloutops"):
            note = " (without a GPU, use the extra 'cpu' instead of 'vllm')" if self.extra == "vllm" else ""
            return MissingExtra(self._called + note, self.extra)
        return UsageError(f"{self._called} cannot be imported: {error}")


def operational_of(engine: Any, folder: Path | str | None = None) -> Collection[str]:
    """The operational settings of an engine by its name; where there is none to load, those of one that declares none:
    whoever asks it is told so. Raises UsageError where they are declared wrongly."""
    try:
        plugin = find("engine", engine, folder) if isinstance(engine, str) and engine else None
        if plugin is None:
            return UNDECLARED
        plugin.load()
    except RolloutopsError:
        return UNDECLARED
    return plugin.operational()


def _hints(factory: Any) -> dict[str, Any]:
    """The annotations of a factory; none where one of them cannot be read."""
    try:
        return typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except Exception:  # whatever a user's annotation raises
        return {}


def _key(parameter: inspect.Parameter, hint: Any, about: str) -> Key:
    required = parameter.default is parameter.empty
    default = None if required else parameter.default
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    members = typing.get_args(hint) if union else (hint,)
    texts = [text for one in members if typing.get_origin(one) is Literal for text in typing.get_args(one)]
    return Key(_json_type(hint), default, about, one_of=tuple(texts), required=required, finite=False)


def _json_type(hint: Any) -> Any:
    """The type as JSON has it: a Sequence is a list, a Mapping a table. Any, where JSON has no such type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (bool, int, float, str, types.NoneType, None):
        return hint or Any
    if origin is Literal and all(isinstance(text, str) for text in inner):
        return str
    if origin in (list, Sequence) and inner:
        return list[_json_type(inner[0])]  # type: ignore[misc]
    if origin in (dict, Mapping) and inner and inner[0] is str:
        return dict[str, _json_type(inner[1])]  # type: ignore[misc]
    if origin in (types.UnionType, typing.Union):
        made = tuple(map(_json_type, inner))
        return Any if Any in made else typing.Union[made]  # noqa: UP007
    return Any


def setting_meanings(docstring: str, names: Sequence[str]) -> dict[str, str]:
    """name -> what a factory's docstring says of it: `name: text`, or `one, other: text`; "" where it says nothing."""
    text = " ".join(docstring.split())
    either = "|".join(map(re.escape, names)) or "$^"
    heads = list(re.finditer(rf"(?<![^\s.])((?:{either})(?:, (?:{either}))*): ", text))
    found = dict.fromkeys(names, "")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=False):
        said = text[head.end() : end].strip().rstrip(".")
        found.update(dict.fromkeys(head[1].split(", "), said))
    return found


def find(kind: Kind, name: str, folder: Path | str | None = None) -> Plugin:
    """Look a name up. folder: the recipe's, in which `my_env.py:make` and a user's own modules are looked for.

    Nothing is imported. Raises UsageError for a name that is none, with the near name and the list.
    """
    folder = str(Path(folder or ".").absolute())
    place, colon, attr = name.rpartition(":")
    if name.endswith(".py") or (colon and place.endswith(".py")):
        place, attr = (name, "make") if name.endswith(".py") else (place, attr)
        paths = [Path(folder, place), Path(place).absolute()]
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            raise UsageError(f"{kind} '{name}': there is no file {' or '.join(dict.fromkeys(map(str, paths)))}")
        return Plugin(kind, name, f"{path.resolve()}:{attr}", None, folder)
    if name in BUILT_IN[kind]:
        factory = ENGINES[name] if kind == "engine" else "make"
        return Plugin(kind, name, f"rolloutops.{kind}s.{name}:{factory}", BUILT_IN[kind][name], folder)
    if colon and all(part.isidentifier() for part in f"{place}.{attr}".split(".")):
        return Plugin(kind, name, name, None, folder)
    for entry in metadata.entry_points(group=f"rolloutops.{kind}s", name=name):
        return Plugin(kind, name, entry.value.partition("[")[0].replace(" ", ""), None, folder)
    known = names(kind)
    raise UsageError(
        f"there is no {kind} '{name}'{did_you_mean(name, known, most=3) or '.'} There are {', '.join(known)}; "
        "write a custom one as package.module:attr or my_file.py:attr"
    )


def names(kind: Kind) -> list[str]:
    """The built-in names and those of installed entry points."""
    return list(dict.fromkeys([*BUILT_IN[kind], *(e.name for e in metadata.entry_points(group=f"rolloutops.{kind}s"))]))


def _make_importable(*folders: str) -> None:
    """Last in the path: a user's file never hides an installed module."""
    for folder in ("", *folders):
        folder = str(Path(folder).absolute())
        if folder not in sys.path:
            sys.path.append(folder)


def _import_file(path: Path) -> ModuleType:
    """A module from a file, under a name of its own, so that two recipes may both have a `my_env.py`."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _make_importable(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
