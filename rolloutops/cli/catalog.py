"""What there is to use, by kind, and the page that explains one of it. Nothing here prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rolloutops import layout
from rolloutops.cli.help import as_typed
from rolloutops.config.build_options import BuildOptions
from rolloutops.config.plugins import BUILT_IN, Kind, Plugin, find, names
from rolloutops.config.recipe import STEP_KINDS
from rolloutops.config.recipe_file import SCHEMA_LINE
from rolloutops.config.resources import shipped
from rolloutops.config.validation import keys_of, words
from rolloutops.errors import UsageError, did_you_mean


class Entry(NamedTuple):
    """One thing to use: its name, and what it does."""

    name: str
    about: str


def kinds() -> dict[str, Callable[[], list[Entry]]]:
    """The kinds of things, as `list` names them, each with a function that finds what there is of it."""
    plural = {"metrics": "metrics", "mix": "mixes"}
    return {
        "recipes": partial(_recipes, "*.toml"),
        "presets": partial(_recipes, "*/*.toml"),
        "steps": partial(_steps, ""),
        **{plural.get(kind, f"{kind}s"): partial(_steps, f"{kind}/") for kind in ("metrics", *STEP_KINDS)},
        "targets": _targets,
        "engines": partial(_plugins, "engine"),
        "environments": partial(_plugins, "environment"),
    }


def page(name: str, commands: Sequence[str]) -> str:
    """Explain a step, target, engine, environment, recipe or preset. commands: further names that might be meant."""
    for text in (_step_page, _plugin_page, _target_page, _recipe_page):
        if (found := text(name)) is not None:
            return found
    known = [*commands, *dict.fromkeys(entry.name for find_all in kinds().values() for entry in find_all())]
    hint = did_you_mean(name, known, most=3)
    raise UsageError(f"nothing is named {name!r}{hint or '.'} rolloutops list shows all names")


def module_doc(plugin: Plugin) -> str:
    """The docstring of the module that an engine or environment is in."""
    return ast.get_docstring(ast.parse(plugin.file().read_text(encoding="utf-8"))) or ""


def _steps(start: str) -> list[Entry]:
    from rolloutops.steps.step import available

    return [Entry(name, _sentence(about)) for name, (about, _) in available().items() if name.startswith(start)]


def _targets() -> list[Entry]:
    from rolloutops.build.lint import targets

    return [Entry(name, _sentence(_comment(path, "--"))) for name, path in targets().items()]


def _recipes(pattern: str) -> list[Entry]:
    return [Entry(path.stem, _sentence(_comment(path, "#"))) for path in sorted(shipped("recipes").glob(pattern))]


def _plugins(kind: Kind) -> list[Entry]:
    return [Entry(name, _sentence(module_doc(find(kind, name)))) for name in names(kind)]


def _comment(path: Path, sign: str) -> str:
    """The comment at the beginning of a file, as one paragraph."""
    lines = list[str]()
    for line in path.read_text(encoding="utf-8").removeprefix(SCHEMA_LINE).splitlines():
        if not line.removeprefix(sign).strip() or not line.startswith(sign):
            break
        lines.append(line.removeprefix(sign).strip())
    return " ".join(lines)


def _sentence(text: str) -> str:
    """The first sentence of a text, without the shape of its lines: up to a full stop, or to a colon before a brace."""
    text = re.sub(r'^\w+ = "\w+": ', "", " ".join(text.split("\n\n")[0].split()))
    return re.split(r"(?<=[\w)`'\"])\.(?:\s|$)|: \{", text, maxsplit=1)[0].rstrip(".:")


def _step_page(name: str) -> str | None:
    from rolloutops.steps.step import available, find_step

    if not name.endswith(".sql") and name not in available():
        return None
    step = find_step(name)
    kind = step.path.parent.name
    rows = [(one.name, one.kind, one.default or "(required)", one.about) for one in step.params.values()]
    keys = f"Every build takes these keys too: {', '.join(keys_of(BuildOptions))}." if kind == "build" else ""
    required = [f"{one.name} = …" for one in step.params.values() if one.default is None]
    use = "\n".join(
        [
            *("  [[steps]]", f'  kind = "{kind}"', f'  name = "{step.path.stem}"', f'  use = "{name}"'),
            *(f"  {line}" for line in required),
        ]
    )
    return _page(
        f"{name}, a step: {step.path}", step.about, _settings("Parameters", rows), keys, f"In a recipe:\n{use}"
    )


def _plugin_page(name: str) -> str | None:
    if name.endswith(".py") or ":" in name:  # nothing in a file says which of the two it makes
        plugin = find("environment", name)
        settings = _settings("Settings", _plugin_rows(plugin))
        return _page(f"{name}, an engine or environment: {plugin.file()}", module_doc(plugin), settings)
    for kind in BUILT_IN:
        if name in names(kind):
            plugin = find(kind, name)
            return _page(
                f"{name}, an {kind}" + (f": pip install 'rolloutops[{plugin.extra}]'" if plugin.extra else ""),
                module_doc(plugin),
                _settings("Settings", _plugin_rows(plugin)),
                f'In a recipe:\n  {kind} = "{name}"' + (f"\n  {kind}_args = {{ … }}" if plugin.takes() else ""),
            )
    return None


def _plugin_rows(plugin: Plugin) -> list[tuple[str, str, str, str]]:
    return [
        (name, words(key), "(required)" if key.required else _default(key.default), key.about)
        for name, key in plugin.keys().items()
    ]


def _default(value: object) -> str:
    """A default that fits a cell of a table."""
    text = "" if value is None else as_typed(value)
    return text if len(text) <= 30 and "\n" not in text else "a longer text"


def _target_page(name: str) -> str | None:
    from rolloutops.build.lint import targets

    if name not in targets():
        return None
    path = targets()[name]
    return _page(
        f"{name}, a target: {path}", _comment(path, "--"), f"Lint files for it: rolloutops lint --target={name} FILE"
    )


def _recipe_page(name: str) -> str | None:
    folder = shipped("recipes")
    for path in (folder / f"{name}.toml", *folder.glob(f"*/{name}.toml")):
        if path.is_file():
            kind = "recipe" if path.parent == folder else "preset"
            return _page(f"{name}, a {kind}: {path}", path.read_text(encoding="utf-8").rstrip())
    return None


def _settings(heading: str, rows: Sequence[Sequence[str]]) -> str:
    """Name, type and default of each parameter on one line, its meaning below."""
    columns = layout.columns_of()
    lines = [f"{heading}:" if rows else f"{heading}: none."]
    for name, kind, default, about in rows:
        lines.append(f"  {name}" + (f": {kind}" if kind else "") + (f" = {default}" if default else ""))
        lines += [f"      {line}" for line in layout.wrap(about, max(columns - 6, 20)) if line]
    return "\n".join(lines)


def _page(*parts: str) -> str:
    """The parts of a page, as wide as the terminal; what has an indented line or is a table stays as it is."""
    columns = layout.columns_of()
    return "\n\n".join("\n\n".join(_wrapped(part, columns) for part in text.split("\n\n")) for text in parts if text)


def _wrapped(paragraph: str, columns: int) -> str:
    lines = paragraph.split("\n")
    fixed = any(line.startswith((" ", "[", "#", "─")) for line in lines)
    return paragraph if fixed else "\n".join(layout.wrap(" ".join(lines), columns))
