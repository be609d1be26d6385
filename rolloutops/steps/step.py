"""Steps: SQL files with a header that says what each can be asked. Found, read, checked and bound here.

    -- What the step does, in the first comment lines.
    -- param low DOUBLE = 0.1   lowest mean reward kept
    -- check: SELECT ... FROM result ...     must return no row, else nothing is written
    -- report: SELECT ... FROM result ...    a small table for the reader and the manifest
    -- reads: pairs                          it reads the view pairs (sql/pairs.sql), a row a pair, made of selected
    -- target: NAME                          of a build, what its lines are for: sql/lint/NAME.sql is their linter
    -- format: parquet                       of a build, the format where the recipe names none
    -- files: by shape                       of a build in Parquet, whose loader reads no column of JSON: a file a shape
    -- columns: NAME TYPE, NAME TYPE ...     of a build, types of columns in Parquet; others come from their values
    -- dataset_info: {...}                   of a build, its entry in LLaMA-Factory's dataset_info.json
    -- datasets: NAME, NAME ...              the parameters that name datasets: a misspelt one is refused
    SELECT s.* FROM selected AS s ...

Each of these but a parameter goes on in comment lines that are indented by three spaces or more. A parameter without a
default must be given. Both kinds of query see `selected` (what the step read) and `result` (what it made).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rolloutops.config.build_options import BuildOptions
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.config.validation import Key, check_table, keys_of
from rolloutops.errors import StepError, UsageError, did_you_mean
from rolloutops.layout import count
from rolloutops.store import sql
from rolloutops.store.parsed import Names, empty_database, names, statement

LINE = ("json", "keys", "split_key", "sort_key")
"""The columns of a build step: a line of the training file, where it comes from, and its place."""

READABLE = ("pairs",)
"""The views that are made only for the steps whose header says that they read them."""

KINDS = ("metrics", "filter", "reward", "mix", "pair", "build")
PARAM = re.compile(
    r"-- param\s+(?P<name>[a-z_]\w*)\s+(?P<kind>[A-Z]\w*(?:\([^)]*\))?(?:\[\])*)"
    r"(?:\s*=\s*(?P<default>'(?:[^']|'')*'|\S(?:\S| (?! ))*))?(?:\s{2,}(?P<about>\S.*))?"
)
QUERIES = ("check", "report")
NOTES = ("reads", "target", "format", "files", "columns", "dataset_info", "datasets")
NAMED = re.compile(rf"-- ({'|'.join((*QUERIES, *NOTES))}): *(.*)")


BOUNDS = {
    name: {"least": -(2**bits), "most": 2**bits - 1}
    for name, bits in {"TINYINT": 7, "SMALLINT": 15, "INTEGER": 31, "INT": 31, "BIGINT": 63}.items()
}
"""What DuckDB's whole numbers may be at least and at most."""


@dataclass(frozen=True)
class Param:
    """One parameter of a step. default: a SQL literal; None where the parameter must be given."""

    name: str
    kind: str
    default: str | None
    about: str


@dataclass(frozen=True)
class Step:
    """A step as read. query: its SELECT without header and semicolon. checks, reports: queries of its header.

    notes: what a header says of what the step reads, of a build's lines (target, format, files, columns, dataset_info)
    and of parameters (datasets).
    """

    name: str
    path: Path
    source: str
    about: str
    query: str
    params: Mapping[str, Param] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def ships(self) -> bool:
        """Whether the step is one of rolloutops, not one beside a recipe."""
        return self.path.resolve().is_relative_to(shipped("sql"))

    @property
    def reads(self) -> tuple[str, ...]:
        """The views besides `selected` that its header says the step reads."""
        return tuple(self.notes.get("reads", "").replace(",", " ").split())

    @property
    def names(self) -> Names:
        """What the step's query, checks and reports name."""
        return names(self.query, *self.checks, *self.reports)


def roots(folder: Path) -> list[Path]:
    """Where steps lie: beside the recipe, in ./sql, in rolloutops itself; the first that has a step wins."""
    return [folder, folder / "sql", Path("sql"), shipped("sql")]


def available(folder: Path = Path()) -> dict[str, tuple[str, Path]]:
    """name -> (what it does, the file that wins), of every step that a recipe in `folder` can use."""
    found: dict[str, tuple[str, Path]] = {}
    for root in roots(folder):
        for path in sorted(path for kind in KINDS for path in (root / kind).glob("*.sql")):
            name = path.relative_to(root).with_suffix("").as_posix()
            if name not in found:
                found[name] = (read_step(name, path).about, path)
    return found


def find_step(use: str, folder: Path = Path(), where: str = "") -> Step:
    """The step that `use` names: a path as given, else `KIND/NAME` in one of the `roots`.

    where: what names it, for messages. Raises UsageError where there is none.
    """
    places = [Path(use), folder / use]
    for root in roots(folder):
        places += [root / use, root / f"{use}.sql"]
    for path in places:
        if path.suffix == ".sql" and path.is_file():
            return read_step(use, path)
    known = available(folder)
    kind = [name for name in known if name.startswith(use.split("/")[0] + "/")]
    hint = did_you_mean(use, kind, most=3) or did_you_mean(use, known, most=3)
    rest = "rolloutops list steps shows all of them" if hint else f"there are: {', '.join(kind or known)}"
    raise UsageError(f"{_at(where)}no step {use!r}{hint}; {rest}")


def read_step(name: str, path: Path) -> Step:
    """Read a step's file and its header. A line of the header that cannot be read is a StepError with its number."""
    source = path.read_text(encoding="utf-8")
    about: list[str] = []
    params: dict[str, Param] = {}
    named: list[tuple[str, list[str]]] = []
    for number, line in enumerate(source.splitlines(), 1):
        requested, declared = NAMED.fullmatch(line), PARAM.fullmatch(line.rstrip())
        if requested:
            named.append((requested[1], [requested[2]]))
        elif named and re.match(r"--\s{3,}\S", line):
            named[-1][1].append(line[2:].strip())
        elif declared:
            params[declared["name"]] = Param(**{**declared.groupdict(), "about": declared["about"] or ""})
        elif line.startswith("-- param"):
            raise StepError(f"{path} line {number}: write `-- param NAME TYPE = DEFAULT   meaning`, not {line!r}")
        elif line.startswith("--") and not params and not named:
            about.append(line[2:].strip())
        elif line.strip() and not line.startswith("--"):
            break
    made = {kind: tuple(" ".join(text) for k, text in named if k == kind) for kind in QUERIES}
    notes = {kind: " ".join(text) for kind, text in named if kind in NOTES}
    return Step(name, path, source, " ".join(about), statement(source), params, made["check"], made["report"], notes)


def check_step(use: StepUse, folder: Path) -> Step:
    """The step that a recipe's table uses, with everything checked that can be checked before it runs.

    One SELECT; each parameter used is declared and each declared one used; each key of the table is a parameter, of the
    right type, and none is missing. Raises UsageError (the recipe's fault) or StepError (the file's).
    """
    where = f"[{use.kind}.{use.name}]"
    step = find_step(use.use, folder, where)
    con = empty_database()
    lint(con, step)
    keys = keys_of_step(step, use.kind)
    takes = f"; {use.use} takes: {', '.join(keys) or 'none'}"
    check_table(keys, use.settings, f"{where} ", unknown=lambda name, hint: f"{where} no key {name!r}{hint}{takes}")
    for name, value in use.settings.items():
        if name in step.params:
            _require_castable(con, f"{where} {name}", value, step.params[name].kind)
    return step


def keys_of_step(step: Step, kind: str) -> dict[str, Key]:
    """The keys of a recipe's table that uses a step: its parameters, and of a build those of every build."""
    shared = keys_of(BuildOptions) if kind == "build" else {}
    return {**shared, **{name: _key(param) for name, param in step.params.items()}}


def _key(param: Param) -> Key:
    kind = param.kind.upper()
    return Key(*(_hint(kind), None, param.about), required=param.default is None, finite=False, **BOUNDS.get(kind, {}))


def _hint(kind: str) -> Any:
    """The Python type of a parameter's values. DuckDB alone would cast '1' to 1."""
    if kind.endswith("[]"):
        return list[_hint(kind[:-2])]  # type: ignore[misc]
    if kind.startswith("MAP("):
        return dict[str, _hint(kind[4:-1].split(",", 1)[1].strip())]  # type: ignore[misc]
    if kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL"):
        return float
    if kind.endswith("INT") or kind == "INTEGER":
        return int
    return {"BOOLEAN": bool, "VARCHAR": str}.get(kind, Any)


def _require_castable(con: sql.Connection, where: str, value: Any, kind: str) -> None:
    """Raise UsageError where DuckDB does not take a value for a type that Python lacks, as DATE or DECIMAL(3, 2)."""
    if kind.upper() in ("DOUBLE", "BOOLEAN", "VARCHAR", *BOUNDS):
        return
    try:
        sql.run(con, f"SELECT CAST({_literal(value)} AS {kind})")
    except sql.Error:
        raise UsageError(f"{where} must be a {kind}, not {value!r}") from None


def lint(con: sql.Connection, step: Step) -> None:
    """One statement, a SELECT; what it uses is declared and the reverse, and parameters' defaults have their types."""
    for text in (step.query, *step.checks, *step.reports):
        try:
            statements = con.extract_statements(text)
        except sql.Error as error:
            raise StepError(f"{step.path} is not SQL: {_first_line(error)}") from error
        if len(statements) != 1 or not statements[0].type.name.startswith("SELECT"):
            raise StepError(f"{step.path} must hold one SELECT, not {count(len(statements), 'statement')} of any kind")
    _lint_reads(step)
    used = step.names.variables
    for name in sorted(used - set(step.params)):
        hint = did_you_mean(name, step.params) or f"; declare it: -- param {name} DOUBLE = 0   meaning"
        raise StepError(f"{step.path} uses the parameter {name!r}, which its header does not declare{hint}")
    for name in sorted(set(step.params) - used):
        raise StepError(f"{step.path} declares the parameter {name!r}, which it does not use: getvariable('{name}')")
    for param in step.params.values():
        if param.default is not None:
            try:
                sql.run(con, f"SELECT CAST({param.default} AS {param.kind})")
            except sql.Error as error:
                raise StepError(
                    f"{step.path}: the default {param.default} of {param.name} is not a {param.kind}"
                ) from error


def _lint_reads(step: Step) -> None:
    """Raise StepError where the header of a step and its query differ in what it reads."""
    for name in step.reads:
        if name not in READABLE:
            hint = did_you_mean(name, READABLE)
            raise StepError(f"{step.path} declares -- reads: {name}{hint}; only pairs has to be declared")
    for name in READABLE:
        if name in step.names.relations and name not in step.reads:
            raise StepError(f"{step.path} reads {name}, which its header does not declare; add -- reads: {name}")
        if name in step.reads and name not in step.names.relations:
            raise StepError(f"{step.path} declares -- reads: {name}, which its query does not read: FROM {name}")


@contextmanager
def bound(con: sql.Connection, step: Step, settings: Mapping[str, Any], where: str = "") -> Iterator[None]:
    """Within it, the step's parameters are DuckDB variables, and DuckDB's errors are StepErrors that name the step."""
    try:
        sql.run(con, variables(step, settings))
        yield
    except sql.Error as error:
        raise StepError(f"{_at(where)}{step.name} ({step.path}) failed: {_first_line(error)}") from error
    finally:
        for name in step.params:
            sql.run(con, f"RESET VARIABLE {name}")


def require_line(con: sql.Connection, step: Step) -> None:
    """Raise StepError where a build step, which is bound, does not return the columns LINE."""
    made = tuple(sql.columns(con, step.query))
    if made != LINE:
        raise StepError(f"{step.path} must return the columns {', '.join(LINE)}, not {', '.join(made)}")


def variables(step: Step, settings: Mapping[str, Any]) -> str:
    """The statements that set a step's parameters, as settings say or by default, for any DuckDB shell."""
    values = {
        name: _literal(settings[name]) if name in settings else param.default for name, param in step.params.items()
    }
    return "\n".join(f"SET VARIABLE {name} = CAST({values[name]} AS {p.kind});" for name, p in step.params.items())


def parameters(con: sql.Connection, step: Step) -> dict[str, Any]:
    """name -> value of a bound step's parameters, as Python values."""
    return {name: sql.rows(con, f"SELECT getvariable('{name}')")[0][0] for name in step.params}


def measure(
    con: sql.Connection, use: str, folder: Path = Path(), settings: Mapping[str, Any] | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a metrics step over the workspace's views: its columns and its rows."""
    step = find_step(use, folder)
    lint(con, step)
    with bound(con, step, settings or {}):
        return sql.table(con, step.query)


def findings(con: sql.Connection, step: Step, where: str) -> list[list[dict[str, Any]]]:
    """Run a step's checks, which stop it where one finds rows, then its reports. Returns the reports' rows."""
    run_checks(con, step, where, step.checks)
    return [sql.records(con, report) for report in step.reports]


def run_checks(con: sql.Connection, step: Step, where: str, checks: Sequence[str]) -> None:
    """Raise StepError with the first rows of the first check that finds one."""
    for check in checks:
        rows = sql.records(con, f"SELECT * FROM (\n{check}\n) ORDER BY ALL LIMIT 4")
        if rows:
            found = sql.rows(con, f"SELECT count(*) FROM (\n{check}\n)")[0][0]
            rows_found = f"{found} {'row' if found == 1 else 'rows'}"
            raise StepError(f"{where} {step.name}: a check failed for {rows_found}: {_listed(rows, found)}")


def _listed(rows: list[dict[str, Any]], number: int) -> str:
    shown = "; ".join(", ".join(f"{k} {v}" for k, v in row.items()) for row in rows[:3])
    return shown + ("; …" if number > 3 else "")


def _literal(value: Any) -> str:
    """As sql.literal, and infinities and NaN as DuckDB writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"'{value}'::DOUBLE"
    return sql.literal(value)


def _first_line(error: Exception) -> str:
    """What DuckDB says, without the kind of the error and the picture of the line."""
    return re.sub(r"^[A-Z][\w ]* Error: ", "", str(error).strip().split("\n\n")[0]).replace("\n", " ")


def _at(where: str) -> str:
    return f"{where} " if where else ""
