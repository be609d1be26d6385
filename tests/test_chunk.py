"""Chunking: what is accepted, what is rejected and how that is said, and what a second run does."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.helpers import SHARED, command, environ, needs_shared, query, rolloutops, sums, write_jsonl


def chunk(folder: Path, *flags: str, code: int = 0) -> str:
    """Chunk a folder's tasks.jsonl into w; what it said."""
    return rolloutops("chunk", "--input=tasks.jsonl", "--data=w", "--dataset=d", *flags, cwd=folder, code=code).stderr


def counts(said: str) -> dict[str, int]:
    """The counts of the first dataset in what chunk said."""
    head, _, row = said.splitlines()[:3]
    return dict(zip(head.split()[1:], (int(text.replace(",", "")) for text in row.split()[1:]), strict=True))


BAD_LINES = {
    b"{broken": "not JSON",
    b"[1, 2]": "not a JSON object",
    b'"text"': "not a JSON object",
    b'{"prompt": "caf\xe9"}': "UTF-8",
    b'{"prompt": NaN}': "NaN",
    b'{"prompt": "a", "prompt": "b"}': "twice",
    b'{"prompt": "\\ud800"}': "surrogate",
    b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}": "deep",
    b'{"no": "prompt"}': "prompt",
}


def test_bad_lines_are_named_and_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    big = b'  {"prompt" : "two", "big": 12345678901234567890123, "f": 1.0}'
    good = [b'{"prompt": "one"}', big, b'{"prompt":"\\u00e9"}']
    lines = [b"\xef\xbb\xbf" + good[0] + b"\r", b"", *BAD_LINES, *good[1:]]
    (tmp_path / "tasks.jsonl").write_bytes(b"\n".join(lines))
    said = chunk(tmp_path, code=2)
    assert counts(said) | {"read": 12, "new": 3, "rejected": 9} == counts(said)
    assert "w/rejected/d.jsonl" in said
    assert "--skip_bad_lines" in said
    rejected = [json.loads(line) for line in (tmp_path / "w/rejected/d.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rejected] == list(range(3, 12))
    for row, reason in zip(rejected, BAD_LINES.values(), strict=True):
        assert reason in row["reason"], row
    rows = query(tmp_path / "w", "SELECT line, row::VARCHAR FROM tasks ORDER BY line")
    assert [(line, text.encode()) for line, text in rows] == [(1, good[0]), (12, good[1]), (13, good[2])]
    again = chunk(tmp_path, "--skip_bad_lines")
    assert counts(again) | {"new": 0, "unchanged": 3, "rejected": 9} == counts(again)


def test_the_same_rows_in_every_format_are_the_same_tasks(tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in sums(50)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    frame = pl.DataFrame(rows)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(text)
    (tmp_path / "in/b.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "in/c.jsonl.zst").write_bytes(zstandard.compress(text))
    frame.write_parquet(tmp_path / "in/d.parquet")
    frame.write_csv(tmp_path / "in/e.csv")
    frame.write_ipc(tmp_path / "in/f.arrow")
    said = rolloutops("chunk", "--input=in", "--data=w", "--dataset=d", cwd=tmp_path).stderr
    assert counts(said) | {"read": 300, "new": 50, "duplicates": 250} == counts(said)


def test_two_rows_under_one_id_are_an_error_that_names_both_lines(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", [{"n": 7, "prompt": "a"}, {"n": 8, "prompt": "b"}, {"n": 7, "prompt": "c"}])
    said = chunk(tmp_path, "--id=n", code=2)
    assert "tasks.jsonl:1 and tasks.jsonl:3" in said
    assert query_or_none(tmp_path / "w") == 0


def query_or_none(data: Path) -> int:
    return len(list((data / "tasks").rglob("*.parquet")))


def test_edits_removals_and_returns_are_told_and_order_changes_nothing(tmp_path: Path) -> None:
    rows = [{"n": i, "prompt": f"task {i}"} for i in range(10)]
    path = write_jsonl(tmp_path / "tasks.jsonl", rows)
    assert counts(chunk(tmp_path, "--id=n"))["new"] == 10
    parts = query_or_none(tmp_path / "w")
    write_jsonl(path, reversed(rows))
    assert counts(chunk(tmp_path, "--id=n"))["unchanged"] == 10
    assert query_or_none(tmp_path / "w") == parts, "nothing is written where nothing is new"
    write_jsonl(path, [{"n": 0, "prompt": "edited"}, *rows[2:], {"n": 99, "prompt": "new"}])
    said = counts(chunk(tmp_path, "--id=n"))
    assert said | {"new": 1, "edited": 1, "removed": 1, "unchanged": 8} == said
    assert query(tmp_path / "w", "SELECT count(*), min(version), max(version) FROM tasks") == [(10, 0, 1)]
    write_jsonl(path, rows)
    said = counts(chunk(tmp_path, "--id=n"))
    assert said | {"edited": 1, "returned": 1, "removed": 1, "unchanged": 8} == said
    same = dict(query(tmp_path / "w", "SELECT task_id, prompt->>'$[0].content' FROM tasks"))
    assert same == {str(row["n"]): row["prompt"] for row in rows}


def test_a_100_mb_line_is_a_task_like_any_other(tmp_path: Path) -> None:
    long = {"prompt": "x" * 100_000_000}
    write_jsonl(tmp_path / "tasks.jsonl", [long, {"prompt": "short"}])
    assert counts(chunk(tmp_path))["new"] == 2
    assert query(tmp_path / "w", "SELECT max(length(row::VARCHAR)) FROM tasks") == [(len(json.dumps(long)),)]


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    def peak(tasks: int) -> int:
        folder = tmp_path / str(tasks)
        write_jsonl(folder / "tasks.jsonl", ({"prompt": f"{i} " + "word " * 200} for i in range(tasks)))
        program = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        words = command("chunk", "--input=tasks.jsonl", "--data=w")
        argv = [sys.executable, "-c", program, *words]
        return int(subprocess.run(argv, cwd=folder, env=environ(), capture_output=True, text=True, check=True).stdout)

    small, large = peak(10_000), peak(100_000)
    assert large < small * 1.3, f"{small} KB for 10 MB of input, {large} KB for 100 MB"


def test_parts_have_as_many_rows_as_asked(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(25))
    chunk(tmp_path, "--rows_per_part=10")
    files = sorted((tmp_path / "w/tasks/d").glob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in files] == [10, 10, 5]


@needs_shared
def test_every_task_file_of_nemo_gym_goes_through_byte_for_byte(tmp_path: Path) -> None:
    files = sorted((SHARED / "data" / "gym").rglob("*.jsonl"))
    tables = "".join(f'[datasets.d{i}]\ninput = "{path}"\nneeds_prompt = false\n' for i, path in enumerate(files))
    (tmp_path / "gym.toml").write_text('data = "w"\n' + tables + "[chunk]\nskip_bad_lines = true\n")
    placeholders = {i for i, path in enumerate(files) if path.read_bytes().startswith(b"<PLACEHOLDER")}
    assert placeholders, "some files hold no task at all"
    done = rolloutops("chunk", "gym.toml", cwd=tmp_path, code=2)
    assert "none of" in done.stderr
    assert "<PLACEHOLDER" not in done.stderr or "not JSON" in done.stderr
    kept = [(i, path) for i, path in enumerate(files) if i not in placeholders]
    tables = "".join(f'[datasets.d{i}]\ninput = "{path}"\nneeds_prompt = false\n' for i, path in kept)
    (tmp_path / "gym.toml").write_text('data = "w"\n' + tables + "[chunk]\nskip_bad_lines = true\n")
    rolloutops("chunk", "gym.toml", cwd=tmp_path)
    rows = query(tmp_path / "w", "SELECT dataset, line, row::VARCHAR FROM tasks")
    lines = {i: path.read_bytes().split(b"\n") for i, path in kept}
    for dataset, line, row in rows:
        assert lines[int(dataset[1:])][line - 1].rstrip(b"\r") == row.encode()
    distinct = [{line.rstrip(b"\r") for line in some if line.strip().startswith(b"{")} for some in lines.values()]
    assert len(rows) == sum(map(len, distinct))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input=no.jsonl"], "no.jsonl"),
        (["--input=empty.jsonl"], "empty.jsonl is empty"),
        (["--input=folder"], "folder"),
        (["--input=*.nothing"], "*.nothing"),
        (["--input=tasks.xlsx"], "tasks.xlsx"),
        (["--input=torn.jsonl.gz"], "torn.jsonl.gz"),
        (["--input=fake.parquet"], "fake.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "tasks.xlsx").write_bytes(b"PK")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 1000)[:40])
    (tmp_path / "fake.parquet").write_bytes(b"not parquet at all")
    done = rolloutops("chunk", *words, "--data=w", cwd=tmp_path, code=2)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_an_input_that_is_as_it_was_is_not_parsed_again(tmp_path: Path) -> None:
    rows = [{"prompt": f"task {i % 50}"} for i in range(60)]
    path = write_jsonl(tmp_path / "tasks.jsonl", rows)
    first = chunk(tmp_path)
    assert "read as text in prompt" in first
    again = chunk(tmp_path)
    assert "read as" not in again, "no row was read"
    assert counts(again) == counts(first) | {"new": 0, "unchanged": 50}
    for change, expected in [
        (rows[:49], {"read": 49, "removed": 1, "unchanged": 49}),
        (rows[:49], {"read": 49, "removed": 0, "unchanged": 49}),
        ([*rows[:49], {"prompt": "more"}], {"read": 50, "new": 1, "unchanged": 49}),
        ([{"prompt": "task 0", "answer": "0"}, *rows[1:49]], {"new": 1, "removed": 2}),
    ]:
        write_jsonl(path, change)
        said = counts(chunk(tmp_path))
        assert said | expected == said
    with path.open("a") as file:
        file.write("{broken\n")
    for _ in range(2):
        assert "1 line rejected" in chunk(tmp_path, code=2), "as long as it is there"


def test_what_an_unchanged_row_may_have_changed_is_looked_at(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n one")
    write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": "What is it?", "images": ["p.png"]}])
    for content, expected in [(b" one", {"new": 1}), (b" one", {"unchanged": 1}), (b" two", {"new": 1, "removed": 1})]:
        picture.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        said = counts(chunk(tmp_path))
        assert said | expected == said
    write_jsonl(tmp_path / "turns.jsonl", [{"messages": [{"role": r, "content": "x"} for r in ("user", "assistant")]}])
    words = ["chunk", "--input=turns.jsonl", "--data=v"]
    first, again = (rolloutops(*words, cwd=tmp_path).stderr for _ in range(2))
    assert "last_turn" in first
    assert "last_turn" in again, "a warning is given until the input is corrected"
    assert "edited" in again
    assert "new" in again
