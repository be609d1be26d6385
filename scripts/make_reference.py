"""Writes docs/reference.md, docs/endpoints.md, the tables of keys in docs/recipes.md, and recipes/recipe.schema.json.

python scripts/make_reference.py           write them
python scripts/make_reference.py --check   exit 1 where a page is not what the code says
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from rolloutops.build.recipe_schema import recipe_schema  # noqa: E402
from rolloutops.cli.catalog import module_doc  # noqa: E402
from rolloutops.cli.help import help_text  # noqa: E402
from rolloutops.cli.main import COMMANDS  # noqa: E402
from rolloutops.config.build_options import BuildOptions  # noqa: E402
from rolloutops.config.plugins import BUILT_IN, Kind, Plugin, find  # noqa: E402
from rolloutops.config.resources import shipped  # noqa: E402
from rolloutops.config.settings import Chunk, Collect, Dataset, DuckDB, Verify  # noqa: E402
from rolloutops.config.validation import Key, keys_of, words  # noqa: E402
from rolloutops.errors import FAILURES  # noqa: E402
from rolloutops.steps.step import KINDS, Step, read_step  # noqa: E402
from rolloutops.store import schema, sql  # noqa: E402
from rolloutops.store.base_views import duckdb_type  # noqa: E402
from rolloutops.store.user_query import view_comments  # noqa: E402
from rolloutops.store.workspace import connect, open_workspace  # noqa: E402
from scripts import endpoints_page  # noqa: E402

REFERENCE, RECIPES = CHECKOUT / "docs" / "reference.md", CHECKOUT / "docs" / "recipes.md"
SCHEMA = CHECKOUT / "recipes" / "recipe.schema.json"
SETTINGS = {
    "chunk": Chunk,
    "collect": Collect,
    "verify": Verify,
    "duckdb": DuckDB,
    "datasets": Dataset,
    "build": BuildOptions,
}

EXIT_CODES = {
    0: "success; `collect` and `run`: all wanted rollouts are stored, or at most `max_given_up` of them given up",
    1: "a bug, reported with its traceback; `status`: the tables contradict each other",
    2: "an error, e.g. a wrong key, a full disk or a spent budget: one line says what, where and what to do",
    3: "rollouts are still pending, or submitted in a batch: run the same command again",
    4: "no rollout is pending, but more are given up than `max_given_up` allows: the output shows reasons and fixes",
    130: "interrupted; stored rows are kept, and the same command continues",
    141: "the program that read the output, e.g. `head`, has ended",
}
VARIABLES = {
    "HF_ENDPOINT": "the URL for `hf://` inputs (default: `https://huggingface.co`)",
    "HF_TOKEN": "the token for `HF_ENDPOINT`, if a dataset needs one",
    "OPENAI_API_KEY": "the key of the `openai` engine; `api_key_env` names another variable",
    "OPENAI_BASE_URL": "the URL of the `openai` engine's API, unless `base_url` is set",
    "ROLLOUTOPS_FAILPOINT": "for tests: the failpoint that kills the process: `name`, or `name:3` for the third time",
    "ROLLOUTOPS_WORKER": "set by `--workers` for its processes, which read their job from standard input",
    "ROLLOUTOPS_MEMORY_LIMIT": "`memory_limit` of queries, if neither a flag nor the recipe's `[duckdb]` sets it",
    "ROLLOUTOPS_TEMP_DIRECTORY": "`temp_directory` of queries, in the same way",
    "ROLLOUTOPS_THREADS": "`threads` of queries, in the same way",
    "ROLLOUTOPS_AUTHOR": "the author of labels (default: the user's name)",
    "ROLLOUTOPS_TRACEBACK": "`1` prints the traceback of every error",
    "XDG_CACHE_HOME": "parent of `rolloutops/`, with the `cpu` extra's model and fetched inputs (default: `~/.cache`)",
}
ABOUT_STEP_KINDS = {
    "metrics": "Each reads the views and returns a table. `metrics --step=metrics/rewards` runs one.",
    "filter": "Each reads `selected` and returns the rows to keep.",
    "reward": "Each reads `selected` and returns its rows with another `reward` or more columns.",
    "mix": "Each reads `selected` and returns some of its rows, or repeats them if requested.",
    "pair": "Each reads `selected` and returns pairs: two rows each, with the columns `pair`, `role` and `margin`.",
    "build": "Each returns the lines of a training file. Every build also takes the keys of the first table.",
}


def reference() -> str:
    """docs/reference.md."""
    return "\n\n".join(["# Reference", _intro(), *_sections()]) + "\n"


def recipes(page: str) -> str:
    """docs/recipes.md with each region between `<!-- keys of TABLE -->` and `<!-- end -->` made anew."""

    def region(match: re.Match[str]) -> str:
        name = match["table"]
        return f"<!-- keys of {name} -->\n{_keys(SETTINGS[name])}\n<!-- end -->"

    return re.sub(r"<!-- keys of (?P<table>\w+) -->\n.*?<!-- end -->", region, page, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Each page as it has to be."""
    schema = json.dumps(recipe_schema(CHECKOUT), indent=2, ensure_ascii=False) + "\n"
    made = {REFERENCE: reference(), RECIPES: recipes(RECIPES.read_text(encoding="utf-8")), SCHEMA: schema}
    return {**made, endpoints_page.PAGE: endpoints_page.page()}


def _intro() -> str:
    return (
        "<!-- Made by scripts/make_reference.py from the code: change that, not this. -->\n\n"
        "This page lists [commands](#commands), [exit codes](#exit-codes), "
        "[environment variables](#environment-variables), [tables](#tables), [views](#views), [steps](#steps), "
        "[engines](#engines), [environments](#environments) and [failures](#failures). The keys of a recipe are in "
        "[recipes.md](recipes.md)."
    )


def _sections() -> Iterator[str]:
    yield "## Commands"
    for command in COMMANDS:
        yield f"### {command.name}\n\n```text\n{help_text(command, 'rolloutops').rstrip()}\n```"
    yield "## Exit codes\n\n" + _table(("code", "meaning"), [(str(code), about) for code, about in EXIT_CODES.items()])
    yield "## Environment variables\n\n" + _table(
        ("variable", "meaning"), [(f"`{name}`", about) for name, about in VARIABLES.items()]
    )
    yield (
        "## Tables\n\nThe tables of a workspace are append-only Parquet files. In SQL, `task_log` is the table of "
        "tasks with all edits and removals, and `tasks` is the view of the current tasks."
    )
    for name, table in schema.TABLES.items():
        yield f"### Table {name}\n\n" + _columns(table)
    yield (
        "## Views\n\n`rolloutops sql` and every step can read the views; `rolloutops sql --print` prints the script "
        "that creates them in any DuckDB shell."
    )
    yield from _views()
    yield (
        "## Steps\n\nA step is one SQL file. `rolloutops list steps` lists them, `rolloutops help STEP` explains one "
        "and shows its path, and `rolloutops init` copies those of a recipe."
    )
    for kind in KINDS:
        yield from _steps(kind)
    yield "## Engines\n\nSet `engine` in `[collect]`, and the engine's settings in `[collect.engine_args]`."
    yield from _plugins("engine")
    yield "## Environments\n\nSet `environment` in `[datasets.NAME]`, and its settings in `environment_args`."
    yield from _plugins("environment")
    yield "## Failures\n\n" + _failures()


def _columns(table: Any) -> str:
    rows = [(f"`{field.name}`", _kind(field.type), schema.about(table, field.name)) for field in table]
    return _table(("column", "type", "meaning"), rows)


def _kind(kind: Any) -> str:
    return duckdb_type(kind).replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")


def _views() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        con = connect(open_workspace(Path(folder), create=True))
        for name, about in view_comments().items():
            columns = ", ".join(f"`{column}`" for column in sql.columns(con, f"FROM {name}"))
            yield f"### View {name}\n\n{about[:1].upper()}{about[1:]}\n\n{columns}"


def _steps(kind: str) -> Iterator[str]:
    paths = sorted((shipped("sql") / kind).glob("*.sql"))
    if not paths:
        return
    yield f"### Steps: {kind}\n\n{ABOUT_STEP_KINDS[kind]}"
    if kind == "build":
        yield _keys(BuildOptions)
    for path in paths:
        name = f"{kind}/{path.stem}"
        yield f"#### {name}\n\n" + _step(read_step(name, path))


def _step(step: Step) -> str:
    rows = [
        (f"`{param.name}`", param.kind, "required" if param.default is None else f"`{param.default}`", param.about)
        for param in step.params.values()
    ]
    reads = f" Reads: {', '.join(f'`{name}`' for name in step.reads)}." if step.reads else ""
    return (
        _escaped(step.about)
        + reads
        + ("\n\n" + _table(("parameter", "type", "default", "meaning"), rows) if rows else "")
    )


def _plugins(kind: Kind) -> Iterator[str]:
    for name, extra in BUILT_IN[kind].items():
        plugin = find(kind, name)
        needs = f"\n\nNeeds `pip install 'rolloutops[{extra}]'`." if extra else ""
        yield f"### {kind.capitalize()} {name}\n\n{_module_text(plugin)}{needs}\n\n{_settings(plugin)}"


def _module_text(plugin: Plugin) -> str:
    """The docstring of a plug-in's module; a paragraph with an indented line stays as it is written."""
    text = module_doc(plugin)
    return "\n\n".join(
        f"```text\n{part}\n```" if part.startswith("    ") or "\n    " in part else part for part in text.split("\n\n")
    )


def _settings(plugin: Plugin) -> str:
    rows = [
        (f"`{name}`", _type(key) or "any", "required" if key.required else _default(key), key.about)
        for name, key in plugin.keys().items()
    ]
    return _table(("setting", "type", "default", "meaning"), rows) if rows else "It takes no settings."


def _default(key: Key) -> str:
    if isinstance(key.default, str) and (len(key.default) > 60 or "\n" in key.default):
        return "a text of its own"
    return "" if key.default is None else f"`{_toml(key.default)}`"


def _keys(kind: type) -> str:
    rows = []
    for name, key in keys_of(kind).items():
        shown = "" if key.default in (None, "", {}, []) else f"`{_toml(key.default)}`"
        rows.append((f"`{name}`", _type(key), shown, key.about))
    return _table(("key", "type", "default", "meaning"), rows)


def _type(key: Key) -> str:
    """The type of a key, in the words of a recipe, without an article."""
    text = "text or " if key.one_text and str not in key.members else ""
    return text + re.sub(r"\ban? ", "", words(key))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _failures() -> str:
    rows = [(f"`{name}`", "yes" if one.retried else "no", one.meaning) for name, one in FAILURES.items()]
    return (
        "A failed attempt is a row of `attempts` with its type in `error`. If the error is retried, the rollout is "
        "given up after `max_attempts` attempts, otherwise at once. [Reliability](reliability.md#failures) has the "
        "exceptions, e.g. `rate_limited` does not count as an attempt.\n\n"
        + _table(("error", "retried", "meaning"), rows)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Prose in which Markdown finds no table cell and, outside code, no HTML tag."""
    text = text.replace("|", "\\|")
    return "`".join(part if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(text.split("`")))


def main() -> int:
    """Write or check the pages."""
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(CHECKOUT)} is not what the code says: run python scripts/make_reference.py")
        return 1 if stale else 0
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
