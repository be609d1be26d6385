"""Every training file, from rollouts with text, tools, reasoning and many turns, and from odd content.

Every line is JSON that any reader takes, and what was said comes through character for character.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet
import pytest

from rolloutops.build.build import BuildReport, build
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.ingest.import_rollouts import import_rollouts
from rolloutops.steps.selection import select
from rolloutops.steps.step import read_step
from rolloutops.store import sql
from rolloutops.store.workspace import connect, open_workspace
from tests.given import SHARED, dump, workspace

STEPS = {path.stem: read_step(f"build/{path.stem}", path) for path in sorted((shipped("sql") / "build").glob("*.sql"))}
GYM = SHARED / "gym" / "resources_servers"
FILES = ("calendar", "finance_sec_search", "grl_tetris", "indirect_prompt_injection", "mcqa", "math_with_autograder",
         "nemo_user_sim", "newton_bench", "string_match", "swe_pivot", "xstest")  # fmt: skip
"""With tools, reasoning, and many turns of a simulated user."""

ODD = [
    "\u2028 \u2029 \x85 \x7f",
    "😀 \U0010ffff é",
    "</script><!-- \\u2028 \\ \\\\ \" ' `",
    "line\nline\r\n\ttab",
    '"},{"from":"observation","value":"',
    '","of":"tool"},{"from":"observation","value":"',
    "[{}] null {{item}} $[*] <think>",
]


def odd_rows() -> list[dict[str, Any]]:
    """Each odd text as question, reasoning, answer, tool's answer and argument, and escaped half characters."""
    rows = []
    for number, text in enumerate(ODD):
        system, requested = {"role": "system", "content": text}, {"role": "user", "content": f"{text} {number}"}
        said = {"role": "assistant", "content": f"no {text}", "reasoning_content": f"so {text}"}
        arguments = '{"x": "\\ud83d", "n": 12345678901234567890}' if number == 1 else json.dumps({"x": text})
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        called = [{**said, "content": "", "tool_calls": [call]}, {"role": "tool", "content": text, "tool_call_id": "c"}]
        ids = {"prompt_token_ids": [1, 2], "generation_token_ids": [3], "generation_log_probs": [-0.5]}
        reported = {"prompt": dump([system, requested]), "answer": text, "token_turns": [ids], "text": f"no {text}"}
        reported["row"] = dump({"responses_create_params": {"input": text}, "agent_ref": {"name": "a"}, "answer": text})
        tools = dump([{"type": "function", "function": {"name": "f", "description": text, "parameters": {"n": 1.50}}}])
        one = {"task_id": f"plain{number}", **reported}
        rows.append(
            {**one, "reward": 1.0, "completion": dump([{**said, "content": f"yes {text}"}]), "text": f"yes {text}"}
        )
        rows.append({**one, "reward": 0.0, "completion": dump([said]), "rollout_index": 1})
        two = {"task_id": f"tools{number}", **reported, "tools": tools}
        rows.append({**two, "reward": 1.0, "completion": dump([*called, {**said, "content": f"yes {text}"}])})
        rows.append({**two, "reward": 0.0, "completion": dump([*called, said]), "rollout_index": 1})
    long = {"task_id": "long", "answer": "1", "token_turns": rows[0]["token_turns"], "row": rows[0]["row"]}
    return [*rows, {**long, "reward": 1.0, "text": "x" * 1_000_000}, {**long, "reward": 0.0, "rollout_index": 1}]


@pytest.fixture(scope="module")
def odd() -> sql.Connection:
    return workspace(odd_rows())


@pytest.fixture(scope="module")
def gym(tmp_path_factory: pytest.TempPathFactory) -> sql.Connection:
    if not GYM.is_dir():
        pytest.skip("NeMo Gym's example data are not next to the checkout")
    place = open_workspace(tmp_path_factory.mktemp("gym") / "ws", create=True)
    for number, name in enumerate(FILES):
        import_rollouts(place, name, [str(GYM / name / "data" / "example_rollouts.jsonl")], f"run{number}")
    con = connect(place)
    for table in ("attempts", "task_log", "verdicts"):  # read once, as many builds follow
        sql.run(con, f"CREATE TABLE kept_{table} AS FROM {table}; CREATE OR REPLACE VIEW {table} AS FROM kept_{table}")
    return con


PLAIN = """-- One question and one answer of text, without tools.
SELECT s.* FROM selected AS s
WHERE coalesce(tools::VARCHAR, '[]') = '[]' AND is_plain_answer(completion) AND is_question(prompt)
"""
PLAIN_ONLY = ("sft_input_output", "dpo_strings", "preference_ranked")
"""These stop at what is not plain text."""
PROMPTS_ONLY = ("verl", "skyrl", "slime", "open_instruct", "nemo_rl_response", "rl_prompts")
ONE_MESSAGE = ("axolotl_preference", "dpo_strings", "llamafactory_preference", "nemo_rl_response",
               "openai_preference", "openrlhf", "preference_binary", "preference_ranked", "tinker")  # fmt: skip
"""Formats that may have no place for any pair among these rollouts, which call tools."""
NO_TEXT = ("trajectories", "pretokenized", "rl_gym")


def built(con: sql.Connection, name: str, folder: Path, form: str = "jsonl") -> BuildReport:
    """A build of everything that its format has a place for."""
    step = STEPS[name]
    keys: dict[str, Any] = {"drop_invalid": True, "allow_empty": True, "format": form}
    keys |= {key: True for key in ("drop_unfit", "drop_unfinished") if key in step.params}
    keys |= {"min_reward": -math.inf} if "min_reward" in step.params and not name.endswith("kto") else {}
    keys |= {"agent_name": "agent"} if name == "rl_gym" else {}
    before = [StepUse("pair", "pairs", "pair/best_worst")] if "pairs" in step.reads else []
    if name in PLAIN_ONLY:
        (folder / "plain.sql").write_text(PLAIN)
        before.insert(0, StepUse("filter", "plain", str(folder / "plain.sql")))
    return build(con, StepUse("build", "it", step.name, keys), Path(), folder / form, select(con, before, Path()))


def strings(value: Any) -> Iterator[str]:
    """Every string in a line, and what is in those that hold JSON themselves, as tools and calls of some formats."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value
        if (found := re.sub(r"(?s)^<think>.*?</think>\s*", "", value))[:1] in ("[", "{"):
            with contextlib.suppress(ValueError):
                yield from strings(json.loads(found))


def said(con: sql.Connection, name: str) -> dict[tuple[str, ...], list[str]]:
    """What was said in each rollout by all but the system; for a format that holds prompts, in its task's prompt."""
    spoken = "t.prompt, '[]'" if name in PROMPTS_ONLY else "r.prompt, r.completion"
    query = f"SELECT r.dataset, r.task_id, r.policy, r.rollout_index, {spoken} FROM rollouts AS r JOIN tasks AS t"
    return {
        tuple(key): [
            message["content"]
            for message in json.loads(prompt) + json.loads(completion)
            if isinstance(message["content"], str) and message["role"] not in ("system", "developer")
        ]
        for *key, prompt, completion in sql.rows(con, f"{query} USING (dataset, task_id)")
    }


def lost(con: sql.Connection, name: str, report: BuildReport, lines: Sequence[Any]) -> Iterator[str]:
    """Texts of the rollouts behind each line that are not in it."""
    texts = said(con, name)
    keys = "row, dataset, task_id, policy, rollout_index"
    for row, *key in sql.rows(con, f"SELECT {keys} FROM read_parquet('{report.output}/lineage.parquet')"):
        heard = "\0".join(strings(lines[row - 1]))
        for text in texts[tuple(key)]:
            if text not in heard:
                yield f"{name} lost {text[:80]!r} of {key}"


def lines_of(report: BuildReport) -> list[Any]:
    text = report.files["train"][1].read_bytes().decode()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def has_both_arguments(lines: list[Any]) -> bool:
    """Whether some calls have an object as arguments, and others a text that holds none: `datasets` reads such a column
    as JSON since 4.7, and pyarrow cannot."""
    text = json.dumps(lines)
    return '"arguments": {' in text and '"arguments": "' in text


def decoded(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table, its columns of Arrow's JSON type decoded, as `datasets` does since 4.7."""
    names = {field.name for field in table.schema if isinstance(field.type, pa.JsonType)}
    return [
        {name: json.loads(value) if name in names and value is not None else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


def without_nulls(value: Any) -> Any:
    """A value without keys that hold null, which stand for absent ones in Arrow."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", STEPS)
def test_real_rollouts_come_through(name: str, gym: sql.Connection, tmp_path: Path) -> None:
    report = built(gym, name, tmp_path)
    lines = lines_of(report)
    assert all(isinstance(line, dict) for line in lines)
    if name in NO_TEXT:
        return
    assert lines or name in ONE_MESSAGE
    assert list(lost(gym, name, report, lines)) == []


@pytest.mark.parametrize("name", STEPS)
def test_odd_content_comes_through_as_lines_and_as_parquet(name: str, odd: sql.Connection, tmp_path: Path) -> None:
    """Also to pyarrow, with which `datasets` reads JSON lines, and which fills absent keys with null."""
    report = built(odd, name, tmp_path)
    lines = lines_of(report)
    assert lines
    assert name in NO_TEXT or list(lost(odd, name, report, lines)) == []
    if not has_both_arguments(lines):
        table = pa.json.read_json(report.files["train"][1], read_options=pa.json.ReadOptions(block_size=1 << 27))
        assert [without_nulls(row) for row in table.to_pylist()] == lines
    built(odd, name, tmp_path, "parquet")
    files = sorted((tmp_path / "parquet").glob("train*.parquet"))
    rows = [without_nulls(row) for file in files for row in decoded(pa.parquet.read_table(file))]
    assert sorted(rows, key=dump) == sorted(lines, key=dump)
