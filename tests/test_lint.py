"""Linters: each finds each planted fault, says nothing of good lines, and stands at the door of a build."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from rolloutops.build import manifest
from rolloutops.build.build import BuildReport, build
from rolloutops.build.lint import find_linter, lint_lines, targets
from rolloutops.cli.commands.build import sentences
from rolloutops.cli.main import main
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.errors import StepError
from rolloutops.store import sql
from tests.given import workspace

PLANTED = Path(__file__).parent / "lint"
"""TARGET.txt: blocks with an empty line between them. A block is its expected faults, `severity: how the sentence
begins`, or the word good, and below them lines that have exactly those."""

TARGETS = sorted(targets())


def blocks(target: str) -> list[tuple[set[str], list[str]]]:
    """(expected faults, lines) of each block."""
    found = []
    for block in (PLANTED / f"{target}.txt").read_text(encoding="utf-8").strip("\n").split("\n\n"):
        lines = block.split("\n")
        said = [line for line in lines if not line.startswith("{")]
        found.append(({line for line in said if line != "good"}, lines[len(said) :]))
    return found


def linted(target: str, lines: list[str]) -> list[tuple[int, str, str]]:
    """(row, severity, fault) of what a linter finds in lines."""
    con = sql.connect()
    con.execute("CREATE TABLE lines (split VARCHAR, row BIGINT, json VARCHAR)")
    con.executemany("INSERT INTO lines VALUES ('train', ?, ?)", [list(row) for row in enumerate(lines, 1)])
    lint_lines(con, find_linter(target))
    return sql.rows(con, "SELECT row, severity, fault FROM faults ORDER BY ALL")


def test_every_target_has_planted_faults() -> None:
    assert {path.stem for path in PLANTED.glob("*.txt")} == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_planted_faults_are_found_and_nothing_else(target: str) -> None:
    """All in one file, among enough good lines that what most lines have stays theirs."""
    (none, good), *planted = blocks(target)
    assert not none
    assert [json.dumps(json.loads(line), ensure_ascii=False) for line in good] == good
    requested = [(expected, line) for expected, lines in planted for line in lines]
    many = good * (2 + len(requested) // len(good))
    said: dict[int, set[str]] = {}
    for row, severity, fault in linted(target, [*many, *(line for _, line in requested)]):
        said.setdefault(row, set()).add(f"{severity}: {fault}")
    of_the_file = said.pop(1, set())
    assert all(fault.startswith("warning: desirable to undesirable") for fault in of_the_file)
    assert [(many[row - 1], said[row]) for row in said if row <= len(many)] == [], "a good line is blamed"
    for row, (expected, line) in enumerate(requested, len(many) + 1):
        found = said.get(row, set())
        assert {next((e for e in expected if one.startswith(e)), one) for one in found} == expected, line
    source = re.sub(r"(?m)^ *--.*$", "", find_linter(target).read_text(encoding="utf-8"))
    sentences = [one.replace("''", "'") for one in re.findall(r"'((?:[^']|'')*: (?:[^']|'')*)'", source)]
    every = "\n".join(set().union(*said.values()))
    unplanted = [one for one in sentences if not one.startswith("{") and one not in every]
    assert [one for one in unplanted if not one.startswith((": TRL wants", "fewer than 10"))] == []


def test_faults_of_a_whole_file() -> None:
    assert linted("openai_sft", blocks("openai_sft")[0][1][:9])[0][1:] == (
        "warning",
        "fewer than 10 lines: OpenAI wants 10 or more in the training file",
    )
    answers = ['{"prompt":"a","completion":"b","label":' + label + "}" for label in ("true", "false", "false")]
    (found,) = linted("kto", answers)
    assert found[2].startswith("desirable to undesirable is 1 to 2")
    assert linted("kto", [*answers, answers[0]]) == []


def test_a_fault_that_two_parts_of_a_line_have_is_one() -> None:
    side = '[{"role":"assistant","content":null,"tool_call_id":"X"}]'
    line = '{"prompt":[{"role":"user","content":"Hi"}],"chosen":' + side + ',"rejected":' + side.replace("X", "Y") + "}"
    said = [fault for _, _, fault in linted("dpo_messages", [line]) if fault.startswith("a message has null content")]
    assert len(said) == 1


def test_the_names_of_macros_are_their_own() -> None:
    """A linter's macros live in the connection of a build, beside those that its step uses."""
    named = [
        set(re.findall(r"MACRO (\w+)", (shipped("sql") / name).read_text(encoding="utf-8")))
        for name in ("lint.sql", "macros.sql")
    ]
    assert named[0].isdisjoint(named[1])


def rollouts(**more: Any) -> list[dict[str, Any]]:
    """Four tasks with a good and a bad rollout each; `more` changes the good one of the first."""
    return [
        {"task_id": f"t{task}", "rollout_index": index, "reward": 1.0 - index, "text": "45"[index], "answer": "4"}
        | (more if (task, index) == (0, 0) else {})
        for task in range(4)
        for index in range(2)
    ]


EMPTY = {"completion": '[{"role":"assistant","content":""}]', "text": ""}


def build_sft(rows: list[dict[str, Any]], output: Path, **keys: Any) -> BuildReport:
    return build(workspace(rows), StepUse("build", "it", "build/sft_messages", keys), Path(), output)


def test_a_build_that_fails_its_linter_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        build_sft(rollouts(**EMPTY), tmp_path / "out")
    assert str(caught.value).splitlines() == [
        "[build.it] 1 of 4 lines failed the linter; nothing was written:",
        "  1 line: the last answer is empty, so the model learns to return nothing; drop the row",
        "    d/t0/p/0/0",
        "fix the earlier steps, or set drop_invalid = true to drop (and count) these lines",
    ]
    assert list(tmp_path.iterdir()) == []


OBJECTS = ("sft_messages", "sft_prompt_completion", "kto")


@pytest.mark.parametrize("name", [*OBJECTS, "ms_swift", "sharegpt", "llamafactory_v1", "openai_sft"])
def test_pyarrow_reads_every_row_where_a_call_has_arguments_that_are_no_object(name: str, tmp_path: Path) -> None:
    """Where the others become objects, such a line stops the build, and the two ways out that it names work."""
    rows = []
    for task, arguments in enumerate(['{"a": 1}', '{"b": ', '{"a": 2}', ""]):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        answered = {"role": "tool", "tool_call_id": "c", "content": "4"}
        talk = [called, answered, {"role": "assistant", "content": "4"}]
        rows.append({"task_id": f"t{task}", "reward": 1.0, "text": "4", "completion": json.dumps(talk)})

    def lines(folder: str, **keys: Any) -> int:
        con = workspace(rows)
        report = build(con, StepUse("build", "it", f"build/{name}", keys), Path(), tmp_path / folder)
        table = pyarrow.json.read_json(report.output / "train.jsonl")
        assert len(table) == len((report.output / "train.jsonl").read_bytes().splitlines())
        return len(table)

    if name in OBJECTS:
        with pytest.raises(StepError, match="text, beside others that are objects"):
            lines("stopped")
        assert (lines("dropped", drop_invalid=True), lines("text", arguments="text")) == (3, 4)
    else:
        assert lines("all") == 4


def test_answers_that_are_all_dates_are_not_written_where_arrow_guesses_types(tmp_path: Path) -> None:
    """pyarrow reads them as timestamps, and datasets does so through it; the way out that the fault names works."""
    for name, keys in (("rl_prompts", {}), ("sft_prompt_completion", {"min_reward": 0.0})):
        rows = [row | {"answer": "2024-05-01", "text": f"2024-05-0{n + 1}"} for n, row in enumerate(rollouts())]
        use = StepUse("build", "it", f"build/{name}", keys)
        with pytest.raises(StepError, match="is a date in every row") as caught:
            build(workspace(rows), use, Path(), tmp_path / name)
        assert 'set format = "parquet"' in str(caught.value)
        typed = StepUse("build", "it", f"build/{name}", keys | {"format": "parquet"})
        report = build(workspace(rows), typed, Path(), tmp_path / name)
        assert "2024-05-01" in json.dumps(pq.read_table(report.output / "train.parquet").to_pylist())
        assert main(["lint", str(report.output / "train.parquet"), f"--target={name}"]) == 0
        rows[0] |= {"answer": "May", "text": "May"}
        report = build(workspace(rows), use, Path(), tmp_path / f"{name}-mixed")
        read = pyarrow.json.read_json(report.output / "train.jsonl").to_pylist()
        assert read == [json.loads(line) for line in (report.output / "train.jsonl").read_bytes().splitlines()]


def test_drop_invalid_drops_and_counts(tmp_path: Path) -> None:
    report = build_sft(rollouts(**EMPTY), tmp_path / "out", drop_invalid=True)
    assert report.files["train"][0] == len((tmp_path / "out/train.jsonl").read_bytes().splitlines()) == 3
    assert report.linted
    assert (report.linted.lines, report.linted.dropped) == (4, 1)
    traced = sql.rows(sql.connect(), f"SELECT task_id FROM '{tmp_path}/out/lineage.parquet' ORDER BY 1")
    assert traced == [("t1",), ("t2",), ("t3",)]
    fault = "the last answer is empty, so the model learns to return nothing; drop the row"
    assert manifest.read(tmp_path / "out")["build"]["reports"] == [
        [{"target": "sft_messages", "severity": "error", "lines": 1, "dropped": 1, "fault": fault}]
    ]
    assert list(sentences([report]))[-1] == f"it: dropped, 1 line: {fault}"


def test_what_is_said_of_a_file_is_said_of_the_lines_that_stay(tmp_path: Path) -> None:
    """A dropped line is not warned of, nor counted among those that stay."""
    called = '{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}'
    answered = '{"role":"tool","tool_call_id":"c","content":"4"}'
    ends_with_tool = f'[{{"role":"assistant","content":"","tool_calls":[{called}]}},{answered}]'
    con = workspace(rollouts(completion=ends_with_tool))
    report = build(con, StepUse("build", "it", "build/kto", {"drop_invalid": True}), Path(), tmp_path / "out")
    assert report.files["train"][0] == 7
    assert list(sentences([report]))[1:] == [
        "it: 8 rollouts in, 7 used; dropped: 1: failed the linter",
        "it: dropped, 1 line: the completion does not end with the assistant: TRL trains on a turn that is not the "
        "model's; drop the row",
        "it: warning, 1 line: desirable to undesirable is 3 to 4: TRL wants their weighted numbers in 1 to 4/3; "
        "set desirable_weight or undesirable_weight",
    ]


def test_warnings_are_reported(tmp_path: Path) -> None:
    requested = '[{"role":"user","content":"Be brief."},{"role":"user","content":"2 + 2?"}]'
    report = build_sft(rollouts(own_prompt=requested), tmp_path / "out")
    assert report.files["train"][0] == 4
    assert "it: warning, 1 line: consecutive user turns" in "\n".join(sentences([report]))
    assert manifest.read(tmp_path / "out")["build"]["reports"][0][0]["dropped"] == 0


def test_files_made_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, good), *planted = blocks("sft_messages")
    last_turn = next(lines for expected, lines in planted if "error: the last turn is not the assistant's" in expected)
    plain = tmp_path / "made.jsonl"
    plain.write_text("\n".join([good[0], last_turn[0], '{"messages": [}', *good]) + "\n", encoding="utf-8")
    packed = tmp_path / "made.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert main(["lint", str(plain), str(packed), "--target=sft_messages"]) == 2
    out = capsys.readouterr().out
    assert f"{plain}:2, {packed}:2" in out
    assert f"{plain}:3, {packed}:3" in out
    assert "no loader can read this line" in out
    assert out.splitlines()[-1] == "4 of 20 lines have errors: sft_messages"
    assert main(["lint", str(plain), "--target=sft_messages", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["lines"], found["faulty"]) == (10, 2)
    assert {tuple(one["first"][0]) for one in found["faults"]} == {(str(plain), 2), (str(plain), 3)}


def test_the_folder_of_a_build_is_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    build_sft(rollouts(), folder, format="parquet")
    for named in (folder, folder / "*.parquet"):
        assert main(["lint", str(named), "--target=sft_messages"]) == 0
        assert capsys.readouterr().out == "4 lines without an error: sft_messages\n"
    assert main(["lint", str(folder / "lineage.parquet"), "--target=sft_messages"]) == 2


def test_parquet_shows_what_arrow_padded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two rows whose tools differ, as Arrow writes them: each gets the other's keys, with null."""
    made = tmp_path / "made.parquet"
    talk = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    tools = [[{"type": "function", "function": {"name": name, "parameters": {name: "x"}}}] for name in "ab"]
    pq.write_table(pa.Table.from_pylist([{"messages": talk, "tools": one} for one in tools]), made)
    assert main(["lint", str(made), "--target=sft_messages"]) == 0
    out = capsys.readouterr().out
    assert "warning  2 lines: tools hold nulls, as Arrow pads them from other rows" in out
    assert out.splitlines()[-1] == "2 lines without an error: sft_messages"


def test_mistakes_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made.jsonl"
    made.write_text("{}\n")
    assert main(["lint", str(made), "--target=ver"]) == 2
    known = f"did you mean 'verl'?; there are: {', '.join(TARGETS)}"
    assert capsys.readouterr().err == f"rolloutops: no linter for 'ver', {known}\n"
    assert main(["lint", str(made)]) == 2
    assert "lint needs --target" in capsys.readouterr().err
    assert main(["lint", str(tmp_path / "none.jsonl"), "--target=verl"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["lint", "--help"]) == 0
    assert set(TARGETS) <= set(re.findall(r"\w+", capsys.readouterr().out))
