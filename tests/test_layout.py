"""Tables, sentences and the progress line fit the terminal, and nothing of them is lost."""

from __future__ import annotations

import asyncio
import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolloutops import layout
from rolloutops.cli import tables
from rolloutops.limits.progress import Progress, report

WORDS = st.text(alphabet="ab/_-. 漢é\u0301👍", max_size=90).map(
    lambda said: " ".join(re.sub(r"(^| )\u0301+", " ", said).split())
)
TABLES = st.integers(1, 7).flatmap(
    lambda wide: st.tuples(
        st.lists(st.text(alphabet="ab_", min_size=1, max_size=14), min_size=wide, max_size=wide),
        st.lists(
            st.lists(st.one_of(WORDS, st.integers(0, 10**9), st.none()), min_size=wide, max_size=wide),
            min_size=1,
            max_size=4,
        ),
    )
)


def letters(said: str) -> str:
    """A text without spaces."""
    return re.sub(r"\s", "", said)


@given(TABLES, st.integers(40, 160))
def test_a_table_fits_and_shows_every_value_whole(made: tuple[list[str], list[list[object]]], columns: int) -> None:
    names, rows = made
    cells = [[tables.cell(value) for value in row] for row in rows]
    right = [all(isinstance(row[i], int | None) for row in rows) for i in range(len(names))]
    lines = layout.table(names, cells, right, columns)
    assert max(map(layout.width, lines)) <= columns
    for character in set(letters("".join(map("".join, cells)))) - set("ab_─–"):
        wanted = sum("".join(row).count(character) for row in cells)
        assert "".join(lines).count(character) == wanted, "a value is in the table once, whole"


@given(WORDS, st.integers(2, 30))
def test_wrapped_lines_fit_and_hold_all_of_the_text(said: str, columns: int) -> None:
    lines = layout.wrap(said, columns)
    assert letters("".join(lines)) == letters(said)
    assert all(layout.width(line) <= columns for line in lines)
    assert not any(line and unicodedata.combining(line[0]) for line in lines if line != said), "a mark keeps its letter"


@pytest.mark.parametrize(
    ("said", "columns"),
    [
        ("abc", 3),
        ("漢字", 4),
        ("e\u0301", 1),
        ("한국", 4),
        ("\u1112\u1161\u11ab", 2),
        ("👍", 2),
        ("a\u200bb", 2),
        ("", 0),
    ],
)
def test_width_counts_columns_and_not_characters(said: str, columns: int) -> None:
    assert layout.width(said) == columns


def test_columns_are_those_of_the_terminal_of_the_environment_or_80(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert layout.columns_of(io.StringIO()) == 80
    monkeypatch.setenv("COLUMNS", "133")
    assert layout.columns_of(io.StringIO()) == 133
    for nonsense in ("0", "-3", "wide", ""):
        monkeypatch.setenv("COLUMNS", nonsense)
        assert layout.columns_of(io.StringIO()) == 80


def test_a_narrow_table_is_aligned_by_columns_of_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = tables.table(["name", "n"], [["漢字", 1], ["e\u0301", 22]])
    assert shown == "name   n\n────  ──\n漢字   1\ne\u0301     22"


def test_advice_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "make verify a coroutine (its calls then overlap), or collect --verify=later " * 9
    for columns in ("30", "80", "2000"):
        monkeypatch.setenv("COLUMNS", columns)
        shown = tables.table(["run_id", "rollouts", "advice"], [["r", 1, advice.strip()]])
        assert letters(shown).count("overlap)") == 9
        assert "…" not in shown


def meter() -> Progress:
    """A run in which much fails."""
    made = Progress("rollouts", 1204, done=603, tokens=123_456, reward_sum=300.0, rewarded=600)
    made.failures.update({"timeout": 75, "server_error": 30, "rate_limited": 12, "unreachable": 3, "bad_request": 1})
    made.unrewarded.update({"verifier_error": 3})
    made.notes = [lambda: "cost 12.34 of 20.00, about 23.00 in the end", lambda: "", lambda: "12 wait for a process"]
    made.began -= 60
    return made


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 120, 400])
def test_the_progress_line_fits_whatever_fails(columns: int) -> None:
    line = meter().line(columns)
    assert layout.width(line) <= columns
    assert line.startswith("603/1,204 rollouts")
    lines = meter().lines(columns)
    assert all(layout.width(line) <= columns for line in lines)
    for said in ("75 timeout", "1 bad_request", "3 verifier_error", "about 23.00 in the end", "12 wait for a process"):
        assert letters(said) in letters("".join(lines)), "at the end all of it is told"


def test_what_matters_less_goes_first() -> None:
    assert "failed attempts: 121" in meter().line(79)
    assert "left" in meter().line(60)
    assert "tokens/s" not in meter().line(120)
    assert "75 timeout, 30 server_error, 12 rate_limited, 3 unreachable, 1 bad_request" in meter().line()


def test_the_line_is_written_plain_where_there_is_no_terminal_and_shown_to_others() -> None:
    shown, out, one = list[int](), io.StringIO(), meter()
    one.publish = lambda meter: shown.append(meter.done)

    async def begin_and_end() -> None:
        task = asyncio.create_task(report(one, out))
        await asyncio.sleep(0)
        assert shown == [603], "at once, and not after the first wait"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(begin_and_end())
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert all(layout.width(line) < 80 for line in lines)
