"""The figures of a report: what each shows, made of the aggregates that the queries in sql/report return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rolloutops.build.report import plots
from rolloutops.build.report.plots import Axis, Bar, Series, number, percent
from rolloutops.build.report.queries import OTHERS, Rows, query
from rolloutops.layout import count, verb
from rolloutops.store import sql

ALL, USED = "all rollouts", "in the files"
PARTS = {ALL: plots.PALE, USED: plots.BLUE, "chosen": plots.BLUE, "rejected": plots.ORANGE}
FINISH = {
    "stop": plots.GREEN,
    "tool_calls": plots.SKY,
    "length": plots.RED,
    "max_steps": plots.ORANGE,
    "token_budget": plots.PURPLE,
    "content_filter": plots.BLACK,
}


@dataclass(frozen=True)
class Figure:
    """One figure. svg: empty where there is nothing to draw; caption then says why. rows: the numbers behind it."""

    title: str
    caption: str
    svg: str = ""
    rows: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def figures(con: sql.Connection, targets: Mapping[str, float]) -> Iterator[Figure]:
    """Every figure, in the order of the page. targets: dataset -> the share that a mix was asked for."""
    yield rewards(query(con, "rewards"))
    yield reward_means(query(con, "reward_means"))
    yield solve_rates(query(con, "solve_rates"))
    yield pass_at_k(query(con, "pass_at_k"))
    yield lengths(query(con, "lengths"))
    yield mix(query(con, "mix"), targets)
    yield pair_lengths(query(con, "pair_lengths"))
    yield pair_differences(query(con, "pair_differences"))
    yield finish_reasons(query(con, "finish_reasons"))
    yield tools(query(con, "tools"))
    yield tool_errors(query(con, "tool_errors"))
    yield throughput(query(con, "throughput"))


def rewards(rows: Rows) -> Figure:
    """How rewards are spread, before and after."""
    title = "Rewards"
    if not rows:
        return Figure(title, "no rollout has a reward")
    bins = sorted({(row["bin"], row["bin_end"]) for row in rows})
    by_value = all(low == high for low, high in bins)
    place = {one: n for n, one in enumerate(bins)}
    parts = [part for part in PARTS if any(row["part"] == part for row in rows)]
    series = [
        Series(
            part,
            [(place[row["bin"], row["bin_end"]], row["share"]) for row in rows if row["part"] == part],
            PARTS[part],
            slot=slot,
        )
        for slot, part in enumerate(parts)
    ]
    height = Axis(0, plots.roof(max(row["share"] for row in rows)), "", percent)
    what = "reward" if by_value else "reward, from"
    svg = plots.columns([number(low) for low, _ in bins], series, "Share of rollouts by reward", height, what)
    return Figure(title, "The share of rollouts with each reward.", svg, rows)


def reward_means(rows: Rows) -> Figure:
    """The mean reward of each dataset, before and after."""
    title = "Mean reward by dataset"
    parts = [part for part in PARTS if any(row["part"] == part for row in rows)]
    if len(parts) < 2:
        return Figure(title, "there is no selection to compare with")
    size = {row["dataset"]: row["rollouts"] for row in rows if row["part"] == ALL}
    names = sorted(size, key=lambda name: (-size[name], name))
    mean = {(row["dataset"], row["part"]): row["mean"] for row in rows}
    shown = [(name, [mean.get((name, part)) for part in parts]) for name in names[:MOST]]
    axis = Axis(min(0, *mean.values()), max(1, *mean.values()), "mean reward")
    kinds = [(part, plots.GREY if part == ALL else PARTS[part]) for part in parts]
    svg = plots.changes(shown, kinds, "Mean reward by dataset", axis)
    return Figure(title, f"The verifier's mean reward.{_left_out(names, 'datasets')}", svg, rows)


def solve_rates(rows: Rows) -> Figure:
    """Tasks by how often they are solved; never and always in colors of their own."""
    title = "Solve rate by task"
    if not rows:
        return Figure(title, "no task has two rollouts with a reward")
    tasks = sum(row["tasks"] for row in rows)
    ends = {row["place"]: row["tasks"] for row in rows}
    kinds = {"never": plots.RED, "sometimes": plots.BLUE, "always": plots.GREEN}
    of_place = {0: "never", 11: "always"}
    series = [
        Series(kind, [(r["place"], r["tasks"]) for r in rows if of_place.get(r["place"], "sometimes") == kind], color)
        for kind, color in kinds.items()
    ]
    if any(row["used"] for row in rows):
        series.append(Series(USED, [(row["place"], row["used"]) for row in rows], plots.BLACK, slot=1))
    labels = ["never", *(f"{n}%" for n in range(0, 100, 10)), "always"]
    height = _counts(max(row["tasks"] for row in rows))
    what = "share of a task's rollouts that reach a reward of 1, from"
    svg = plots.columns(labels, series, "Tasks by solve rate", height, what)
    never, always = ends.get(0, 0), ends.get(11, 0)
    caption = (
        f"Of {count(tasks, 'task')} with more than one rollout, {never:,} "
        f"({percent(never / tasks)}) {verb(never, 'are')} never solved and "
        f"{always:,} ({percent(always / tasks)}) always: such groups have no advantage to learn from."
    )
    return Figure(title, caption, svg, rows)


def pass_at_k(rows: Rows) -> Figure:
    """pass@k with its interval."""
    title = "pass@k"
    if not any(row["k"] > 1 for row in rows):
        return Figure(title, "no task has two rollouts with a reward" if rows else "no rollout has a reward")
    series = _series(rows, "k", "mean")
    ks = sorted({row["k"] for row in rows})
    x = Axis(1, ks[-1], "k rollouts of a task", lambda k: f"{k:g}", log=True, marks=ks)
    svg = plots.lines(series, "pass@k", x, Axis(0, 1, "", percent))
    caption = "Probability that at least one of k rollouts reaches a reward of 1, with 95 % intervals over tasks."
    return Figure(title, caption, svg, rows)


def lengths(rows: Rows) -> Figure:
    """Mean reward by generated tokens."""
    title = "Reward against length"
    if len(rows) < 2:
        return Figure(title, "the rollouts have no token counts, or are too few")
    series = _series(rows, "tokens", "mean")
    tokens = [row["tokens"] for row in rows]
    x = Axis(min(tokens), max(tokens), "generated tokens", number, log=True)
    low, high = min(0, *(row["mean"] for row in rows)), max(1, *(row["mean"] for row in rows))
    svg = plots.lines(series, "Mean reward by generated tokens", x, Axis(low, high))
    return Figure(title, "The mean reward of rollouts of about the same length, with 95 % intervals.", svg, rows)


def pair_lengths(rows: Rows) -> Figure:
    """How long chosen and rejected answers are."""
    title = "Lengths of chosen and rejected answers"
    if not rows or not rows[0]["pairs"]:
        return Figure(title, "there are no pairs")
    row = rows[0]
    series = [
        Series(part, [(value, n / 40) for n, value in enumerate(row[part])], PARTS[part])
        for part in ("chosen", "rejected")
    ]
    ends = [value for part in ("chosen", "rejected") for value in row[part]]
    x = Axis(max(min(ends), 1), max(*ends, 2), row["unit"], number, log=max(ends) > 20 * max(min(ends), 1))
    svg = plots.lines(series, "Share of answers up to a length", x, Axis(0, 1, "", percent), dots=False)
    more = row["chosen_longer_by"] or 0
    caption = (
        f"The share of answers up to each length. In {percent(row['share_chosen_longer'])} of "
        f"{count(row['pairs'], 'pair')} the chosen answer is the longer one; on average it is "
        f"{number(round(abs(more), 1))} {row['unit']} "
        f"{'longer' if more >= 0 else 'shorter'}."
    )
    reported = {name: row[name] for name in ("pairs", "unit", "share_chosen_longer", "share_chosen_shorter")}
    return Figure(title, caption, svg, [reported | {"chosen_longer_by": more}])


def pair_differences(rows: Rows) -> Figure:
    """How much longer chosen answers are than rejected ones."""
    title = "How much longer the chosen answer is"
    if not rows:
        return Figure(title, "there are no pairs")
    width, unit = rows[0]["width"], rows[0]["unit"]
    pairs = {row["place"]: row["pairs"] for row in rows}
    labels = [number(place * width) for place in range(-10, 10)]
    halves = (
        ("rejected is longer", plots.ORANGE, range(-10, 0)),
        ("chosen is as long or longer", plots.BLUE, range(10)),
    )
    series = [
        Series(name, [(place + 10, pairs[place]) for place in places if place in pairs], color)
        for name, color, places in halves
    ]
    height = _counts(max(pairs.values()))
    svg = plots.columns(labels, series, "Pairs by difference in length", height, f"{unit} more, from")
    return Figure(title, "Pairs by the length of the chosen answer minus that of the rejected one.", svg, rows)


def mix(rows: Rows, shares: Mapping[str, float]) -> Figure:
    """Rows and tokens of each dataset, against what was asked."""
    title = "Mix"
    if len(rows) < 2 and not shares:
        return Figure(title, "the lines are of one dataset" if rows else "nothing is built yet")
    total, tokens = sum(row["rows"] for row in rows), sum(row["tokens"] or 0 for row in rows)
    rows = sorted(rows, key=lambda row: (-row["rows"], row["dataset"]))
    bars = []
    for row in rows[:MOST]:
        share, target = row["rows"] / total, shares.get(row["dataset"])
        note = f"{number(row['rows'])} rows, {percent(share)}"
        note += f" (asked {percent(target)})" if target is not None else ""
        bars.append(Bar(row["dataset"], share, note, plots.BLUE, target))
        if tokens and row["tokens"] is None:
            bars.append(Bar("", 0.0, "tokens not counted", plots.SKY))
        elif tokens:
            of_tokens = row["tokens"] / tokens
            bars.append(Bar("", of_tokens, f"{number(row['tokens'])} tokens, {percent(of_tokens)}", plots.SKY))
    reported = [{**row, "target": shares.get(row["dataset"])} for row in rows]
    caption = "Shares of the lines (dark) and of the generated tokens behind them (light) of each dataset"
    caption += "; the line marks the requested share." if shares else "."
    return Figure(title, caption + _left_out(rows, "datasets"), plots.bars(bars, "Mix of datasets", None), reported)


def finish_reasons(rows: Rows) -> Figure:
    """Why rollouts ended, by series."""
    title = "Finish reasons"
    if all(row["finish_reason"] == "(not said)" for row in rows):
        return Figure(title, "the rollouts have no finish reason")
    total = {name: sum(row["rollouts"] for row in rows if row["series"] == name) for name in _names(rows)}
    known = [*FINISH, *sorted({row["finish_reason"] for row in rows} - {*FINISH})]
    kinds = [(kind, FINISH.get(kind, plots.GREY)) for kind in known if any(r["finish_reason"] == kind for r in rows)]
    count = {(row["series"], row["finish_reason"]): row["rollouts"] for row in rows}
    shown = [(name, [count.get((name, kind), 0) / n for kind, _ in kinds]) for name, n in total.items()]
    return Figure(title, "The share of rollouts by finish reason.", plots.stacked(shown, kinds, title), rows)


def tools(rows: Rows) -> Figure:
    """The tools that were called most."""
    title = "Tool calls"
    if not rows:
        return Figure(title, "no tool was called")
    bars = [Bar(row["tool"], row["calls"], number(row["calls"]), plots.GREEN) for row in rows]
    return Figure(title, "Calls by tool, for the twelve tools with most calls.", plots.bars(bars, title), rows)


def tool_errors(rows: Rows) -> Figure:
    """How many tool calls failed."""
    title = "Failed tool calls"
    if not rows:
        return Figure(title, "no tool calls, or the engine does not report failures")
    rows = sorted(rows, key=lambda row: (row["series"] == OTHERS, row["series"]))
    notes = [f"{percent(row['share'])} of {number(row['calls'])} calls" for row in rows]
    bars = [Bar(row["series"], row["share"], note, plots.RED) for row, note in zip(rows, notes, strict=True)]
    most = max([0.1, *(row["share"] for row in rows)])
    return Figure(title, "The share of tool calls that ended with an error.", plots.bars(bars, title, most), rows)


def throughput(rows: Rows) -> Figure:
    """How fast the largest run went."""
    title = "Throughput"
    if not rows:
        return Figure(title, "the rollouts have no times")
    span, count = rows[0]["span"], rows[0]["rollouts"]
    unit, name = next((one for one in SPANS if span > 2 * one[0]), (1, "seconds"))
    points = [(row["second"] / unit, row["rollouts_per_second"]) for row in rows]
    x = Axis(0, span / unit, f"{name} since the run began")
    y = Axis(0, plots.roof(max(rate for _, rate in points)))
    svg = plots.lines([Series("rollouts/s", points)], "Rollouts per second", x, y, dots=False, filled=True)
    tokens = sum(row["tokens_per_second"] for row in rows) / len(rows)
    pace = f"{number(count / span)}/s{f', {number(tokens)} tokens/s' if tokens else ''}"
    return Figure(title, f"Rollouts that ended per second. Run {rows[0]['run_id']}: {count:,} at {pace}.", svg, rows)


SPANS = ((86400, "days"), (3600, "hours"), (60, "minutes"))
MOST = 16
"""Datasets that one figure shows at most."""


def _series(rows: Rows, x: str, y: str) -> list[Series]:
    """A line for each series, with the bands low and high."""
    names = _names(rows)
    colors = {**dict(zip(names, plots.COLOURS, strict=False)), OTHERS: plots.GREY}
    made = []
    for name in names:
        own = [row for row in rows if row["series"] == name]
        bands = [(row["low"], row["high"]) for row in own]
        made.append(Series(name, [(row[x], row[y]) for row in own], colors[name], bands))
    return made


def _names(rows: Rows) -> list[str]:
    """The series of some rows, the lumped ones last."""
    return sorted({row["series"] for row in rows}, key=lambda name: (name == OTHERS, name))


def _counts(most: int) -> Axis:
    """An axis of whole numbers."""
    return Axis(0, plots.roof(most)) if most > 4 else Axis(0, most, marks=range(most + 1))


def _left_out(rows: Sequence[Any], noun: str) -> str:
    return f" The {MOST} largest of {len(rows)} {noun}." if len(rows) > MOST else ""
