"""What "done" means: exit codes, what is verified, what is taken in from the input, and what a command may replace."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from rolloutops.config.recipe_file import load
from rolloutops.errors import InputError
from rolloutops.ingest import line_hashes
from rolloutops.ingest.inputs import open_rows
from rolloutops.ingest.line_hashes import hash_lines
from rolloutops.store.sql import connect as connect_sql
from rolloutops.store.sql import run as run_sql
from rolloutops.store.workspace import open_workspace, try_lock
from tests.helpers import command, environ, query, read_jsonl, rolloutops, sums, write_jsonl

RECIPE = """
data = "w"
[datasets.small]
input = "small.jsonl"
environment = "exact_match"
[datasets.large]
input = "large.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
retry_seconds = 0
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two datasets, of 10 tasks and of 300."""
    write_jsonl(tmp_path / "small.jsonl", sums(10))
    write_jsonl(tmp_path / "large.jsonl", sums(300, seed=1))
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


# Exit codes


def test_too_much_of_one_dataset_is_not_hidden_by_the_others(folder: Path) -> None:
    (folder / "own.py").write_text(
        "class Environment:\n"
        "    tools = [{'type': 'function', 'function': {'name': 'look', 'parameters': {'type': 'object'}}}]\n"
        "    def begin(self, task):\n"
        "        if 'bad' in task.row: raise RuntimeError('the search index is down')\n"
        "    def call(self, name, arguments, state): return 'nothing'\n"
        "    def verify(self, task, rollout): return 1.0\n"
        "def make(): return Environment()\n"
    )
    write_jsonl(folder / "small.jsonl", [{**row, "bad": 1} if row["n"] < 2 else row for row in sums(10)])
    recipe = RECIPE.replace('"small.jsonl"\nenvironment = "exact_match"', '"small.jsonl"\nenvironment = "own.py"')
    (folder / "r.toml").write_text(recipe)
    done = rolloutops("run", "r.toml", cwd=folder, code=4)
    assert "small by scripted: 2 of 10 rollouts given up, more than max_given_up = 0.05 allows" in done.stderr
    assert "2 environment_error, e.g. " in done.stderr
    assert "the search index is down" in done.stderr
    assert "--retry=environment_error" in done.stderr
    assert "--max_given_up=0.2" in done.stderr
    assert "nothing was built" in done.stderr
    assert not (folder / "w/exports").exists()
    again = rolloutops("collect", "r.toml", cwd=folder, code=4)
    assert "2 environment_error" in again.stderr, "a second look says the same"
    rolloutops("collect", "r.toml", "--dataset=large", cwd=folder)
    rolloutops("run", "r.toml", "--max_given_up=0.2", cwd=folder)
    assert (folder / "w/exports/sft/train.jsonl").exists()


def test_pending_work_comes_before_what_is_given_up(folder: Path) -> None:
    done = rolloutops("run", "r.toml", "--max_tokens_total=100", cwd=folder, code=2)
    assert "rollouts are pending: nothing was built" in done.stderr
    code = rolloutops("collect", "r.toml", "--engine_args.faults=bad_request:0.3", cwd=folder, code=4)
    assert "bad_request" in code.stderr


def test_the_documented_loop_ends_when_nothing_is_pending(folder: Path) -> None:
    loop = 'n=0; while "$@"; [ $? -eq 3 ]; do n=$((n+1)); [ $n -lt 9 ] || exit 9; done'
    words = command("collect", "r.toml", "--engine_args.faults=bad_request:0.5")
    done = subprocess.run(["sh", "-c", loop, "sh", *words], cwd=folder, env=environ(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert query(folder / "w", "SELECT count(*) FROM pending") == [(0,)]


# Verification


def test_imported_rollouts_are_verified_without_an_engine_and_without_a_recipe(tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": str(i)}], "answer": "3"}
        for i in range(10)
    ]
    write_jsonl(tmp_path / "chats.jsonl", chats)
    said = rolloutops("import", "chats.jsonl", "--data=w", "--dataset=chats", cwd=tmp_path).stderr
    assert f"new workspace: {tmp_path / 'w'}" in said
    said = rolloutops("verify", "--data=w", cwd=tmp_path, code=2).stderr
    assert "chats: 10 rollouts unverified because no environment is set" in said
    assert "Nothing to verify" not in said
    done = rolloutops("verify", "--data=w", "--environment=exact_match", cwd=tmp_path)
    assert "10 rollouts verified" in done.stderr
    assert json.loads(done.stdout)["reward"] == 0.1
    done = rolloutops("verify", "--data=w", cwd=tmp_path)
    assert "Nothing to verify: all 10 rollouts have a verdict" in done.stderr
    (tmp_path / "r.toml").write_text('data = "w"\n[datasets.chats]\nenvironment = "math"\n')
    assert "10 rollouts verified" in rolloutops("verify", "r.toml", cwd=tmp_path).stderr
    counted = "SELECT verifier, count(*) FROM rollouts GROUP BY ALL"
    assert query(tmp_path / "w", counted, load(str(tmp_path / "r.toml"))) == [("math", 10)]
    rolloutops("collect", "r.toml", cwd=tmp_path, code=2)


# What is new in the input


def as_gzip(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\r\n" for row in rows).encode()))


WRITERS: dict[str, Callable[[Path, list[dict[str, object]]], object]] = {
    "in.jsonl": write_jsonl,
    "in.jsonl.gz": as_gzip,
    "in.csv": lambda path, rows: pl.DataFrame(rows).write_csv(path),
    "in.tsv": lambda path, rows: pl.DataFrame(rows).write_csv(path, separator="\t"),
    "in.json": lambda path, rows: path.write_text(json.dumps({"version": 2, "data": rows})),
    "in.parquet": lambda path, rows: pl.DataFrame(rows).write_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_new_and_edited_lines_are_taken_in_and_nothing_is_retired(tmp_path: Path, name: str) -> None:
    words = ("collect", f"--input={name}", "--data=w", "--dataset=d", "--id=n", "--engine=scripted")
    rows = sums(40)
    WRITERS[name](tmp_path / name, rows)
    rolloutops(*words, cwd=tmp_path)
    runs = query(tmp_path / "w", "SELECT count(*) FROM runs WHERE command = 'chunk'")
    said = rolloutops(*words, cwd=tmp_path).stderr
    assert said == "nothing to collect: all 40 rollouts are done\n"
    assert query(tmp_path / "w", "SELECT count(*) FROM runs WHERE command = 'chunk'") == runs
    edited = [{**rows[3], "prompt": "What is 1 + 1?"}, *reversed(rows[4:]), {**rows[0], "n": 99}]
    WRITERS[name](tmp_path / name, edited)
    said = rolloutops(*words, cwd=tmp_path).stderr
    assert "d: tasks updated from the input: 1 new, 1 edited\n" in said
    assert "d: 3 tasks no longer in the input but still wanted; run chunk to remove them" in said
    assert "2 rollouts collected; of 41 wanted" in said
    rolloutops("chunk", *words[1:-1], cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*) FROM tasks") == [(38,)]
    WRITERS[name](tmp_path / name, [*edited, rows[0]])
    assert "1 returned" in rolloutops(*words, cwd=tmp_path).stderr


def test_lines_that_only_look_otherwise_are_not_new_and_rejected_ones_are_told(tmp_path: Path) -> None:
    rows = sums(20)
    path = write_jsonl(tmp_path / "in.jsonl", rows)
    words = ("collect", "--input=in.jsonl", "--data=w", "--engine=scripted")
    rolloutops(*words, "--limit=5", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*) FROM tasks") == [(20,)]
    text = "".join(f"  {json.dumps(dict(reversed(row.items())))}\t\n \t \n" for row in rows)
    path.write_text("\ufeff" + text)
    said = rolloutops(*words, "--limit=5", cwd=tmp_path).stderr
    assert said == "nothing to collect: all 5 rollouts are done\n"
    path.write_text(text + "{broken\n")
    said = rolloutops(*words, cwd=tmp_path, code=2).stderr
    assert "in: 1 line rejected, listed in w/rejected/in.jsonl" in said
    assert "20 rollouts" in rolloutops(*words, "--skip_bad_lines", cwd=tmp_path).stderr


def test_a_new_line_with_the_id_of_another_one_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", sums(5))
    words = ("collect", "--input=in.jsonl", "--data=w", "--id=n", "--engine=scripted")
    rolloutops(*words, cwd=tmp_path)
    with path.open("a") as file:
        file.write('{"n": 2, "prompt": "another"}\n')
    said = rolloutops(*words, cwd=tmp_path, code=2).stderr
    assert "two different rows have the id '2': in.jsonl:3 and in.jsonl:6" in said
    assert query(tmp_path / "w", "SELECT count(*) FROM task_log") == [(5,)]


def test_an_input_that_is_elsewhere_ends_nothing_where_its_tasks_are(folder: Path) -> None:
    rolloutops("chunk", "r.toml", cwd=folder)
    (folder / "large.jsonl").rename(folder / "elsewhere")
    said = rolloutops("collect", "r.toml", cwd=folder).stderr
    assert "large: input not found (large.jsonl); continuing with the tasks of the workspace" in said
    assert "310 rollouts collected" in said
    said = rolloutops("collect", "r.toml", "--data=other", cwd=folder, code=2).stderr
    assert "no such file" in said
    assert not (folder / "other").exists()


@pytest.mark.parametrize("change", ["append", "replace"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", sums(10))

    def act() -> None:
        if change == "append":
            with path.open("a") as file:
                file.write("{}\n")
        else:
            write_jsonl(tmp_path / "new", sums(10)).replace(path)

    rows = open_rows(path)
    next(rows)
    act()
    with pytest.raises(InputError, match="changed while it was read"):
        list(rows)
    con = connect_sql()
    run_sql(con, "CREATE TABLE lines (file INTEGER, line BIGINT, hash UBIGINT)")
    monkeypatch.setattr(line_hashes, "blocks_of", lambda path: (act(), path.read_bytes())[1:])
    with pytest.raises(InputError, match="changed while it was read"):
        hash_lines(con, 0, path)


# Commands that start together


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        ("small.chunk", ("chunk", "r.toml")),
        ("large.chunk", ("collect", "r.toml", "--engine_args.correct=1")),
        ("verify", ("verify", "r.toml")),
        ("build", ("build", "r.toml")),
    ],
)
def test_a_command_waits_for_one_that_does_the_same(folder: Path, lock: str, words: tuple[str, ...]) -> None:
    rolloutops("collect", "r.toml", "--engine_args.correct=1", cwd=folder)
    with try_lock(open_workspace(folder / "w"), lock) as free:
        assert free
        waiting = subprocess.Popen(command(*words), cwd=folder, env=environ(), stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        assert "waiting: another command" in waiting.stderr.readline()
        assert waiting.poll() is None
    assert waiting.wait(120) == 0, waiting.stderr.read()


def test_two_verifications_at_once_judge_nothing_twice(folder: Path) -> None:
    rolloutops("collect", "r.toml", "--verify=later", cwd=folder)
    both = [
        subprocess.Popen(command("verify", "r.toml"), cwd=folder, env=environ(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=300)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert query(folder / "w", "SELECT count(*), count(DISTINCT attempt_id) FROM verdicts") == [(310, 310)]


# What was asked for, and what may be replaced


def test_output_and_averages_are_of_what_was_asked_for(folder: Path) -> None:
    rolloutops("collect", "r.toml", "--num_repeats=2", "--engine_args.correct=0", cwd=folder)
    words = ("collect", "r.toml", "--dataset=large", "--policy=b", "--limit=7", "--engine_args.correct=1")
    done = rolloutops(*words, "--output=out.jsonl", cwd=folder)
    assert json.loads(done.stdout)["reward"] == 1.0
    rows = read_jsonl(folder / "out.jsonl")
    assert [row["n"] for row in rows] == list(range(7))
    assert {row["reward"] for row in rows} == {1.0}


@pytest.mark.parametrize(
    "words",
    [
        ("collect", "r.toml", "--output=s3://bucket/out.jsonl"),
        ("collect", "r.toml", "--tune=http://host/curve.svg"),
        ("export", "r.toml", "--output=hf://datasets/me/out.jsonl"),
        ("sql", "SELECT 1", "--data=w", "--output=gs://bucket/x.parquet"),
        ("metrics", "r.toml", "--report=file:///tmp/x.html"),
        ("run", "url.toml"),
        ("run", "url.toml", "--dry_run"),
        ("build", "r.toml", "--build.sft.output=hf://datasets/me/sft"),
        ("init", "demo", "--into=s3://bucket/demo"),
    ],
)
def test_what_is_written_to_a_url_is_refused_before_the_work(folder: Path, words: tuple[str, ...]) -> None:
    (folder / "url.toml").write_text(RECIPE + 'output = "s3://bucket/sft"\n')
    if words[0] in ("sql", "build"):
        rolloutops("chunk", "r.toml", cwd=folder)
    before = set(folder.iterdir())
    assert "is a URL" in rolloutops(*words, cwd=folder, code=2).stderr
    assert set(folder.iterdir()) == before


def test_a_build_of_another_recipe_is_replaced_on_purpose_only(folder: Path) -> None:
    rolloutops("run", "r.toml", cwd=folder)
    (folder / "r.toml").write_text(RECIPE + "min_reward = 0.0\n")
    rolloutops("build", "r.toml", cwd=folder)
    rolloutops("build", "--data=w", cwd=folder)
    (folder / "other.toml").write_text(RECIPE + "min_reward = 1.0\n")
    before = (folder / "w/exports/sft/train.jsonl").read_bytes()
    for words in (("build", "other.toml"), ("run", "other.toml", "--num_repeats=3")):
        said = rolloutops(*words, cwd=folder, code=2).stderr
        assert f"was built by another recipe, {folder / 'r.toml'}: replace it with --replace" in said
    assert query(folder / "w", "SELECT count(*) FROM rollouts") == [(310,)], "nothing was spent"
    assert (folder / "w/exports/sft/train.jsonl").read_bytes() == before
    rolloutops("build", "other.toml", "--replace", cwd=folder)
    assert (folder / "w/exports/sft/train.jsonl").read_bytes() != before


def test_a_new_workspace_is_announced_and_never_made_in_place_of_the_recipes_own(folder: Path) -> None:
    assert f"new workspace: {folder / 'w'}" in rolloutops("collect", "r.toml", "--limit=1", cwd=folder).stderr
    assert "new workspace" not in rolloutops("collect", "r.toml", "--limit=1", cwd=folder).stderr
    (folder / "sub").mkdir()
    for name in ("chunk", "collect", "run", "status"):
        said = rolloutops(name, "../r.toml", cwd=folder / "sub", code=2).stderr
        assert str(folder / "w") in said
        assert str(folder / "sub/w") in said
    assert not (folder / "sub/w").exists()
    rolloutops("status", "../r.toml", "--data=../w", cwd=folder / "sub")
    rolloutops("chunk", "../r.toml", f"--data={folder / 'sub/w'}", cwd=folder / "sub")
