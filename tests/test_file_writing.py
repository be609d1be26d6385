"""How data files are written: JSON lines or Parquet, compressed, in shards, in splits that share nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from rolloutops.build.build import BuildReport, build
from rolloutops.cli.main import main
from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError, UsageError
from rolloutops.ingest.arrow_rows import table_lines
from rolloutops.steps.selection import select
from rolloutops.store import sql
from tests.given import dump, workspace


def rows(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    return [{"task_id": f"t{n}", "reward": 1.0, "text": f"{n} é\u2028 " * (n % 7 + 1), **more} for n in range(count)]


def run(con: Any, folder: Path, use: str = "build/sft_messages", *before: StepUse, **keys: Any) -> BuildReport:
    return build(con, StepUse("build", "it", use, keys), Path(), folder, select(con, before, Path()))


def data(folder: Path, split: str = "train") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.startswith(split))


def opened(path: Path) -> bytes:
    """A data file's lines, read by another program than wrote them."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        with duckdb.connect() as con:
            found = con.sql(f"SELECT json FROM read_json_objects('{path}', compression = 'zstd')").fetchall()
        return b"".join(line.encode() + b"\n" for (line,) in found)
    return path.read_bytes()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_shards_hold_the_lines_of_the_one_file(compression: str, tmp_path: Path) -> None:
    con = workspace(rows())
    whole = opened(run(con, tmp_path / "whole").files["train"][1])
    report = run(con, tmp_path / "cut", max_shard_rows=7, max_shard_bytes=900, compression=compression)
    files = data(tmp_path / "cut")
    ending = {"none": ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}[compression]
    assert [file.name for file in files] == [f"train-{n:05d}-of-{len(files):05d}{ending}" for n in range(len(files))]
    assert report.files["train"] == (60, tmp_path / "cut" / f"train-*{ending}")
    assert b"".join(map(opened, files)) == whole
    for file in files:
        assert opened(file).count(b"\n") <= 7
        assert len(opened(file)) <= 900
    listed = {Path(output["path"]).name: output["rows"] for output in report.outputs}
    assert sum(listed[file.name] for file in files) == 60


def test_a_line_that_is_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    con = workspace([{"task_id": f"t{n}", "reward": 1.0, "text": "x" * (5000 if n == 3 else 10)} for n in range(6)])
    run(con, tmp_path / "out", max_shard_bytes=1000)
    lengths = [[len(line) for line in opened(file).splitlines()] for file in data(tmp_path / "out")]
    assert sorted(map(len, lengths))[0] == 1
    assert [max(one) > 5000 for one in lengths].count(True) == 1
    assert sum(map(len, lengths)) == 6
    assert all(len(one) == 1 for one in lengths if max(one) > 5000)


def tools(*names: str) -> str:
    return dump([{"type": "function", "function": {"name": n, "parameters": {n: {"type": "string"}}}} for n in names])


def parquet_rows(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return [row for file in data(folder, split) for row in pq.read_table(file).to_pylist()]


def agents(number: int = 8) -> list[dict[str, Any]]:
    """Rollouts of which no two have the same tools, some of them two, or arguments with the same keys."""
    found = []
    for n in range(number):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": dump({f"a{n}": n})}}
        spoken = [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "ok", "tool_call_id": "c"},
            {"role": "assistant", "content": "done", "reasoning_content": "r"},
        ]
        named = tools("f", f"g{n}") if n % 3 else tools("f")
        found += [{"task_id": f"t{n}", "reward": 1.0} | ({"completion": dump(spoken), "tools": named} if n % 4 else {})]
    return found


def test_a_parquet_file_gives_back_each_line(tmp_path: Path) -> None:
    """No tool, call or message gets the keys of another: such columns are JSON, which `datasets` decodes; the columns
    of all files are the same."""
    con = workspace(agents())
    for use in ("build/sft_messages", "build/rl_prompts"):
        lines = run(con, tmp_path / f"{use}.lines", use, validation=0.3).output
        made = run(con, tmp_path / f"{use}.parquet", use, format="parquet", validation=0.3, max_shard_rows=3).output
        files = [*data(made), *data(made, "validation")]
        assert len(files) > 2
        assert len({str(pq.read_schema(file)) for file in files}) == 1
        assert main(["lint", str(made), f"--target={use.partition('/')[2]}"]) == 0
        for split in ("train", "validation"):
            wanted = [json.loads(line) for line in opened(lines / f"{split}.jsonl").splitlines()]
            found = [json.loads(line) for file in data(made, split) for _, line, _ in table_lines(file)]
            found = [{key: value for key, value in row.items() if value is not None} for row in found]
            assert sorted(map(dump, found)) == sorted(map(dump, wanted))


def test_plain_columns_of_parquet_are_lists_and_structs(tmp_path: Path) -> None:
    con = workspace(rows(5))
    run(con, tmp_path / "out", "build/verl", format="parquet", compression="zstd", drop_unfit=True, allow_empty=True)
    run(con, tmp_path / "sft", format="parquet", compression="zstd")
    (file,) = data(tmp_path / "sft")
    assert str(pq.read_schema(file).field("messages").type).startswith("list<")
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"


def test_verl_sft_has_a_file_a_shape_and_leaves_out_what_no_struct_holds(tmp_path: Path) -> None:
    """Each advice of its errors is taken, and works; pandas, as verl reads files, sees no null of another line."""
    con = workspace(agents(24))
    with pytest.raises(StepError, match="fills with nulls that the model sees; set drop_unfit = true"):
        run(con, tmp_path / "out", "build/verl_sft")
    run(con, tmp_path / "fit", "build/verl_sft", drop_unfit=True)
    asked = {row["messages"][0]["content"] for row in parquet_rows(tmp_path / "fit")}
    assert asked == {f"t{n}?" for n in range(0, 24, 4)}

    one_tool = workspace([row for n, row in enumerate(agents(24)) if n % 3 == 0])
    with pytest.raises(StepError, match="with that or later set null_keys = true, else drop_unfit = true"):
        run(one_tool, tmp_path / "out", "build/verl_sft")
    run(one_tool, tmp_path / "lines", "build/verl_sft", null_keys=True, format="jsonl")
    run(one_tool, tmp_path / "nulls", "build/verl_sft", null_keys=True)
    assert len(data(tmp_path / "nulls")) == 7
    made = [
        {**row, "messages": [{k: v for k, v in m.items() if v is not None} for m in row["messages"]]}
        for row in parquet_rows(tmp_path / "nulls")
    ]
    wanted = [json.loads(line) for line in opened(tmp_path / "lines" / "train.jsonl").splitlines()]
    assert sorted(json.dumps(row, sort_keys=True) for row in made) == sorted(
        json.dumps(row, sort_keys=True) for row in wanted
    )


def test_token_files_have_the_types_that_trainers_read(tmp_path: Path) -> None:
    turns = [{"prompt_token_ids": [1, 2], "generation_token_ids": [3], "generation_log_probs": [-0.1]}]
    con = workspace([{"task_id": "a", "reward": 1.0, "token_turns": turns}])
    run(con, tmp_path / "out", "build/trajectories", format="parquet")
    kind = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "out" / "train.parquet")}
    assert kind["token_ids"] == "list<element: int32>"
    assert (kind["loss_mask"], kind["logprobs"]) == ("list<element: uint8>", "list<element: float>")
    assert parquet_rows(tmp_path / "out")[0]["logprobs"] == pytest.approx([0.0, 0.0, -0.1])


def shares(folder: Path) -> dict[str, int]:
    return {
        split: sum(opened(file).count(b"\n") for file in data(folder, split))
        for split in ("train", "validation", "test")
    }


def test_three_splits_are_slices_of_the_same_numbers(tmp_path: Path) -> None:
    con = workspace([{**row, "rollout_index": n} for row in rows(300) for n in range(2)])
    run(con, tmp_path / "out", validation=0.1, test=0.2)
    numbers = [int(hashlib.md5(f"hash of t{n}:42".encode()).hexdigest()[:15], 16) / 16**15 for n in range(300)]
    validation = sum(number < 0.1 for number in numbers)
    test = sum(0.1 <= number < 0.1 + 0.2 for number in numbers)
    assert shares(tmp_path / "out") == {
        "train": 2 * (300 - validation - test),
        "validation": 2 * validation,
        "test": 2 * test,
    }
    by_prompt = f"FROM read_parquet('{tmp_path}/out/lineage.parquet') GROUP BY task_id HAVING count(DISTINCT split) > 1"
    assert sql.rows(con, f"SELECT task_id {by_prompt}") == []
    run(con, tmp_path / "two", validation=0.1)
    assert (tmp_path / "two" / "validation.jsonl").read_bytes() == (tmp_path / "out" / "validation.jsonl").read_bytes()


def clusters(folder: Path, query: str) -> StepUse:
    (folder / "cluster.sql").write_text(f"-- Clusters.\nSELECT s.*, {query} AS cluster FROM selected AS s\n")
    return StepUse("filter", "clusters", str(folder / "cluster.sql"))


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    con = workspace(rows(200))
    step = clusters(tmp_path, "CASE WHEN task_id = 't0' THEN NULL ELSE task_id[:2] END")
    run(con, tmp_path / "out", "build/sft_messages", step, validation=0.4, split_by="cluster")
    found = shares(tmp_path / "out")
    assert found["train"] > 0 < found["validation"]
    mixed = sql.rows(
        con,
        f"""SELECT task_id[:2] AS c FROM read_parquet('{tmp_path}/out/lineage.parquet') WHERE task_id <> 't0'
        GROUP BY c HAVING count(DISTINCT split) > 1""",
    )
    assert mixed == []
    with pytest.raises(
        UsageError, match=r"split_by = 'clusters': the selection has no such column, did you mean 'cluster'"
    ):
        run(con, tmp_path / "other", "build/sft_messages", step, validation=0.4, split_by="clusters")


def test_a_prompt_that_would_leak_stops_the_build(tmp_path: Path) -> None:
    """Two tasks with one prompt, split by task."""
    con = workspace([{**row, "prompt_hash": f"p{n // 2}"} for n, row in enumerate(rows(40))])
    with pytest.raises(
        StepError, match=r"prompts would be in two splits, e.g. that of task t\d+ in validation and train"
    ):
        run(con, tmp_path / "out", validation=0.5, split_by="task_id")
    assert not (tmp_path / "out").exists()
    run(con, tmp_path / "out", validation=0.5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "json"}, "format must be 'jsonl' or 'parquet', not 'json', did you mean 'jsonl'"),
        ({"compression": "zip"}, "compression must be 'none' or 'zstd' or 'gzip', not 'zip'"),
        ({"max_shard_rows": 0}, "max_shard_rows must be 1 or more, not 0"),
        ({"test": 1.0}, "test must be from 0 to below 1, not 1.0"),
        ({"test": 0.5, "validation": 0.5}, "validation [+] test is 1.0: nothing is left to train on"),
    ],
)
def test_keys_that_make_no_sense(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run(workspace(rows(4)), tmp_path / "out", **keys)


@pytest.mark.parametrize("use", ["build/sharegpt", "build/alpaca"])
def test_llamafactory_finds_each_file_and_column(use: str, tmp_path: Path) -> None:
    con = workspace(rows(40, text="yes", prompt='[{"role":"system","content":"s"},{"role":"user","content":"q"}]'))
    run(con, tmp_path / "out", use, validation=0.4, max_shard_rows=15)
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_bytes())
    assert [entry["file_name"] for entry in info.values()] == [
        file.name for split in ("train", "validation") for file in data(tmp_path / "out", split)
    ]
    for name, entry in info.items():
        assert name == f"it_{entry['file_name'].split('.')[0]}"
        lines = [json.loads(line) for line in opened(tmp_path / "out" / entry["file_name"]).splitlines()]
        assert {column for line in lines for column in line} == set(entry["columns"].values())


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_same_bytes_however_the_parts_lie(form: str, tmp_path: Path) -> None:
    """From one Parquet file or many, in any order, with 1 thread or 8: the same files, in every format."""
    given = rows(5000, text="x")
    for n, row in enumerate(given):
        row.update(tools=tools("ab"[n % 2]) if n % 5 else None, reward=None if n % 11 == 0 else 1.0)
    made = []
    for number, (parts, threads) in enumerate(((1, 1), (7, 8), (23, 2))):
        con = workspace(given, threads=threads, shuffle=number)
        for table in ("task_log", "attempts", "verdicts"):
            folder = tmp_path / f"{number}-{table}"
            folder.mkdir()
            for part in range(parts):
                kept = f"SELECT * FROM {table} WHERE hash({table}::VARCHAR) % {parts} = {part}"
                sql.run(con, f"COPY ({kept}) TO '{folder}/{part}.parquet' (FORMAT parquet)")
            sql.run(con, f"DROP TABLE {table}; CREATE VIEW {table} AS FROM read_parquet('{folder}/*.parquet')")
        run(con, tmp_path / str(number), validation=0.1, format=form, compression="zstd", max_shard_rows=1500)
        made.append({path.name: path.read_bytes() for path in sorted((tmp_path / str(number)).iterdir())})
    assert len(made[0]) > 6
    assert made[0] == made[1] == made[2]


def test_the_first_line_of_each_type_comes_first_in_a_long_file(tmp_path: Path) -> None:
    """`load_dataset` takes the types of JSON lines from the first 10 MB and makes null of what a later line lacks."""
    given = rows(600, prompt=dump([{"role": "user", "content": "long " * 4000}]))
    for n, row in enumerate(given):
        properties = {"a": {"type": "string"} if n == 7 else {"type": "string", "enum": ["x"]}}
        function = {"name": "f", "parameters": {"type": "object", "properties": {} if n == 400 else properties}}
        row["tools"] = dump([{"type": "function", "function": function}])
    con = workspace(given)
    lines = [json.loads(line) for line in data(run(con, tmp_path / "long").output)[0].open(encoding="utf-8")]
    (table,) = data(run(con, tmp_path / "table", format="parquet").output)
    plain = [json.loads(line) for _, line, _ in table_lines(table)]

    def kind(line: dict[str, Any]) -> list[str]:
        return sorted(line["tools"][0]["function"]["parameters"]["properties"].get("a", {"none": 1}))

    kinds = [kind(line) for line in lines]
    assert sorted(kinds[:3]) == [["enum", "type"], ["none"], ["type"]]
    first = [next(line for line in plain if kind(line) == one) for one in kinds[:3]]
    assert lines == [*first, *(line for line in plain if line not in first)], "all else keeps its order"
    short = [json.loads(line) for line in data(run(workspace(given[:9]), tmp_path / "short").output)[0].open()]
    assert [kind(line) for line in short] == [kind(line) for line in plain if line in short]
