"""Inputs that are whole JSON documents or tables with tabs: every form of them, through the command line."""

from __future__ import annotations

import csv
import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rolloutops.errors import InputError
from rolloutops.ingest.inputs import open_rows
from rolloutops.ingest.json_documents import document_rows
from tests.helpers import query, read_jsonl, rolloutops, sums, write_jsonl

ROWS = [
    {"n": 1, "prompt": 'a "quoted" \\ line\nand another', "meta": {"list": [1, [2, "}]"]]}},
    {"n": 2, "prompt": "é"},
]

DOCUMENTS: dict[str, Any] = {
    "minified list": json.dumps(ROWS, separators=(",", ":")),
    "list with each row on a line": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "pretty list": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "byte order mark": "\ufeff" + json.dumps(ROWS, indent="\t"),
    "pandas, orient=table": json.dumps({"schema": {"fields": [{"name": "n"}]}, "data": ROWS}),
    "BIG-bench": json.dumps({"name": "x", "keywords": ["a"], "examples": ROWS, "metrics": ["m"]}, indent=4),
    "Natural Instructions": json.dumps({"Positive Examples": [{"input": "x"}], "Instances": ROWS, "Reasoning": []}),
    "a list under a name of its own": json.dumps({"license": None, "exam_items": ROWS}),
    "JSON lines under another name": "".join(json.dumps(row) + "\r\n" for row in ROWS),
    "two lists": json.dumps(ROWS[:1]) + "\n" + json.dumps(ROWS[1:]),
}


@pytest.mark.parametrize("form", DOCUMENTS)
def test_each_form_of_a_document_gives_its_rows(tmp_path: Path, form: str) -> None:
    (tmp_path / "in.json").write_text(DOCUMENTS[form], encoding="utf-8")
    (tmp_path / "in.json.gz").write_bytes(gzip.compress(DOCUMENTS[form].encode()))
    (tmp_path / "in.json.zst").write_bytes(zstandard.compress(DOCUMENTS[form].encode()))
    for name in ("in.json", "in.json.gz", "in.json.zst"):
        assert [row.value for row in open_rows(tmp_path / name)] == ROWS
    rolloutops("chunk", "--input=in.json*", "--data=w", "--dataset=d", "--id=n", cwd=tmp_path)
    assert [json.loads(row) for (row,) in query(tmp_path / "w", "SELECT row::VARCHAR FROM tasks ORDER BY ALL")] == ROWS


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hi"}], "info": {}},
        {"prompt": "hi", "examples": [{"x": 1}]},
        {"question": "hi", "documents": [{"id": 1}], "data": [{"id": 2}]},
        {"prompt": "hi"},
    ],
)
def test_one_object_is_one_row(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "in.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
    rolloutops("chunk", "--input=in.json", "--data=w", "--dataset=d", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*) FROM tasks") == [(1,)]


def test_a_split_beside_the_rows_is_no_silent_loss(tmp_path: Path) -> None:
    document = {"version": 1, "Test": [{"question": "c"}], "examples": [{"question": "a"}, {"question": "b"}]}
    (tmp_path / "in.json").write_text(json.dumps(document))
    said = rolloutops("chunk", "--input=in.json", "--data=w", cwd=tmp_path, code=2).stderr
    assert "in.json:1: the rows are read from the list 'examples', and not from 'Test'" in said
    assert query(tmp_path / "w", "SELECT count(*) FROM tasks") == [(2,)]


def test_rows_that_cannot_be_used_are_named_by_the_line_on_which_they_begin(tmp_path: Path) -> None:
    text = (
        '[\n  {"prompt": "good"},\n  {\n    "prompt": 1e999\n  },\n  "text",\n  {"a": 1,\n   "a": 2},\n  {\n"b": 1}\n]'
    )
    (tmp_path / "in.json").write_text(text, encoding="utf-8")
    rolloutops("chunk", "--input=in.json", "--data=w", "--dataset=d", cwd=tmp_path, code=2)
    found = {row["line"]: row["reason"] for row in read_jsonl(tmp_path / "w/rejected/d.jsonl")}
    assert found[6] == "a JSON string, not a JSON object"
    assert found[7] == 'the key "a" is given twice (line 8, column 8)'
    assert list(found) == [3, 6, 7, 9]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[{"prompt": "a"},\n{"prompt": "b',
            "in.json ends in the middle of its JSON (line 2): copy or generate it again",
        ),
        ('[{"prompt": "a"}\n{"prompt": "b"}]', "in.json, line 2: not JSON: '{' where ']' was expected"),
        ('[{"prompt": "a"},]', "in.json, line 1: not JSON: ']' where a value was expected"),
        ('{"prompt": "a", b: 1}', "in.json, line 1: not JSON: 'b' where a key was expected"),
        ("[\n]", "in.json"),
    ],
)
def test_a_document_that_cannot_be_split_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "in.json").write_text(text, encoding="utf-8")
    assert says in rolloutops("chunk", "--input=in.json", "--data=w", "--dataset=d", cwd=tmp_path, code=2).stderr
    assert not list((tmp_path / "w" / "tasks").rglob("*.parquet"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text('"\\{}[],: \nab'), some, max_size=3),
)


@given(st.lists(JSON, max_size=4), st.sampled_from([None, 0, 2]), st.booleans(), st.sampled_from([1, 2, 3, 7, 1000]))
def test_elements_come_back_wherever_blocks_end(values: list[Any], indent: int | None, ascii: bool, size: int) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii).encode()
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    found = list(document_rows(Path("x.json"), lambda: iter(blocks)))
    assert [json.loads(raw) for _, raw, _ in found] == values
    assert all(b"\n" not in raw and reason is None for _, raw, reason in found)


@pytest.mark.parametrize("wrapped", [False, True])
def test_memory_does_not_grow_with_the_document(tmp_path: Path, wrapped: bool) -> None:
    def peak(count: int) -> int:
        rows = [{"id": number, "prompt": random.Random(number).randbytes(400).hex()} for number in range(count)]
        path = tmp_path / f"{count}.json.gz"
        path.write_bytes(gzip.compress(json.dumps({"data": rows} if wrapped else rows).encode(), 1))
        del rows
        tracemalloc.start()
        assert sum(1 for _ in open_rows(path)) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12_000) < 1.3 * peak(3_000) + 500_000


def test_json_in_a_folder_counts_where_it_lies_alone(tmp_path: Path) -> None:
    for folder in ("alone", "beside"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(json.dumps(sums(3)), encoding="utf-8")
    write_jsonl(tmp_path / "beside" / "a.jsonl", sums(2, seed=1))
    for folder, tasks in (("alone", 3), ("beside", 2)):
        rolloutops("chunk", f"--input={folder}", f"--data={folder}-w", "--dataset=d", cwd=tmp_path)
        assert query(tmp_path / f"{folder}-w", "SELECT count(*) FROM tasks") == [(tasks,)]


def test_training_files_of_llama_factory_are_linted_and_rollouts_imported(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "4"}]} for n in range(5)
    ]
    rows.append({"messages": [{"role": "user", "content": "no answer"}]})
    (tmp_path / "sft.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    said = rolloutops("lint", "sft.json", "--target=sft_messages", cwd=tmp_path, code=2).stdout
    line = (tmp_path / "sft.json").read_text().split("no answer")[0].count("\n") - 3
    assert f"sft.json:{line}" in said, said
    (tmp_path / "sft.json").write_text(json.dumps(rows[:5]), encoding="utf-8")
    rolloutops("import", "sft.json", "--data=w", "--dataset=d", "--policy=p", cwd=tmp_path)
    assert query(tmp_path / "w", "SELECT count(*), count(DISTINCT task_id) FROM attempts") == [(5, 5)]


CELLS = ["plain", 'say "no"', '"quoted"', '"begun', "tab\there", "two\nlines", "two\r\nlines", "é", '5"', ""]


@given(st.lists(st.tuples(*[st.sampled_from(CELLS)] * 3), min_size=1, max_size=5), st.booleans())
def test_tsv_with_quotes_comes_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], all_quoted: bool
) -> None:
    path = tmp_path_factory.mktemp("tsv") / "x.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
        csv.writer(file, delimiter="\t", quoting=quoting, lineterminator="\n").writerows([("a", "b", "c"), *rows])
    found = [row.value for row in open_rows(path)]
    assert found == [{key: cell for key, cell in zip("abc", row, strict=True) if cell} for row in rows]


def test_tsv_without_quoting_keeps_its_quotes(tmp_path: Path) -> None:
    text = 'prompt\tanswer\r\n"Go," he said\t1\r\nA 5" pipe\t2\r\n"Never closed\t3\r\n\r\nonly one\r\nlast\t"4'
    (tmp_path / "in.tsv.gz").write_bytes(gzip.compress(text.encode()))
    rolloutops("chunk", "--input=in.tsv.gz", "--data=w", "--dataset=d", cwd=tmp_path, code=2)
    assert query(tmp_path / "w", "SELECT line, prompt->>'$[0].content', answer FROM tasks ORDER BY line") == [
        (2, '"Go," he said', "1"),
        (3, 'A 5" pipe', "2"),
        (4, '"Never closed', "3"),
        (7, "last", '"4'),
    ]
    (rejected,) = read_jsonl(tmp_path / "w/rejected/d.jsonl")
    assert (rejected["line"], rejected["reason"]) == (6, "1 cells, but the header names 2 columns")


def test_a_tsv_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tb\ta\n1\t2\t3\n", encoding="utf-8")
    with pytest.raises(InputError, match="two columns have the name 'a'; rename one"):
        list(open_rows(tmp_path / "x.tsv"))
