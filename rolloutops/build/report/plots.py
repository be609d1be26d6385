"""Plots as SVG text, made of aggregates: a few marks each, whatever the number of rollouts.

Every function returns one `<svg>` that needs no script, no style sheet and no font of its own. Colors are those of
Okabe and Ito (2008), which people with any kind of color blindness tell apart. Names are cut to the room that there
is, and stay whole in the mark's `<title>`, which a browser shows under the pointer.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape as html_escape

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
BLACK, GREY, PALE = "#333333", "#8A929A", "#C9CED3"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, GREY)

WIDTH, FONT = 520.0, 12
CONTROLS = {n: 0x2400 + n for n in range(32)} | dict.fromkeys((*range(0x7F, 0xA0), 0xFFFE, 0xFFFF), 0xFFFD)

Form = Callable[[float], str]


def escape(text: object) -> str:
    """Text for HTML and XML: markup escaped, control characters (which XML cannot hold) as their pictures."""
    return html_escape(str(text).translate(CONTROLS))


def number(value: float) -> str:
    """A number in few characters: `0.25`, `1,200`, `12.5k`, `3.4M`."""
    size = abs(value)
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= least:
            return f"{value / (1e3 if unit == 'k' else least):.1f}".removesuffix(".0") + unit
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 0.001 or value == 0 else f"{value:.1e}"


def percent(share: float) -> str:
    """A share as per cent: `0 %`, `12 %`, `0.4 %`, `99.6 %`; never rounded to 0 or 100 where it is not."""
    value = share * 100
    near = 0 < value < 1 or 99 < value < 100
    text = f"{value:.1f}" if near else f"{value:.0f}"
    return {"0.0": "<0.1", "100.0": ">99.9"}.get(text, text.removesuffix(".0") if not near else text) + " %"


def width_of(text: str, size: float = FONT) -> float:
    """Roughly how wide text is, rather too much than too little: fonts differ."""
    return size * sum(
        1.0 if unicodedata.east_asian_width(c) in "WF" else 0.36 if c in "iljtf.,:;|!'() -" else 0.66 for c in text
    )


def cut(text: str, width: float, size: float = FONT) -> str:
    """Text that fits into a width, with `…` where it is cut: within, as names differ at their ends too."""
    text = " ".join(text.split())
    if width_of(text, size) <= width:
        return text
    kept = min(len(text), int(width / size / 0.36))
    while kept > 0 and width_of(_ends(text, kept), size) > width:
        kept -= 1
    return _ends(text, kept)


def _ends(text: str, count: int) -> str:
    """A text's first and last characters, twice as many of the first."""
    last = count // 3
    return text[: count - last] + "…" + text[len(text) - last :]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two bounds, at most that many."""
    if not high > low:
        return [low]
    rough = (high - low) / max(most - 1, 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def roof(value: float) -> float:
    """A round number that is at least this one: where an axis may end."""
    steps = ticks(0.0, value, 5)
    if len(steps) < 2:
        return value or 1.0
    return value if steps[-1] >= value * 0.999 else steps[-1] + steps[1]


@dataclass(frozen=True)
class Axis:
    """One axis of a plot. log: equal steps are equal factors. marks: the only values to label."""

    low: float
    high: float
    label: str = ""
    form: Form = number
    log: bool = False
    marks: Sequence[float] = ()

    def place(self, value: float) -> float:
        """Where a value lies between low (0) and high (1)."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return 0.5 if high <= low else min(1.0, max(0.0, (at - low) / (high - low)))

    def ticks(self, most: int) -> list[float]:
        """Where its labels stand: at round numbers, of which a logarithmic axis has 1, 2 and 5 times each power."""
        if self.marks:
            return list(self.marks)[:: math.ceil(len(self.marks) / most)]
        if not self.log:
            return ticks(self.low, self.high, most)
        base = [m * 10.0**e for e in range(-3, 10) for m in (1, 2, 5)]
        inside = [value for value in base if self.low <= value <= self.high] or [self.low, self.high]
        return inside[:: math.ceil(len(inside) / most)]


@dataclass(frozen=True)
class Series:
    """A line or a set of columns. bands: (low, high) beside each point, where its uncertainty is known.

    slot: of columns, which place beside the others they take; sets that share one must not meet.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: str = BLUE
    bands: Sequence[tuple[float, float]] = field(default_factory=tuple)
    slot: int = 0


@dataclass(frozen=True)
class Bar:
    """One horizontal bar. note: said after it. mark: a target that is drawn across it."""

    label: str
    value: float
    note: str = ""
    color: str = BLUE
    mark: float | None = None


def bars(rows: Sequence[Bar], about: str, most: float | None = None) -> str:
    """Horizontal bars, names to the left and notes to the right. most: the value of a full bar."""
    left = min(max((width_of(row.label) for row in rows), default=0) + 12, WIDTH * 0.36)
    right = min(max((width_of(row.note) for row in rows), default=0) + 12, WIDTH * 0.44)
    full = most or max((max(row.value, row.mark or 0) for row in rows), default=0) or 1.0
    room = WIDTH - left - right
    parts = []
    for place, row in enumerate(rows):
        top = 4 + place * 26
        length = max(room * min(row.value / full, 1.0), 1.5 if row.value else 0.0)
        at = left + length
        parts.append(f"<g><title>{escape(f'{row.label}: {row.note}')}</title>")
        parts.append(_text(cut(row.label, left - 10), left - 8, top + 14, "end"))
        parts.append(_rect(left, top, length, 18, row.color))
        if row.mark is not None:
            x = left + room * min(row.mark / full, 1.0)
            parts.append(_line(x, top - 3, x, top + 21, BLACK, 2))
            at = max(at, x)
        parts.append(_text(cut(row.note, right), at + 6, top + 14) + "</g>")
    return _svg(parts, 26 * len(rows) + 6, about)


def columns(labels: Sequence[str], series: Sequence[Series], about: str, axis: Axis, below: str = "") -> str:
    """Vertical columns side by side over each label. points: (place of the label from 0, height).

    axis: of the heights. below: what the labels are. A label that has no room is left out.
    """
    head, legend = _legend([(one.name, one.color) for one in series] if len(series) > 1 else [])
    left, top, height = _margin(axis), head + 10.0, 170.0
    room = WIDTH - left - 8
    slot = room / max(len(labels), 1)
    parts = [*legend, *_grid(axis, left, top, height)]
    side_by_side = max((one.slot for one in series), default=0) + 1
    thick = min(slot * 0.84 / side_by_side, 46.0)
    for one in series:
        for place, value in one.points:
            tall = height * axis.place(value)
            x = left + (place + 0.5) * slot + (one.slot - side_by_side / 2) * thick
            said = f"{labels[int(place)]}: {one.name} {axis.form(value)}"
            parts.append(f"<g><title>{escape(said)}</title>{_rect(x, top + height - tall, thick, tall, one.color)}</g>")
    step = max(1, math.ceil(max((width_of(label) for label in labels), default=0) / slot + 0.2)) if labels else 1
    if step > 2 and len(labels) <= 12:  # names rather than numbers: cut them
        step = 1
    for place in range(0, len(labels), step):
        shown = cut(labels[place], slot * step - 2)
        parts.append(_text(shown, left + (place + 0.5) * slot, top + height + 16, "middle"))
    parts.append(_line(left, top + height, WIDTH - 8, top + height, GREY))
    parts += _below(below, left, top + height + 34)
    return _svg(parts, top + height + (42 if below else 24), about)


def lines(series: Sequence[Series], about: str, x: Axis, y: Axis, dots: bool = True, filled: bool = False) -> str:
    """Lines over a grid, each with its band of uncertainty. filled: down to the axis. Every point is in the frame."""
    head, legend = _legend([(one.name, one.color) for one in series] if len(series) > 1 else [])
    left, top, height = _margin(y), head + 10.0, 180.0
    room = WIDTH - left - 16

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return left + room * x.place(point[0]), top + height * (1 - y.place(point[1]))

    parts = [*legend, *_grid(y, left, top, height)]
    for one in series:
        if one.bands:
            xs = [point[0] for point in one.points]
            edge = [(a, band[1]) for a, band in zip(xs, one.bands, strict=True)]
            edge += [(a, band[0]) for a, band in reversed(list(zip(xs, one.bands, strict=True)))]
            parts.append(f'<polygon points="{_points(map(at, edge))}" fill="{one.color}" fill-opacity="0.16"/>')
    for one in series:
        if filled and one.points:
            ground = [(one.points[0][0], y.low), *one.points, (one.points[-1][0], y.low)]
            parts.append(f'<polygon points="{_points(map(at, ground))}" fill="{one.color}" fill-opacity="0.25"/>')
        path = _points(map(at, one.points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{one.color}" stroke-width="2"/>')
        for point in one.points if dots else ():
            said = escape(f"{one.name}: {x.form(point[0])}, {y.form(point[1])}")
            cx, cy = at(point)
            dot = f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.2" fill="{one.color}"><title>{said}</title></circle>'
            parts.append(dot)
    parts.append(_line(left, top + height, WIDTH - 16, top + height, GREY))
    parts += [_text(x.form(v), left + room * x.place(v), top + height + 16, "middle") for v in x.ticks(6)]
    parts += _below(x.label, left, top + height + 34)
    return _svg(parts, top + height + (42 if x.label else 24), about)


def stacked(rows: Sequence[tuple[str, Sequence[float]]], kinds: Sequence[tuple[str, str]], about: str) -> str:
    """Horizontal bars of shares that add up to 1. rows: (name, share of each kind). kinds: (name, color)."""
    head, legend = _legend(kinds)
    left = min(max((width_of(name) for name, _ in rows), default=0) + 12, WIDTH * 0.36)
    room = WIDTH - left - 4
    parts = list(legend)
    for place, (name, shares) in enumerate(rows):
        top, x = head + 6 + place * 26, left
        parts.append(f"<g><title>{escape(name)}</title>{_text(cut(name, left - 10), left - 8, top + 14, 'end')}</g>")
        for (kind, color), share in zip(kinds, shares, strict=True):
            wide = room * share
            said = escape(f"{name}: {kind} {percent(share)}")
            parts.append(f"<g><title>{said}</title>{_rect(x, top, wide, 18, color)}")
            if wide > width_of(percent(share)) + 8:
                parts.append(_text(percent(share), x + wide / 2, top + 14, "middle", _ink(color)))
            parts.append("</g>")
            x += wide
    return _svg(parts, head + 26 * len(rows) + 8, about)


def changes(
    rows: Sequence[tuple[str, Sequence[float | None]]], kinds: Sequence[tuple[str, str]], about: str, x: Axis
) -> str:
    """A dot of each kind in each row, joined by a line: how a number differs. rows: (name, value of each kind)."""
    head, legend = _legend(kinds)
    names = min(max((width_of(name) for name, _ in rows), default=0) + 12, WIDTH * 0.36)
    left = names + 8
    room, height = WIDTH - left - 20, 26.0 * len(rows)
    parts = list(legend)
    for value in x.ticks(6):
        at = left + room * x.place(value)
        parts += [_line(at, head + 4, at, head + height + 4, "#E6E9EC")]
        parts += [_text(x.form(value), at, head + height + 20, "middle")]
    for place, (name, values) in enumerate(rows):
        y = head + 17 + place * 26
        there = [left + room * x.place(value) for value in values if value is not None]
        parts.append(f"<g><title>{escape(name)}</title>{_text(cut(name, names - 10), names - 8, y + 4, 'end')}</g>")
        if there:
            parts.append(_line(min(there), y, max(there), y, PALE, 3))
        for (kind, color), dot in zip(kinds, values, strict=True):
            if dot is not None:
                said = escape(f"{name}: {kind} {x.form(dot)}")
                at = left + room * x.place(dot)
                parts.append(f'<circle cx="{at:.1f}" cy="{y:.1f}" r="6" fill="{color}"><title>{said}</title></circle>')
    parts += _below(x.label, left, head + height + 38)
    return _svg(parts, head + height + (46 if x.label else 28), about)


def _svg(parts: Iterable[str], height: float, about: str) -> str:
    """The parts in a frame that grows and shrinks with the page."""
    head = f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(about)}" font-size="{FONT}">'
    return head + "".join(parts) + "</svg>"


def _grid(y: Axis, left: float, top: float, height: float) -> list[str]:
    """Horizontal lines with their values, and the name of the axis above them."""
    parts = []
    for value in y.ticks(5):
        at = top + height * (1 - y.place(value))
        parts += [_line(left, at, WIDTH - 8, at, "#E6E9EC"), _text(y.form(value), left - 8, at + 4, "end")]
    return parts


def _margin(y: Axis) -> float:
    return max((width_of(y.form(value)) for value in y.ticks(5)), default=0.0) + 14


def _below(label: str, left: float, y: float) -> list[str]:
    """The name of the horizontal axis, in the middle below it."""
    return [_text(cut(label, WIDTH - left), (left + WIDTH) / 2, y, "middle", GREY)] if label else []


def _legend(kinds: Sequence[tuple[str, str]]) -> tuple[float, list[str]]:
    """Its height, and its parts: as many lines as the names need."""
    parts, x, y = [], 0.0, 14.0
    for name, color in kinds:
        shown = cut(name, WIDTH * 0.6)
        wide = width_of(shown) + 30
        if x and x + wide > WIDTH:
            x, y = 0.0, y + 20
        parts.append(f"<g><title>{escape(name)}</title>{_rect(x, y - 10, 12, 12, color)}{_text(shown, x + 17, y)}</g>")
        x += wide
    return (y + 8 if kinds else 0.0), parts


def _text(text: str, x: float, y: float, anchor: str = "start", color: str = BLACK) -> str:
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{where} fill="{color}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{color}" stroke-width="{width}"/>'


def _points(pairs: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _ink(color: str) -> str:
    """White or black, whichever reads better on a color."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#FFFFFF" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#222222"
