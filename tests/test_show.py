"""Conversations at the terminal: `show` by key, attempt and condition, two beside each other; `sql` for people."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import command, environ, on_a_terminal, query, rolloutops, sums, write_jsonl
from tests.viewer import collect

ESC = "\x1b"
EVIL = f"red {ESC}[31m, bell \x07, turned \u202e, hidden \u200b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of two policies, with failures; and one of imported conversations with tools."""
    folder = tmp_path_factory.mktemp("show")
    collect(folder, tasks=6)
    write_jsonl(folder / "agents.jsonl", [agent("dry", "It is dry."), agent("rain\nall day", "It rains.")])
    rolloutops("import", "agents.jsonl", "--dataset=agents", "--data=data/agents", cwd=folder)
    return folder


def agent(weather: str, answer: str) -> dict[str, object]:
    """A conversation with reasoning, a tool call, its result, and what a terminal would obey."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    return {
        "messages": [
            {"role": "system", "content": EVIL},
            {"role": "user", "content": "Rome?\n\tTell me."},
            {"role": "assistant", "content": "", "reasoning_content": "I look it up.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": weather},
            {"role": "assistant", "content": answer},
        ],
        "reward": 1.0,
    }


def show(folder: Path, *words: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `show` in the workspace of two policies."""
    return rolloutops("show", *words, "--data=data/viewed", cwd=folder, code=code, **more)


def keys(folder: Path, where: str = "true") -> list[tuple[str, str, str, int, str]]:
    """(dataset, task_id, policy, rollout_index, attempt_id) of rollouts."""
    names = "dataset, task_id, policy, rollout_index, attempt_id"
    return query(folder / "data/viewed", f"SELECT {names} FROM rollouts WHERE {where} ORDER BY ALL")


def test_a_rollout_is_shown_by_each_name_that_it_has(folder: Path) -> None:
    dataset, task, policy, index, attempt = keys(folder)[0]
    whole = show(folder, f"{dataset}/{task}/{policy}/{index}").stdout
    assert whole.startswith(f"{dataset}/{task}/{policy}/{index}\nreward ")
    for place in ("── user ─", "── assistant ─", "── expected answer ─", "── verdict: exact_match "):
        assert place in whole
    assert "finish reason stop" in whole
    assert "output tokens" in whole
    for name in (
        attempt,
        f"{task}/{policy}/{index}",
        f"{task[:12]}/{policy}/{index}",
        f"/{dataset[:2]}/{task[:12]}/{policy}/{index}",
    ):
        assert show(folder, name).stdout == whole, name


def test_an_ambiguous_key_lists_its_candidates(folder: Path) -> None:
    _, task, *_ = keys(folder)[0]
    said = show(folder, task, code=2).stderr
    assert f"{task!r} fits 6 rollouts; name one of them:\n  sums/{task}/bold/0\n" in said
    said = show(folder, "bold", code=2).stderr
    assert "'bold' fits 18 rollouts" in said
    assert said.endswith("  and 10 more\n")


def test_a_failed_attempt_is_shown_by_its_id(folder: Path) -> None:
    ((attempt, error),) = query(folder / "data/viewed", "SELECT attempt_id, error FROM failures LIMIT 1")
    shown = show(folder, attempt).stdout
    assert "── failed ─" in shown
    assert f"\n{error}: " in shown


def test_a_condition_shows_one_and_says_how_many_more(folder: Path) -> None:
    found = keys(folder, "reward = 0")
    done = show(folder, "--where=reward = 0")
    assert done.stdout.count("── user ─") == 1
    assert f"shown: 1 of {len(found)} rollouts that match; add --limit=" in done.stderr
    everything = show(folder, "--where=reward = 0", "--limit=null")
    assert [line for line in everything.stdout.splitlines() if line.startswith("sums/")] == [
        "/".join(map(str, one[:4])) for one in found
    ]
    assert "shown" not in everything.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "show needs a rollout, as in: show KEY, or show --where=CONDITION"),
        (["nosuch"], "no rollout is named 'nosuch'"),
        (["/"], "no rollout is named '/'"),
        (["--diff", "a"], "--diff needs two rollouts, as in: show --diff KEY KEY"),
        (["a", "b", "c"], "'c' is one word too many: show takes 1 key and a recipe"),
        (["a", "--limit=2"], "--limit is for --where"),
        (["--where=true", "--limit=0"], "--limit expects a whole number of 1 or more, or null, got 0"),
        (["--where=true", "--diff", "a", "b"], "--diff compares two rollouts by their keys; leave --where out"),
        (["--where=rewards = 0"], 'Referenced column "rewards" not found'),
        (["--where=reward ="], "the query failed: "),
        (["--where="], "--where takes one condition, as in: reward > 0.5 AND policy = 'careful'"),
        (["--where=true) ; SELECT (1"], "--where takes one condition, as in: reward > 0.5 AND policy = 'careful'"),
        (["--where=true) OR (true"], "--where takes one condition, as in: reward > 0.5 AND policy = 'careful'"),
        (["--where=reward > 7"], "no rollout matches --where=reward > 7"),
        (["--where=error(text)"], "the query failed: "),
    ],
)
def test_mistakes_are_sentences(folder: Path, words: list[str], sentence: str) -> None:
    done = show(folder, *words, code=2)
    assert sentence in done.stderr
    assert done.stdout == ""


def test_calls_stand_beside_their_results_and_escapes_are_shown(folder: Path) -> None:
    shown = rolloutops("show", "--where=true", "--data=data/agents", cwd=folder).stdout
    assert r"red \x1b[31m, bell \x07, turned \u202e, hidden \u200b" in shown
    assert not set(shown) & {ESC, "\x07", "\u202e", "\u200b"}
    assert '  reasoning │ I look it up.\n  → weather {"city": "Rome"}\n  ← ' in shown
    assert "Rome?\n    Tell me.\n" in shown
    assert "── tool" not in shown


def test_json_holds_messages_and_verdicts(folder: Path) -> None:
    _, task, policy, index, attempt = keys(folder)[0]
    (one,) = json.loads(show(folder, attempt, "--json").stdout)
    assert (one["task_id"], one["policy"], one["rollout_index"]) == (task, policy, index)
    assert [message["role"] for message in one["messages"]] == ["user", "assistant"]
    assert one["verdicts"][0]["details"]["extracted"]
    assert one["started_at"].startswith("20")


TERMINAL = {"COLUMNS": "60", "TERM": "xterm"}


def test_a_terminal_gets_colors_and_its_width(folder: Path) -> None:
    words = ("show", "--where=true", "--data=data/agents")
    colored = on_a_terminal(folder, *words, **TERMINAL)
    plain = on_a_terminal(folder, *words, **TERMINAL, NO_COLOR="1")
    assert re.search(rf"{ESC}\[1;34m── user ─", colored)
    assert ESC not in plain
    assert re.sub(rf"{ESC}\[[0-9;]*m", "", colored) == plain
    assert max(len(line) for line in plain.splitlines() if not line.startswith("shown: ")) == 60


def test_the_pager_gets_all_of_it(folder: Path) -> None:
    pager = folder / "pager.sh"
    pager.write_text("#!/bin/sh\nsed 's/^/paged: /'\n")
    pager.chmod(0o755)
    words = ("show", "--where=true", "--data=data/agents", "--pager")
    said = on_a_terminal(folder, *words, **TERMINAL, NO_COLOR="1", PAGER=str(pager))
    assert "paged: ── user ─" in said
    assert "paged" not in rolloutops(*words, cwd=folder, PAGER=str(pager)).stdout


@pytest.mark.parametrize("columns", ["80", "140"])
def test_a_difference_is_marked(folder: Path, columns: str) -> None:
    rows = json.loads(
        rolloutops("show", "--where=true", "--limit=null", "--json", "--data=data/agents", cwd=folder).stdout
    )
    names = [one["attempt_id"] for one in rows]
    done = rolloutops("show", "--diff", *names, "--data=data/agents", cwd=folder, COLUMNS=columns)
    assert "── first difference: turn 4, text, character 1 ─" in done.stdout
    assert done.stdout.count("── user ─") == 1, "what both say is shown once"
    assert done.stdout.count("── assistant: first difference ─") == 2, "the turn whose result differs"
    side_by_side = re.search(r"  ← (dry|rain) +│   ← (dry|rain)", done.stdout) is not None
    assert side_by_side == (columns == "140")


def test_rollouts_that_say_the_same_have_no_difference(folder: Path) -> None:
    write_jsonl(folder / "same.jsonl", [{**agent("dry", "It is dry."), "reward": reward} for reward in (0.0, 1.0)])
    rolloutops("import", "same.jsonl", "--dataset=same", "--data=data/same", cwd=folder)
    done = rolloutops("show", "--diff", "imported/0", "imported/1", "--data=data/same", cwd=folder)
    assert "── no difference: both rollouts are equal ─" in done.stdout
    assert "reward 0" in done.stdout
    assert "reward 1" in done.stdout


def test_only_rollouts_of_one_task_are_compared(folder: Path) -> None:
    one, other = keys(folder)[0], keys(folder)[-1]
    assert (
        "are of different tasks; --diff compares two of one task"
        in show(folder, "--diff", one[-1], other[-1], code=2).stderr
    )
    assert "both keys name the same rollout, sums/" in show(folder, "--diff", one[-1], one[-1], code=2).stderr


def sql(folder: Path, text: str, *words: str) -> str:
    """What `sql` prints."""
    return rolloutops("sql", text, "--data=data/agents", *words, cwd=folder).stdout


def test_sql_shows_cells_whole_line_by_line(folder: Path) -> None:
    long = "x" * 3000
    first = f"SELECT 1 AS n, 'a\n  b' AS text, '{long}' AS long, NULL AS nothing"
    query = f"{first} UNION ALL SELECT 2, '', chr(27), 'z' ORDER BY 1"
    assert sql(folder, query, "--lines") == (
        f"n: 1\ntext: a\n    b\nlong: {long}\nnothing: –\n\nn: 2\ntext: \nlong: \\x1b\nnothing: z\n"
    )
    assert sql(folder, "SELECT 1 AS n WHERE false", "--lines") == "no rows\n"


def test_json_of_sql_holds_json_columns_as_json(folder: Path) -> None:
    query = (
        """SELECT prompt, '{"a": [1, null]}'::JSON AS one, ['[2]'::JSON] AS list, """
        """{'k': '3'::JSON, 's': '4'} AS struct, """
        """MAP {'m': '"five"'::JSON} AS map, NULL::JSON AS nothing, '{"not": "json"}' AS text FROM rollouts LIMIT 1"""
    )
    (row,) = json.loads(sql(folder, query, "--json"))
    assert row.pop("prompt")[1] == {"role": "user", "content": "Rome?\n\tTell me."}
    assert row == {
        "one": {"a": [1, None]},
        "list": [[2]],
        "struct": {"k": 3, "s": "4"},
        "map": {"m": "five"},
        "nothing": None,
        "text": '{"not": "json"}',
    }


def test_a_rollout_that_is_still_in_a_journal_is_shown(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sums.jsonl", sums(200))
    words = ["collect", "--input=sums.jsonl", "--dataset=d", "--data=w", "--environment=exact_match"]
    words += ["--engine=scripted", '--engine_args={"delay": 0.5}', "--num_samples_in_parallel=2"]
    with subprocess.Popen(command(*words), cwd=tmp_path, env=environ(), stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(
            b'"completion"' in path.read_bytes() for path in (tmp_path / "w/journals").glob("*.jsonl")
        ):
            time.sleep(0.05)
        process.kill()
    assert not list((tmp_path / "w/attempts").rglob("*.parquet"))
    shown = rolloutops("show", "--where=model = 'scripted'", "--data=w", cwd=tmp_path).stdout
    assert re.search(r"── user ─+\nWhat is \d+ \+ \d+\?\n\n── assistant ─+\n.*Answer: \d+\n", shown, re.DOTALL)
