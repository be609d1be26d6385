import csv
import datetime
import decimal
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rolloutops.errors import InputError
from rolloutops.ingest import inputs
from rolloutops.ingest.csv_rows import csv_rows
from rolloutops.ingest.inputs import Row, find_inputs, open_rows

ODD_LINES = (
    b'\xef\xbb\xbf{"a": 1}\r\n'
    b"\n"
    b"  \t\r\n"
    b'{ "a" :2.50, "\xc3\xa9":"\\u00e9" }\n'
    b"<PLACEHOLDER ROW>\n"
    b"[1]\n"
    b'{"a":1,"a":2}\n'
    b'{"a": NaN}\n'
    b'{"a":"\xff"}\n'
    b"null\n" + b"[" * 300 + b'\n{"a":12345678901234567890123}'
)


def rows(path: Path) -> list[Row]:
    return list(open_rows(path))


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":  # two members and padding, as `cat a.gz b.gz` and tapes make them
        return gzip.compress(data[:40]) + gzip.compress(data[40:]) + b"\0" * 512
    if suffix == ".zst":
        return zstandard.compress(data[:40]) + zstandard.compress(data[40:])
    return data


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_lines_keep_their_bytes_and_bad_ones_their_reason(
    tmp_path: Path, suffix: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BLOCK", block)
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(packed(ODD_LINES, suffix))
    assert [(row.line, row.value) for row in rows(path) if row.value is not None] == [
        (1, {"a": 1}),
        (4, {"a": 2.5, "é": "é"}),
        (12, {"a": 12345678901234567890123}),
    ]
    assert {row.line: row.raw for row in rows(path)} == {
        1: b'{"a": 1}',
        4: b'{ "a" :2.50, "\xc3\xa9":"\\u00e9" }',
        5: b"<PLACEHOLDER ROW>",
        6: b"[1]",
        7: b'{"a":1,"a":2}',
        8: b'{"a": NaN}',
        9: b'{"a":"\xff"}',
        10: b"null",
        11: b"[" * 300,
        12: b'{"a":12345678901234567890123}',
    }
    assert {row.line: row.reason for row in rows(path) if row.reason} == {
        5: "not JSON: expected value (column 1)",
        6: "a JSON array, not a JSON object",
        7: 'the key "a" is given twice (column 12)',
        8: "NaN is not a JSON number (column 7)",
        9: "invalid UTF-8 at byte 7",
        10: "null, not a JSON object",
        11: "nested deeper than 200 levels (column 202)",
    }


@given(st.lists(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers() | st.text(), max_size=3)))
def test_split_gives_the_lines_back_wherever_blocks_end(values: list[dict[str, object]]) -> None:
    data = b"".join(json.dumps(value).encode() + b"\n" for value in values) + b"{}"
    for size in (1, 5, 1000):
        blocks = [data[start : start + size] for start in range(0, len(data), size)]
        assert list(inputs._split(blocks)) == data.splitlines(keepends=True)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_line_of_100_megabytes(tmp_path: Path, suffix: str) -> None:
    line = b'{"prompt":"' + b"x" * 100_000_000 + b'"}'
    path = tmp_path / f"x.jsonl{suffix}"
    data = line + b'\n{"prompt":"y"}\n'
    path.write_bytes(gzip.compress(data, 1) if suffix == ".gz" else zstandard.compress(data) if suffix else data)
    first, second = open_rows(path)
    assert first.raw == line
    assert first.value is not None
    assert len(first.value["prompt"]) == 100_000_000
    assert second == Row(2, b'{"prompt":"y"}', {"prompt": "y"}, None)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "parquet", "arrow"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.{kind}"
        values = [{"id": str(number), "prompt": f"{number:>8} " * 100} for number in range(count)]
        table = pa.Table.from_pylist(values)
        if kind == "parquet":
            pq.write_table(table, path, row_group_size=count, use_dictionary=False)
        elif kind == "arrow":
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=500)
        elif kind == "csv":
            path.write_text("id,prompt\n" + "".join(f"{value['id']},{value['prompt']}\n" for value in values))
        else:
            data = "".join(json.dumps(value) + "\n" for value in values).encode()
            path.write_bytes(gzip.compress(data, 1) if kind.endswith("gz") else data)
        del values, table
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        largest = 0
        for number, row in enumerate(open_rows(path)):
            assert row.value is not None
            if number % 100 == 0:
                largest = max(largest, pa.total_allocated_bytes() - before)
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert number == count - 1
        return traced + largest

    assert peak(24_000) < 1.3 * peak(6_000) + 1_000_000


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(
        b"\xef\xbb\xbfprompt,answer,note\r\n"
        b'"two\r\nlines, ""quoted""",007,\r\n'
        b"\r\n"
        b"a,b\r\n"
        b"\xff,1,2\r\n"
        b'"x"y,1,2\r\n'
        b"\xc3\xa9,NaN,true"
    )
    assert rows(path) == [
        Row(2, *as_row({"prompt": 'two\r\nlines, "quoted"', "answer": "007"})),
        Row(5, b"a,b", None, "2 cells, but the header names 3 columns"),
        Row(6, b"\xff,1,2", None, "invalid UTF-8"),
        Row(7, b'"x"y,1,2', None, "not CSV: ',' expected after '\"'"),
        Row(8, *as_row({"prompt": "é", "answer": "NaN", "note": "true"})),
    ]


def as_row(value: dict[str, object]) -> tuple[bytes, dict[str, object], None]:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), value, None


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=2), min_size=1))
def test_csv_cells_come_back_as_written(cells: list[list[str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["a", "b"], *cells])
    lines = written.getvalue().encode().splitlines(keepends=True)
    found = [json.loads(raw) for _, raw, _ in csv_rows(Path("x.csv"), enumerate(lines, 1))]
    assert found == [{name: cell for name, cell in zip("ab", row, strict=True) if cell} for row in cells]


def test_a_csv_cell_of_a_megabyte_and_a_quote_that_never_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"prompt\n" + b"x" * 1_000_000 + b'\n"open\nmore\n'))
    big, torn = rows(path)
    assert big.value == {"prompt": "x" * 1_000_000}
    assert (torn.line, torn.raw, torn.reason) == (3, b'"open\nmore', "not CSV: unexpected end of data")


TABLE = pa.table(
    {
        "text": pa.array(["é\n", None]),
        "big": pa.array([2**63 - 1, None]),
        "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
        "score": pa.array([0.1, None], pa.float32()),
        "exact": pa.array([decimal.Decimal("1234567890123456789.10"), None]),
        "meta": pa.ExtensionArray.from_storage(
            pa.json_(), pa.array(['{"N": 1.0,\n "n": 12345678901234567890123, "z": null}', None])
        ),
        "messages": pa.array(
            [[{"role": "user", "content": "hi"}], []],
            pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "tool_calls": pa.null()})),
        ),
        "nested": pa.array([[[1.5, None], None], None]),
        "pairs": pa.array([[("b", 1.0), ("a", None)], []], pa.map_(pa.string(), pa.float64())),
        "image": pa.array([b"\x00\xff", None]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "at": pa.array([1, None], pa.timestamp("ns")),
        "days": pa.array([[{"on": datetime.date(2024, 2, 29)}], None]),
        "flag": pa.array([True, None]),
        "nothing": pa.nulls(2),
    }
)
ROWS = [
    '{"text":"é\\n","big":9223372036854775807,"unsigned":18446744073709551615,"score":0.10000000149011612,'
    '"exact":1234567890123456789.10,"meta":{"N": 1.0,  "n": 12345678901234567890123, "z": null},'
    '"messages":[{"role":"user","content":"hi","tool_calls":null}],"nested":[[1.5,null],null],'
    '"pairs":{"b":1.0,"a":null},"image":"AP8=","kind":"x","at":"1970-01-01 00:00:00.000000001",'
    '"days":[{"on":"2024-02-29"}],"flag":true,"nothing":null}',
    '{"text":null,"big":null,"unsigned":0,"score":null,"exact":null,"meta":null,"messages":[],"nested":null,'
    '"pairs":{},"image":null,"kind":"y","at":null,"days":null,"flag":null,"nothing":null}',
]


def write_table(path: Path, table: pa.Table, how: str) -> None:
    if how == "parquet":
        pq.write_table(table, path, row_group_size=1)
    elif how == "feather":
        pyarrow.feather.write_feather(table, path)
    else:
        with (pa.ipc.new_stream if how == "stream" else pa.ipc.new_file)(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)


@pytest.mark.parametrize(
    ("how", "suffix"), [("parquet", ".parquet"), ("stream", ".arrow"), ("file", ".arrow"), ("feather", ".feather")]
)
def test_table_rows_become_json(tmp_path: Path, how: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    write_table(path, TABLE, how)
    found = rows(path)
    assert [row.raw.decode() for row in found] == ROWS
    assert [row.value for row in found] == [json.loads(row.raw) for row in found]
    assert [(row.line, row.reason) for row in found] == [(1, None), (2, None)]


def test_what_a_table_holds_that_json_cannot(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    bad_text = pa.Array.from_buffers(
        pa.string(), 4, [None, pa.array([0, 1, 2, 3, 4], pa.int32()).buffers()[1], pa.py_buffer(b"ab\xffd")]
    )
    texts = ["{}", "{}", "{}", '1, "score": 2']
    score = pa.array([1.0, float("nan"), 0.0, 0.0])
    meta = pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts))
    pq.write_table(pa.table({"text": bad_text, "score": score, "meta": meta}), path)
    assert [(row.line, row.reason) for row in open_rows(path)] == [
        (1, None),
        (2, "column score: nan is not a JSON number"),
        (3, "invalid UTF-8"),
        (4, "column meta: not JSON: trailing characters (column 2)"),
    ]


def test_files_are_found_in_order(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for name in (
        "d/b.jsonl",
        "d/a.csv",
        "d/.hidden.jsonl",
        "d/_SUCCESS.csv",
        "d/notes.md",
        "d/sub/c.parquet",
        "e[1].jsonl",
    ):
        (tmp_path / name).write_text("x")

    def found(*patterns: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_inputs(list(patterns), tmp_path)]

    assert found("d") == ["d/a.csv", "d/b.jsonl"]
    assert found("d/b.jsonl", "d", str(tmp_path / "d" / "b.jsonl")) == ["d/b.jsonl", "d/a.csv"]
    assert found("d/*.jsonl") == ["d/b.jsonl"]
    assert found("**/*.parquet") == ["d/sub/c.parquet"]
    assert found("e[1].jsonl") == ["e[1].jsonl"]
    assert find_inputs("d/a.csv", tmp_path) == [tmp_path / "d/a.csv"]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("task.jsonl", "no such file: {0}/task.jsonl, did you mean 'tasks.jsonl'?"),
        ("empty.jsonl", "{0}/empty.jsonl is empty: regenerate it, or remove it from the input"),
        ("none/*.jsonl", "no file matches {0}/none/*.jsonl"),
        ("folder", "the folder {0}/folder has no file ending in .jsonl"),
        ("rows.jsnol", "{0}/rows.jsnol: cannot read .jsnol, did you mean '.jsonl'? (known: .jsonl"),
        ("rows.jsonz.gz", "{0}/rows.jsonz.gz: cannot read .jsonz.gz, did you mean '.json.gz'?"),
        ("rows.xlsx", "{0}/rows.xlsx: cannot read .xlsx (known: "),
        ("rows", "{0}/rows: cannot read a file without suffix (known: "),
        ("r*", "{0}/rows: cannot read a file without suffix (known: "),
        ("ftp://host/x.jsonl", "ftp://host/x.jsonl: inputs come from this machine's disk"),
        ("", "an input has no name: name a file"),
        ([], "no input: name a file"),
    ],
)
def test_an_input_that_cannot_be_is_an_error_in_one_sentence(tmp_path: Path, pattern: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").touch()
    for name in ("tasks.jsonl", "rows.jsnol", "rows.jsonz.gz", "rows.xlsx", "rows"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError) as error:
        find_inputs(pattern, tmp_path)
    assert str(error.value).startswith(says.format(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_file_gives_its_whole_rows_and_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    data = b"".join(b'{"n":%d,"random":"%s"}\n' % (n, bytes([n % 26 + 97]) * (n % 50)) for n in range(50_000))
    whole = gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)
    for cut in (len(whole) - 1, len(whole) // 2, 1):
        path.write_bytes(whole[:cut])
        numbers = []
        with pytest.raises(InputError, match="is truncated: copy or generate it again"):
            numbers.extend(row.value["n"] for row in open_rows(path) if row.value)
        path.write_bytes(b"not packed" + whole)
        with pytest.raises(InputError, match="is damaged, or not what its suffix says"):
            rows(path)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.parquet", b'{"a": 1}\n' * 10, "is damaged, or not a .parquet file: "),
        ("x.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "is damaged, or not a .parquet file: "),
        ("x.arrow", b'{"a": 1}\n' * 10, "is damaged, or not a .arrow file: "),
        ("x.feather", b"FEA1" + b"\0" * 100, "is Feather version 1: write it again as version 2, or as Parquet"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "is UTF-16: convert it to UTF-8 first"),
        ("x.csv", b"a,b,a\n1,2,3\n", ": two columns have the name 'a'; rename one"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        rows(path)
    assert str(error.value).startswith(f"{path}{says}" if says[0] == ":" else f"{path} {says}")
    assert "\n" not in str(error.value)


def test_a_torn_arrow_stream_and_a_type_without_a_json_form(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    write_table(path, pa.table({"n": range(5)}), "stream")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged after row"):
        rows(path)
    write_table(path, pa.table({"took": pa.array([1], pa.duration("s"))}), "file")
    with pytest.raises(
        InputError, match="column took has the type duration\\[s\\], which has no JSON form; convert it"
    ):
        rows(path)
    with pytest.raises(InputError, match=r"cannot read .*: No such file or directory"):
        rows(tmp_path / "gone.parquet")
    with pytest.raises(InputError, match=r"cannot read .*: No such file or directory"):
        rows(tmp_path / "gone.jsonl")
