"""report.html: one page that needs nothing else, about a build or about a workspace that has no build yet.

Well-formed XML, no script, no external file. What a person wants to know first comes first: what this is, how much,
from what, what was dropped and why, and what to look at before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rolloutops.build.manifest_types import Manifest
from rolloutops.build.report import plots
from rolloutops.build.report.figures import Figure, figures
from rolloutops.build.report.plots import Bar, escape, number, percent
from rolloutops.build.report.queries import query
from rolloutops.build.report.warnings import amiss, warnings_of
from rolloutops.store import sql

NAME = "report.html"

STEPS = ("step", "what it does", "parameters", "rows in", "kept", "dropped", "why", "rows out")
POLICY = ("dataset", "policy", "engine", "model", "verifier", "verifier_version", "rollouts")

MOST_ROWS = 60
"""Rows of one table; the page says how many more there are."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #222; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, "Noto Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 48px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 10px; }
h3 { font-size: 15px; margin: 0 0 2px; }
p { margin: 0 0 8px; max-width: 78ch; }
.about { font-size: 17px; color: #444; overflow-wrap: anywhere; }
.from, .caption, .less { color: #5A6470; }
.caption { font-size: 13px; min-height: 2.9em; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 22px 0 0; padding: 0; list-style: none; }
.tiles li { flex: 1 1 170px; border: 1px solid #DDE1E5; border-radius: 8px; padding: 10px 14px; }
.tiles b { display: block; font-size: 23px; line-height: 1.3; font-weight: 650; white-space: nowrap; }
.tiles span { font-size: 13px; color: #5A6470; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 28px 40px; }
.two > * { min-width: 0; }
.look { border-left: 4px solid #E69F00; padding: 2px 0 2px 14px; margin: 0 0 8px; overflow-wrap: anywhere; }
.fine { border-left-color: #009E73; }
figure { margin: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 4px 0 8px; }
th, td { text-align: left; vertical-align: top; padding: 4px 14px 4px 0; border-bottom: 1px solid #E6E9EC;
  overflow-wrap: anywhere; max-width: 46ch; }
td:first-child { min-width: 130px; }
.left { margin-top: 18px; }
th { color: #5A6470; font-weight: 600; overflow-wrap: normal; vertical-align: bottom; }
td.n, th.n { text-align: right; }
td.n { white-space: nowrap; }
summary { cursor: pointer; color: #5A6470; font-size: 13px; margin-top: 4px; }
code { font: 12px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media print {
  @page { margin: 14mm; }
  body { font-size: 10.5pt; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 22px; }
  .two { grid-template-columns: 1fr 1fr; gap: 16px 24px; }
  .about { font-size: 11pt; }
  .tiles li { flex-basis: 110px; padding: 6px 10px; }
  .tiles b { font-size: 14pt; }
  table { font-size: 8pt; }
  td:first-child { min-width: 90px; }
  .tiles li, tr { break-inside: avoid; }
  details { display: none; }
  .scroll { overflow: visible; }
}
"""


@dataclass(frozen=True)
class Page:
    """What a page says. tiles: (figure, what it counts). warnings: sentences. tables: (heading, columns, rows)."""

    title: str
    about: str
    source: str
    tiles: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    steps: Sequence[Bar] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = field(default_factory=tuple)


def build_page(con: sql.Connection, content: Manifest) -> str:
    """The page of a build. con: `aggregates.prepare` ran on it. content: the build's manifest."""
    build, totals = content["build"], query(con, "totals")[0]
    options = targets(content)
    drawn = list(figures(con, options))
    lines = {split: sum(rows.values()) for split, rows in content["splits"].items()}
    tiles = [
        (f"{sum(lines.values()):,}", "lines: " + ", ".join(f"{n:,} {split}" for split, n in lines.items())),
        (f"{totals['used_rollouts']:,}", f"rollouts behind them, of {totals['rollouts']:,}"),
        (f"{totals['used_tasks']:,}", f"tasks, of {totals['tasks']:,}"),
        *_tokens(totals["used_tokens"], "generated tokens behind the lines"),
        *_change(totals),
    ]
    datasets = sorted({name for rows in content["splits"].values() for name in rows})
    page = Page(
        build["step"],
        f"{build['about']}",
        f"Built with {build['use']} from {_listed(datasets, 'dataset', 'datasets')}, "
        f"{_listed(sorted({row['policy'] for row in content['policies']}), 'policy', 'policies')}.",
        tiles,
        warnings_of(content, totals, drawn, options),
        step_bars(content),
        drawn,
        [
            ("Steps", STEPS, _steps(content)),
            *_reports(content),
            (
                "Policies and verifiers",
                ("dataset", "policy", "engine", "model", "verifier", "version", "rollouts"),
                [[row.get(name) for name in POLICY] for row in content["policies"]],
            ),
            (
                "Files",
                ("file", "rows", "bytes", "sha256"),
                [[file["name"], file["rows"], file["bytes"], file["sha256"]] for file in content["files"]],
            ),
        ],
    )
    return render(page)


def workspace_page(
    con: sql.Connection, title: str, tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]]
) -> str:
    """The page of a workspace. con: `aggregates.prepare` ran on it. tables: the metrics that the page ends with."""
    totals = query(con, "totals")[0]
    names = [row["dataset"] for row in sql.records(con, "SELECT DISTINCT dataset FROM report.names ORDER BY dataset")]
    who = [row["policy"] for row in sql.records(con, "SELECT DISTINCT policy FROM report.names ORDER BY policy")]
    tiles = [
        (f"{totals['rollouts']:,}", "rollouts"),
        (f"{totals['tasks']:,}", "tasks"),
        *_tokens(totals["tokens"], "generated tokens"),
        *_change(totals),
    ]
    source = f"{_listed(names, 'dataset', 'datasets')}, {_listed(who, 'policy', 'policies')}."
    about = "All rollouts in the workspace, before any selection."
    drawn = list(figures(con, {}))
    return render(Page(title, about, source, tiles, list(amiss(totals)), (), drawn, tables))


def step_bars(content: Manifest) -> list[Bar]:
    """How many rows went into each step and came out of it, down to the lines of the files."""
    steps, lines = content["steps"], sum(sum(rows.values()) for rows in content["splits"].values())
    first = steps[0]["rows_in"] if steps else content["rollouts"]["in"]
    rows = [Bar("all rollouts", first, number(first), plots.GREY)]
    for step in steps:
        more = f", {number(step['rows'] - step['kept'])} repeated" if step["rows"] > step["kept"] else ""
        note = f"{number(step['rows'])}{_dropped(step['dropped'], step['rows_in'])}{more}"
        rows.append(Bar(step["step"], step["rows"], note, plots.SKY))
    read, used = content["rollouts"]["in"], content["rollouts"]["used"]
    if used != read or not steps:
        rows.append(Bar("used by the build", used, f"{number(used)}{_dropped(read - used, read)}", plots.SKY))
    rows.append(Bar("lines", lines, number(lines), plots.BLUE))
    return rows


def _dropped(rows: int, of: int) -> str:
    return f", {number(rows)} dropped ({percent(rows / of)})" if rows > 0 else ""


def targets(content: Manifest) -> dict[str, float]:
    """Dataset -> the share of the lines that the last mix on the way was asked for, as far as it says so."""
    mixes = [step for step in content["steps"] if step["kind"] == "mix"]
    if not mixes:
        return {}
    options = mixes[-1]["parameters"].get("shares")
    rows = [row for rows in mixes[-1]["reports"] for row in rows if row.get("target_rows") is not None]
    if not options and rows:
        own = rows[:-1] if len(rows) > 1 and rows[-1]["dataset"] == "all" else rows  # the last line is the sum
        options = {row["dataset"]: row["target_rows"] for row in own}
    if not isinstance(options, Mapping) or not all(isinstance(share, int | float) for share in options.values()):
        return {}
    total = sum(options.values())
    return {name: share / total for name, share in options.items()} if total else {}


def render(page: Page) -> str:
    """The page as HTML that is XML as well."""
    shown = [figure for figure in page.figures if figure.svg]
    missing = [figure for figure in page.figures if not figure.svg]
    look = [f'<p class="look">{escape(text)}</p>' for text in page.warnings]
    look = look or ['<p class="look fine">No warnings.</p>']
    first = [f"<h2>Warnings</h2>{''.join(look)}"]
    if page.steps:
        drawn = plots.bars(page.steps, "Rows after each step")
        first.insert(0, f"<h2>From rollouts to lines</h2>{drawn}")
    parts = [
        f'<h1>{escape(page.title)}</h1><p class="about">{escape(page.about)}</p>',
        f'<p class="from">{escape(page.source)}</p>',
        '<ul class="tiles">',
        *(f"<li><b>{escape(value)}</b><span>{escape(what)}</span></li>" for value, what in page.tiles),
        '</ul><div class="two">',
        *(f"<section>{text}</section>" for text in first),
        "</div><h2>Figures</h2>" + ('<div class="two">' if shown else ""),
        *(_figure(figure) for figure in shown),
        "</div>" if shown else "",
    ]
    if missing:
        said = "; ".join(f"{figure.title} ({figure.caption})" for figure in missing)
        parts.append(f'<p class="less left">Left out, because there is nothing to draw: {escape(said)}.</p>')
    parts += [f"<h2>{escape(name)}</h2>{_table(columns, rows)}" for name, columns, rows in page.tables if rows]
    head = '<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>'
    head += f"<title>{escape(page.title)}</title><style>{STYLE}</style>"
    body = "\n".join(part for part in parts if part)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>\n{body}\n</main></body></html>\n'


def _figure(figure: Figure) -> str:
    names = list(dict.fromkeys(key for row in figure.rows for key in row))
    rows = [[row.get(name) for name in names] for row in figure.rows]
    numbers = f"<details><summary>the numbers</summary>{_table(names, rows)}</details>" if rows else ""
    caption = f'<p class="caption">{escape(figure.caption)}</p>'
    return f"<figure><h3>{escape(figure.title)}</h3>{caption}{figure.svg}{numbers}</figure>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; numbers to the right."""
    right = [any(_is_number(row[n]) for row in rows) for n in range(len(columns))]
    mark = [' class="n"' if one else "" for one in right]
    head = "".join(f"<th{m}>{escape(name.replace('_', ' '))}</th>" for name, m in zip(columns, mark, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{m}>{_cell(value)}</td>" for value, m in zip(row, mark, strict=True)) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f'<p class="less">and {len(rows) - MOST_ROWS:,} more</p>' if len(rows) > MOST_ROWS else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table>{more}</div>'


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return escape(number(value))
    text = str(value)
    if len(text) == 64 and text.isalnum():  # a hash: enough of it to compare by eye, all of it under the pointer
        return f'<code title="{text}">{text[:16]}…</code>'
    return escape(text if len(text) <= 300 else text[:299] + "…")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _steps(content: Manifest) -> list[list[Any]]:
    return [
        [
            f"{step['step']} ({step['use']})",
            step["about"],
            ", ".join(f"{name} = {value}" for name, value in step["parameters"].items()),
            *(step[name] for name in ("rows_in", "kept", "dropped")),
            _reasons(step),
            step["rows"],
        ]
        for step in content["steps"]
    ]


def _reasons(step: Mapping[str, Any]) -> str:
    """Why a step dropped rows, as far as it says so."""
    counts: dict[str, int] = {}
    for one in step["datasets"]:
        for reason, n in one.get("reasons", {}).items():
            counts[reason] = counts.get(reason, 0) + n
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{n:,} {reason}" for reason, n in ordered) or "–"


def _reports(content: Manifest) -> list[tuple[str, list[str], list[list[Any]]]]:
    """The tables that the steps and the build report."""
    found = []
    for step in (*content["steps"], content["build"]):
        for rows in step["reports"]:
            names = list(rows[0]) if rows else []
            found.append((f"Report of {step['step']}", names, [[row.get(name) for name in names] for row in rows]))
    return found


def _tokens(tokens: int | None, what: str) -> list[tuple[str, str]]:
    return [(number(tokens), what)] if tokens else []


def _change(totals: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The mean reward before the selection and after it."""
    mean, used, chosen, rejected = (
        None if totals[name] is None else number(round(totals[name], 3))
        for name in ("mean_reward", "used_mean_reward", "chosen_mean_reward", "rejected_mean_reward")
    )
    if mean is None:
        return []
    if chosen is not None and rejected is not None:
        return [(f"{chosen} / {rejected}", f"mean reward of chosen and of rejected answers; of all {mean}")]
    return [(f"{mean} → {used}", "mean reward, of all rollouts and in the files")] if used else [(mean, "mean reward")]


def _listed(names: Sequence[str], one: str, many: str) -> str:
    """`2 datasets (a, b)`; of many names the first ones."""
    shown = ", ".join(plots.cut(name, 260) for name in names[:6]) + (", …" if len(names) > 6 else "")
    return f"{len(names):,} {one if len(names) == 1 else many}" + (f" ({shown})" if names else "")
