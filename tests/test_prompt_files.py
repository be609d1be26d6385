"""Prompt files, and what becomes of tasks whose row is unchanged while their prompt is not."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers import query, rolloutops, write_jsonl

TEMPLATE = "system: Answer with {{n}}.\nuser: |-\n  Add: {question}\n  Unit: {unit[name]}\n"
ROWS = [
    {"question": "2+3", "unit": {"name": "m"}, "expected_answer": "5"},
    {"question": "2+4", "unit": {"name": "s"}, "answer": 6},
    {"question": "2+5", "expected_answer": "7"},
    {"question": None, "unit": {"name": "m"}},
    {"question": "q", "unit": {"name": "m"}, "messages": [{"role": "user", "content": "other"}]},
    {"question": "q", "unit": {"name": "m"}, "responses_create_params": {"input": "other"}},
    {"question": "2+6", "unit": {"name": "g"}, "responses_create_params": {"temperature": 0.5, "input": []}},
]


def prompts(data: Path) -> list[list[list[str]]]:
    """The prompts of the tasks, in the order of the input."""
    found = query(data, "SELECT prompt::VARCHAR FROM tasks ORDER BY line")
    return [[[said["role"], said["content"]] for said in json.loads(text)] for (text,) in found]


def collect(folder: Path, *flags: str, code: int = 0) -> str:
    """Collect a folder's in.jsonl into w; what it said."""
    words = ("--input=in.jsonl", "--data=w", "--engine=scripted", "--verify=later", "--skip_bad_lines")
    return rolloutops("collect", *words, *flags, cwd=folder, code=code).stderr


def test_a_prompt_file_makes_the_prompt_of_a_rows_fields(tmp_path: Path) -> None:
    """The form is NeMo Gym's; a row that it does not fit is rejected with the reason."""
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "p.yaml").write_text(TEMPLATE)
    done = rolloutops("chunk", "--input=in.jsonl", "--data=w", "--prompt_config=p.yaml", cwd=tmp_path, code=2)
    system = ["system", "Answer with {n}."]
    users = ["Add: 2+3\nUnit: m", "Add: 2+4\nUnit: s", "Add: 2+6\nUnit: g"]
    assert prompts(tmp_path / "w") == [[system, ["user", user]] for user in users]
    assert "system: Answer with {n}.\n  user: Add: 2+3\n    Unit: m" in done.stderr
    rejected = [json.loads(line) for line in (tmp_path / "w/rejected/in.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rejected] == [3, 4, 5, 6]
    reasons = ("p.yaml names {unit}", "p.yaml names {question}", "has messages", "has responses_create_params.input")
    for row, reason in zip(rejected, reasons, strict=True):
        assert reason in row["reason"]
    sent = query(tmp_path / "w", "SELECT row ->> '$.responses_create_params.temperature' FROM tasks ORDER BY line")
    assert sent[2] == ("0.5",)


def test_examples_are_the_same_for_every_task_and_never_the_task_itself(tmp_path: Path) -> None:
    rows = [{"question": f"{n}+1", "unit": {"name": "m"}, "answer": str(n + 1)} for n in range(30)]
    write_jsonl(tmp_path / "in.jsonl", rows)
    write_jsonl(tmp_path / "train.jsonl", [*reversed(rows), rows[0]])
    (tmp_path / "p.yaml").write_text(TEMPLATE + "assistant: 'It is {answer}.'\n")
    recipe = 'data = "{}"\n[datasets.in]\ninput = "in.jsonl"\nprompt = "p.yaml"\nexamples = "train.jsonl"\nshots = 3\n'
    shown = {}
    for name, more in (("a", ""), ("b", "seed = 1\n"), ("c", "")):
        (tmp_path / f"{name}.toml").write_text(recipe.format(name) + more)
        rolloutops("chunk", f"{name}.toml", cwd=tmp_path)
        shown[name] = prompts(tmp_path / name)
        write_jsonl(tmp_path / "train.jsonl", rows)  # their order decides nothing
    assert shown["a"] == shown["c"] != shown["b"]
    common = [shots for *shots, _ in shown["a"]]
    for row, (*shots, last) in zip(rows, shown["a"], strict=True):
        questions = [text for role, text in shots if role == "user"]
        assert len(questions) == 3
        assert f"Add: {row['question']}\nUnit: m" == last[1] not in questions
        assert [text for role, text in shots if role == "assistant"] == [
            f"It is {eval(text.split()[1])}." for text in questions
        ]
    assert sum(shots == max(common, key=common.count) for shots in common) == 27


def test_mistakes_in_prompt_files_are_sentences(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    files = {
        "a.yaml": "user: '{question'",
        "b.yaml": "usr: x",
        "c.yaml": "- 1",
        "d.yaml": "user: '{}'",
        "e.yaml": "a: [",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        said = rolloutops("chunk", "--input=in.jsonl", "--data=w", f"--prompt={name}", cwd=tmp_path, code=2).stderr
        assert name in said
        assert "Traceback" not in said
    said = rolloutops("chunk", "--input=in.jsonl", "--data=w", "--prompt=f.yaml", cwd=tmp_path, code=2).stderr
    assert "did you mean" in said
    said = rolloutops("chunk", "--input=in.jsonl", "--data=w", "--shots=2", cwd=tmp_path, code=2).stderr
    assert "need a prompt file" in said
    assert not (tmp_path / "w").exists()


def test_check_finds_a_prompt_file_that_does_not_fit(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [*ROWS[:3], {"other": "x"}])
    recipe = 'data = "w"\n[datasets.d]\ninput = "in.jsonl"\nenvironment = "exact_match"\nprompt = "p.yaml"\n'
    (tmp_path / "r.toml").write_text(recipe + '[collect]\nengine = "scripted"\n')
    for text, says, code in (
        ("usr: x", "BAD  d: p.yaml: no key 'usr'", 2),
        ("user: '{answr}'", "BAD  d: of the first 4 rows 4 cannot be read: in.jsonl:1:", 2),
        (
            "user: '{question}'",
            "WARN d: of the first 4 rows 1 cannot be read: in.jsonl:4: p.yaml names",
            0,
        ),
    ):
        (tmp_path / "p.yaml").write_text(text)
        found = rolloutops("check", "r.toml", cwd=tmp_path, code=code)
        assert says in found.stdout + found.stderr, found.stdout + found.stderr


def test_another_prompt_of_an_unchanged_row_is_an_edit_and_the_first_ones_rollouts_come_back(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS[:2])
    (tmp_path / "p.yaml").write_text(TEMPLATE)
    (tmp_path / "q.yaml").write_text(TEMPLATE + "  Be brief.\n")
    assert "2 rollouts collected" in collect(tmp_path, "--prompt=p.yaml")
    said = collect(tmp_path, "--prompt=q.yaml")
    assert "2 of the edited tasks have the same row and another prompt" in said
    assert "Be brief" in said
    assert said.index("edited tasks") < said.index("2 rollouts collected")
    assert "nothing to collect" in collect(tmp_path, "--prompt=q.yaml")
    assert "nothing to collect" in collect(tmp_path, "--prompt=p.yaml")
    assert query(tmp_path / "w", "SELECT count(*) FROM rollouts SEMI JOIN tasks USING (task_id, prompt_hash)") == [(2,)]


def test_what_a_newer_reader_makes_of_an_unchanged_row_is_compared_once(tmp_path: Path) -> None:
    """An earlier version left the system prompt out of one task, and kept no record of what read the input."""
    rows = [{"id": n, "prompt": f"{n}+1", "expected_answer": "x"} for n in ("1", "2")]
    write_jsonl(tmp_path / "in.jsonl", rows)
    assert "2 rollouts collected" in collect(tmp_path, "--id=id")
    as_an_older_reader(tmp_path / "w", "1")
    said = collect(tmp_path, "--id=id")
    assert "1 of the edited tasks has the same row and another prompt" in said
    assert "task 1, before" in said
    assert "1 rollout collected" in said
    assert query(tmp_path / "w", "SELECT prompt ->> '$[0].content' FROM tasks ORDER BY 1") == [("1+1",), ("2+1",)]
    assert "edited" not in collect(tmp_path, "--id=id")


def as_an_older_reader(data: Path, task_id: str) -> None:
    """Make a workspace what an earlier version would have made of the same input."""
    for file in data.glob("tasks/*/*.parquet"):
        table = pq.read_table(file)
        for name, value in (("prompt", '[{"role":"user","content":"old"}]'), ("prompt_hash", "old")):
            own = [
                value if task == task_id else v
                for task, v in zip(table["task_id"].to_pylist(), table[name].to_pylist(), strict=True)
            ]
            column = pa.array(own, pa.string())
            field = table.schema.field(name)
            typed = column if field.type == pa.string() else pa.ExtensionArray.from_storage(field.type, column)
            table = table.set_column(table.schema.get_field_index(name), field, typed)
        pq.write_table(table, file)
    for file in data.glob("runs/*.parquet"):
        table = pq.read_table(file)
        counts = table.schema.get_field_index("counts")
        pq.write_table(
            table.set_column(counts, table.schema.field(counts), pa.nulls(len(table), table.schema.field(counts).type)),
            file,
        )
