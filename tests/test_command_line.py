"""The command line: text arrives as typed, nothing runs before it is checked, and a mistake is one helpful line."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rolloutops.cli.run import Command, Flag, Parsed, help_text, main
from rolloutops.errors import EngineError, UsageError

PACKAGE = Path(__file__).parents[1]
RAN: list[Parsed] = []
DOES: list[Callable[[], Any]] = []


def work(parsed: Parsed) -> Any:
    """The body of every command here: it notes what it was given, and does what the test wants."""
    RAN.append(parsed)
    return DOES[0]() if DOES else None


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


CHUNK = Command(
    "chunk",
    work,
    "Cut task files into parts.",
    flags=(
        Flag("input", list[str], "task files", default=("tasks.jsonl",)),
        Flag("rows", int, "tasks in a part", default=50_000),
        Flag("notes", str, "kept with the run"),
        Flag("dry_run", bool, "say what would be done, and stop"),
    ),
    positionals=(Flag("first", str, "the first"), Flag("second", str, "the second")),
)
COLLECT = Command(
    "collect",
    work,
    "Answer the pending tasks.",
    flags=(
        Flag("model", str, "the model's name or path"),
        Flag("engine", str, "who answers", default="vllm", choices=("vllm", "openai", "scripted")),
        Flag("input", list[str], "task files"),
        Flag("num_repeats", int, "rollouts for each task", default=1),
        Flag("num_samples_in_parallel", int | str, "rollouts in flight", default="auto", choices=("auto",)),
        Flag("limit", int | None, "so many tasks at most"),
        Flag("budget", float, "dollars at most", default=0),
        Flag("shares", dict, "a weight for each dataset"),
        Flag("keep", list[str] | None, "columns to keep", choices=("text", "turns")),
        Flag("seeds", list[int], "one for each repeat"),
        Flag("cache", bool, "reuse a verdict on the same content", default=True),
        Flag("verify", bool | str, "when to verify", choices=("later",)),
    ),
    positionals=(Flag("recipe", str, "a recipe's name or path"),),
    open_tables=("responses_create_params", "engine_args", "client.headers"),
    about="""
        Parameters of the recipe lie over those of the task, and those of the command line over both, which is what
        the users of NeMo Gym expect.

        Examples:
          rolloutops collect recipes/gsm8k.toml --num_repeats=4
        """,
    group="Stages",
    aliases={"input_jsonl_fpath": "input", "agent_params": "engine_args"},
)
SQL = Command(
    "sql",
    work,
    "Query the tables.",
    positionals=(Flag("query", str, "one SELECT", required=True), Flag("files", list[str], "more tables")),
    group="Look",
)
COMMANDS = (CHUNK, COLLECT, SQL)


@dataclass(frozen=True)
class Answer:
    """What one command line did."""

    code: int
    out: str
    err: str
    ran: list[Parsed] = field(default_factory=list)

    @property
    def flags(self) -> dict[str, Any]:
        return self.only.flags

    @property
    def only(self) -> Parsed:
        assert (self.code, self.err, len(self.ran)) == (0, "", 1), self
        return self.ran[0]

    @property
    def mistake(self) -> str:
        """The one line that says what is wrong, of a command that did not run."""
        assert (self.code, self.out, self.ran, self.err.count("\n")) == (2, "", [], 1), self
        return self.err.removesuffix("\n")


def type_in(*argv: str, does: Callable[[], Any] | None = None) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    RAN.clear()
    DOES[:] = [does] if does else []
    with redirect_stdout(out), redirect_stderr(err):
        code = main(argv, COMMANDS, "rolloutops", "1.2.3", "Rollouts are rows.")
    return Answer(code, out.getvalue(), err.getvalue(), list(RAN))


# ------------------------------------------------------------------- what Fire does on its own, and must not do here


def test_row_1_a_mistyped_flag_runs_nothing() -> None:
    assert type_in("chunk", "a.jsonl", "--rowz=5").mistake == "rolloutops chunk: no flag --rowz, did you mean '--rows'?"


def test_row_2_help_anywhere_runs_nothing() -> None:
    for argv in (["chunk", "x", "--help"], ["chunk", "-h", "--rowz=5"], ["--help", "chunk"], ["help", "chunk"]):
        assert type_in(*argv) == Answer(0, help_text(CHUNK, "rolloutops"), "")


def test_row_3_help_of_a_command_that_takes_any_key_is_help() -> None:
    assert type_in("collect", "vllm", "--help") == Answer(0, help_text(COLLECT, "rolloutops"), "")


TEXTS = {
    4: ["1e5", "0x10", "1_000", "1.10", "20240101", "007"],
    5: ["a,b", "1,", "()", "{1}", "...", "b'x'", "[1, 2]"],
    6: ["C# code", "x#y", "#"],
    7: ['{"stop": null, "a": true}'],
    8: ["None", "True", "true", "null", "False"],
}


@pytest.mark.parametrize(("row", "text"), [(row, text) for row, texts in TEXTS.items() for text in texts])
def test_rows_4_to_8_text_is_not_python(row: int, text: str) -> None:
    for argv in ([f"--notes={text}"], ["--notes", text], [f"+notes={text}"], [f"notes={text}"]):
        assert type_in("chunk", *argv).flags == {"notes": text}
    assert type_in("chunk", text).only.positionals == {"first": text}


def test_row_7_json_is_json_where_json_is_asked_for() -> None:
    text, value = '{"stop": null, "a": true}', {"stop": None, "a": True}
    parsed = type_in("collect", f"--shares={text}", f"--engine_args={text}", f"+engine_args.b={text}").only
    assert (parsed.flags, parsed.overrides) == ({"shares": value}, {"engine_args": {**value, "b": value}})


@pytest.mark.parametrize("text", ["false", "no", "0", "off", "False", "NO"])
def test_row_9_false_is_false(text: str) -> None:
    assert type_in("chunk", f"--dry_run={text}").flags == {"dry_run": False}


def test_row_10_a_true_or_false_flag_eats_no_argument() -> None:
    parsed = type_in("chunk", "--dry_run", "a").only
    assert (parsed.flags, parsed.positionals) == ({"dry_run": True}, {"first": "a"})
    expected = "rolloutops chunk: write --dry_run=false: a true or false flag has its value after '='"
    assert type_in("chunk", "--dry_run", "false").mistake == expected


def test_row_11_no_switches_off_and_cuts_no_other_name() -> None:
    for spelling in ("--no-dry-run", "--no_dry_run", "--no-dry_run"):
        assert type_in("chunk", spelling).flags == {"dry_run": False}
    assert type_in("chunk", "--notes=").flags == {"notes": ""}
    assert type_in("chunk", "--notes").mistake == "rolloutops chunk: --notes needs a value"
    assert type_in("chunk", "--nodry_run").mistake == "rolloutops chunk: no flag --nodry_run, did you mean '--dry_run'?"
    assert "--rows expects a whole number" in type_in("chunk", "--no-rows").mistake
    assert "takes no value" in type_in("chunk", "--no-dry_run=true").mistake


def test_row_12_a_flag_has_the_value_that_it_declares() -> None:
    assert type_in("chunk", "--rows").mistake == "rolloutops chunk: --rows needs a value"
    assert type_in("chunk", "--rows", "--dry_run").mistake == "rolloutops chunk: --rows needs a value"
    assert type_in("chunk", "--rows=abc").mistake == "rolloutops chunk: --rows expects a whole number, got 'abc'"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-model", "x"], "no flag -model: a flag begins with two hyphens, did you mean '--model'?"),
        (["-m=x"], "no flag -m: a flag begins with two hyphens, did you mean '--model'?"),
        (["-n", "5"], "did you mean '--num_repeats' or '--num_samples_in_parallel'?"),
        (["-5x"], None),
        (["–model=x"], "no flag –model: a flag begins with two hyphens, did you mean '--model'?"),
        (["-q"], "no flag -q: a flag begins with two hyphens; --help lists the flags"),
    ],
)
def test_row_13_one_hyphen_is_a_mistake(argv: list[str], expected: str | None) -> None:
    answer = type_in("collect", *argv)
    assert answer.only.positionals == {"recipe": argv[0]} if expected is None else answer.mistake.endswith(expected)


def test_row_14_only_declared_commands_are_commands() -> None:
    for name in ("_private", "keys", "pop", "__class__", "upper", ""):
        assert type_in(name).mistake == f"rolloutops: no command {name!r}; --help lists the commands"
    assert type_in("colect").mistake == "rolloutops: no command 'colect', did you mean 'collect'?"
    assert "must come before its flags" in type_in("--rows=5", "chunk").mistake
    expected = "rolloutops chunk: 2 arguments too many (after SECOND): 'upper' 'title'"
    assert type_in("chunk", "a", "b", "upper", "title").mistake == expected


def test_row_15_what_a_command_returns_is_not_printed() -> None:
    values: list[Any] = [{"a": (1, 2)}, "text", [1], None, 0]
    for value in values:
        answer = type_in("chunk", does=partial(copy, value))
        assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_row_16_each_end_has_its_exit_code_and_its_line() -> None:
    def ends(act: Callable[[], Any]) -> tuple[int, str, str]:
        answer = type_in("chunk", does=act)
        return answer.code, answer.out, answer.err

    assert ends(lambda: 3) == (3, "", "")
    assert ends(raising(EngineError("the server\n  died"))) == (2, "", "rolloutops: the server died\n")
    interrupted = "rolloutops: interrupted; rerun the same command to continue\n"
    assert ends(raising(KeyboardInterrupt())) == (130, "", interrupted)
    code, out, err = ends(raising(KeyError("x")))
    assert (code, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.splitlines()[-2] == "KeyError: 'x'"
    assert err.splitlines()[-1].startswith("rolloutops: this is a bug in rolloutops 1.2.3")
    assert "fire" not in err


def test_row_17_help_is_plain_text_on_stdout_even_on_a_terminal(tmp_path: Path) -> None:
    pager, paged = tmp_path / "pager", tmp_path / "paged"
    pager.write_text(f"#!/bin/sh\ntouch {paged}\n")
    pager.chmod(0o755)
    ours, theirs = pty.openpty()
    with program(tmp_path, "copy", "--help", stdin=theirs, stdout=theirs, env={"PAGER": str(pager)}) as process:
        os.close(theirs)
        assert process.wait(60) == 0
    seen = os.read(ours, 1 << 16).decode().replace("\r\n", "\n")
    os.close(ours)
    with program(tmp_path, "copy", "--help", stdout=subprocess.PIPE) as process:
        assert seen == process.communicate()[0]
    assert seen.startswith("Usage: rolloutops copy")
    assert "\x1b" not in seen
    assert not paged.exists()


def test_row_18_hyphens_and_what_follows_two_are_positional() -> None:
    assert type_in("chunk", "a", "-").only.positionals == {"first": "a", "second": "-"}
    assert type_in("chunk", "--rows", "-5").flags == {"rows": -5}
    for word in ("--interactive", "--trace", "--completion", "--help", "-h", "--", "\x1f", "-"):
        assert type_in("chunk", "--", word).only.positionals == {"first": word}
    assert type_in("chunk", "--", "rows=5").only.positionals == {"first": "rows=5"}
    assert "2 arguments too many" in type_in("chunk", "a", "-", "b", "--", "-v").mistake


def test_row_19_keys_of_overrides_stay_as_typed() -> None:
    for spelling in ("--client.headers.X-Api-Key=a-b_c", "+client.headers.X-Api-Key=a-b_c"):
        assert type_in("collect", spelling).only.overrides == {"client": {"headers": {"X-Api-Key": "a-b_c"}}}
    argv = ("--engine-args.a-b.c-d", "1", "++agent_params.x=[2]", "responses_create_params.t=0.7")
    expected = {"engine_args": {"a-b": {"c-d": 1}, "x": [2]}, "responses_create_params": {"t": 0.7}}
    assert type_in("collect", *argv).only.overrides == expected


def test_row_20_the_same_flag_twice_must_say_the_same() -> None:
    assert type_in("collect", "--num_repeats=1", "+num-repeats=2").mistake.endswith(
        "--num_repeats is given twice, as '1' and as '2'"
    )
    assert type_in("collect", "--cache", "--no-cache").mistake.endswith("given twice, as 'true' and as 'false'")
    assert type_in("collect", "--num_repeats=2", "num_repeats=02").flags == {"num_repeats": 2}
    overrides = ("+engine_args.a.b=1", "+engine_args.a.b=2")
    assert type_in("collect", *overrides).mistake.endswith("--engine_args.a.b is given twice, as '1' and as '2'")
    assert type_in("collect", "--input=a,b", "+input_jsonl_fpath=c", '--input=["d,e"]').flags == {
        "input": ["a", "b", "c", "d,e"]
    }


# ------------------------------------------------------------------------------------------------ names and values


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("--limit=null", {"limit": None}),
        ("+limit=null", {"limit": None}),
        ("++limit=5", {"limit": 5}),
        ("limit=None", {"limit": None}),
        ("--num-repeats 4", {"num_repeats": 4}),
        ("--num_samples_in_parallel=auto", {"num_samples_in_parallel": "auto"}),
        ("--num_samples_in_parallel=64", {"num_samples_in_parallel": 64}),
        ("--budget=1e3", {"budget": 1000.0}),
        ("--budget -.5", {"budget": -0.5}),
        ("--input=a,b", {"input": ["a", "b"]}),
        ("+input_jsonl_fpath=[a,b]", {"input": ["a", "b"]}),
        ('--input=["a,b"]', {"input": ["a,b"]}),
        ("--input=[]", {"input": []}),
        ("--input=a --input=b", {"input": ["a", "b"]}),
        ("--seeds=1,2 --seeds=3", {"seeds": [1, 2, 3]}),
        ("--keep=text,turns", {"keep": ["text", "turns"]}),
        ("--keep=none", {"keep": None}),
        ("--verify", {"verify": True}),
        ("--verify=later", {"verify": "later"}),
        ("--no-verify", {"verify": False}),
        ("--cache=yes", {"cache": True}),
        ("--model a=b", {"model": "a=b"}),
        ("--model=", {"model": ""}),
        ("--model=--cache", {"model": "--cache"}),
    ],
)
def test_a_flag_is_read_as_its_declaration_says(words: str, flags: dict[str, Any]) -> None:
    answer = type_in("collect", *words.split(" "))
    assert [(type(value), value) for value in answer.flags.values()] == [(type(v), v) for v in flags.values()]
    assert answer.flags == flags
    assert answer.only.argv == ["collect", *words.split(" ")]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--num_repeat=4", "no flag --num_repeat, did you mean '--num_repeats'?"),
        ("num_repeat=4", "no flag --num_repeat, did you mean '--num_repeats'?"),
        ("+input_jsonl_path=x", "no flag --input_jsonl_path, did you mean '--input_jsonl_fpath'?"),
        ("--NUM_REPEATS=4", "no flag --NUM_REPEATS, did you mean '--num_repeats'?"),
        ("--num=4", "no flag --num, did you mean '--num_repeats' or '--num_samples_in_parallel'?"),
        (
            "--temperature=1",
            "no flag --temperature; to set a key of a table, write --responses_create_params.temperature",
        ),
        (
            "--response_create_param.temperature=1",
            "no flag --response_create_param.temperature, did you mean '--responses_create_params.temperature'?",
        ),
        ("--recipe=x.toml", "no flag --recipe; RECIPE is given without a name"),
        ("--num_repeats=four", "--num_repeats expects a whole number, got 'four'"),
        ("--num_repeats=1e3", "--num_repeats expects a whole number, got '1e3'"),
        ("--num_repeats=1_000", "--num_repeats expects a whole number, got '1_000'"),
        ("--num_repeats=null", "--num_repeats expects a whole number, got 'null'"),
        ("--limit=all", "--limit expects null or a whole number, got 'all'"),
        ("--budget=nan", "--budget expects a number, got 'nan'"),
        ("--budget=1e999", "--budget expects a number, got '1e999'"),
        ("--cache=maybe", "--cache expects true or false, got 'maybe'"),
        ("--shares=[1]", "--shares expects a JSON object, got '[1]'"),
        ("--seeds=1,x", "--seeds expects a list, got '1,x'"),
        ("--input=a,,b", "--input expects a list, got 'a,,b'"),
        ("--keep=txt", "--keep expects null or a list of 'text' or 'turns', got 'txt', did you mean 'text'?"),
        (
            "--engine=vlm",
            "--engine expects one of 'vllm', 'openai', 'scripted', got 'vlm', did you mean 'vllm'?",
        ),
        (
            "--num_samples_in_parallel=all",
            "--num_samples_in_parallel expects a whole number or 'auto', got 'all'",
        ),
        ("--model -x", "--model needs a value, did you mean --model=-x?"),
        ("--model", "--model needs a value"),
        (
            "+engine_args.x=NaN",
            "--engine_args.x expects JSON or text, and NaN is not a JSON number (as text: '\"NaN\"')",
        ),
        ('+engine_args.x={"a":[-Infinity]}', "and -Infinity is not a JSON number (as text: '\"-Infinity\"')"),
        ("+engine_args.x=1e999", "and 1e999 is not a JSON number (as text: '\"1e999\"')"),
        ("--seeds=" + "[" * 9999, "--seeds expects a list, got '" + "[" * 57 + "...'"),
        ("--engine_args=1", "--engine_args expects a JSON object, got '1'"),
        ("--engine_args.=1", "--engine_args. has an empty key"),
        ("--engine_args.a..b=1", "--engine_args.a..b has an empty key"),
        ("--engine_args.a=1 --engine_args.a.b=2", "--engine_args.a is given twice, as '1' and as '{\"b\": 2}'"),
        ("--client.header.X-y.z=1", "no flag --client.header.X-y.z, did you mean '--client.headers.X-y.z'?"),
        ("--zzz.q=1", "no flag --zzz.q; to set a key of a table, write --responses_create_params.q"),
        ("a.toml b.toml", "one argument too many (after RECIPE): 'b.toml'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_and_what_next(words: str, line: str) -> None:
    assert type_in("collect", *words.split(" ")).mistake.removeprefix("rolloutops collect: ").endswith(line)


def test_positionals() -> None:
    for path in ("data/run=a/x", "./limit=5", "http://h/x?limit=5", "x=y"):
        assert type_in("collect", path).only.positionals == {"recipe": path}
    query = "SELECT 'C# code' AS x -- none\nWHERE limit=5"
    assert type_in("sql", query, "a,b", "c").only.positionals == {"query": query, "files": ["a,b", "c"]}
    assert type_in("sql").mistake == "rolloutops sql: QUERY is missing: one SELECT"


def test_a_declaration_that_contradicts_itself_is_refused() -> None:
    flag = Flag("x", int, "")
    with pytest.raises(ValueError, match="declared twice"):
        Command("c", work, "", flags=(flag, flag))
    with pytest.raises(ValueError, match="neither a flag nor a table"):
        Command("c", work, "", flags=(flag,), aliases={"y": "z"})
    with pytest.raises(ValueError, match="cannot be read"):
        Command("c", work, "", flags=(Flag("x", bytes, ""),))


TEXT = st.text(st.characters(codec="utf-8"), max_size=40) | st.text("=-+,.#[]{}'\"\\ \n\x1f0aeN", max_size=8)


@settings(max_examples=500, deadline=None)
@given(TEXT)
def test_any_text_arrives_unchanged(text: str) -> None:
    for spelling in (f"--notes={text}", f"+notes={text}", f"notes={text}"):
        assert type_in("chunk", spelling).flags == {"notes": text}
    assert type_in("chunk", "--", text, text).only.positionals == {"first": text, "second": text}
    if not text.startswith(("-", "–", "—")):
        assert type_in("chunk", "--notes", text).flags == {"notes": text}
        assume("=" not in text)
        assert type_in("chunk", text).only.positionals == {"first": text}


@settings(max_examples=500, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    ),
    st.text("abz_-09", min_size=1, max_size=5),
)
def test_any_json_value_arrives_through_every_spelling(value: Any, key: str) -> None:
    for spelling in ("--engine_args.{}={}", "--engine-args.{}={}", "+engine_args.{}={}", "++engine_args.{}={}"):
        parsed = type_in("collect", spelling.format(key, json.dumps(value))).only
        assert parsed.overrides == {"engine_args": {key: value}}
    whole = f"--engine_args={json.dumps({key: value})}"
    assert type_in("collect", whole).only.overrides == {"engine_args": {key: value}}


WORDS = TEXT | st.sampled_from(
    [
        "--num_repeats=4",
        "--num_repeats",
        "4",
        "+limit=null",
        "--limit=x",
        "--cache",
        "--no-cache",
        "-m",
        "--x",
        "a.toml",
        "--engine=vllm",
        "--",
        "-h",
        "-",
        "--engine_args.a=1",
        "--engine_args.a.b=2",
        "--engine_args={}",
        "+engine_args=1",
        "--input=a,b",
        "--input=[",
        "input=c",
        "help",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=6))
def test_any_command_line_runs_once_or_says_why_not(words: list[str]) -> None:
    answer = type_in("collect", *words)
    if answer.code == 0:
        assert (len(answer.ran), answer.out) in ((1, ""), (0, help_text(COLLECT, "rolloutops")))
    else:
        assert answer.mistake.startswith("rolloutops collect: ")


# ------------------------------------------------------------------------------------------------------------ help


def test_the_help_of_a_command() -> None:
    assert (
        help_text(COLLECT, "rolloutops")
        == """\
Usage: rolloutops collect [RECIPE] [--flag=value ...]

Answer the pending tasks.

Arguments:
  RECIPE  a recipe's name or path

Flags:
  --model=TEXT                      the model's name or path
  --engine=vllm|openai|scripted     who answers (default: vllm)
  --input=A,B                       task files
  --num_repeats=N                   rollouts for each task (default: 1)
  --num_samples_in_parallel=N|auto  rollouts in flight (default: auto)
  --limit=N|null                    so many tasks at most
  --budget=X                        dollars at most (default: 0)
  --shares=JSON                     a weight for each dataset
  --keep=A,B|null                   columns to keep (one of text, turns)
  --seeds=A,B                       one for each repeat
  --[no-]cache                      reuse a verdict on the same content (default: true)
  --verify=true|false|later         when to verify

Recipe keys settable as flags (values are parsed as JSON, otherwise as text):
  --responses_create_params.KEY=VALUE
  --engine_args.KEY=VALUE
  --client.headers.KEY=VALUE

Other names:
  --input_jsonl_fpath  the same as --input
  --agent_params       the same as --engine_args

Parameters of the recipe lie over those of the task, and those of the command line over both, which
is what the users of NeMo Gym expect.

Examples:
  rolloutops collect recipes/gsm8k.toml --num_repeats=4
"""
    )


def test_help_is_never_wider_than_it_says() -> None:
    long = Command("long", work, "s " * 200, (Flag("a_very_long_name_for_just_a_single_flag", int, "word " * 60),))
    lines = help_text(long, "rolloutops").splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[lines.index("  --a_very_long_name_for_just_a_single_flag=N") + 1].startswith(" " * 38 + "word word")


def test_the_list_of_commands() -> None:
    page = """\
Usage: rolloutops COMMAND [ARGUMENTS] [--flag=value ...]

Rollouts are rows.

Commands:
  chunk    Cut task files into parts.

Stages:
  collect  Answer the pending tasks.

Look:
  sql      Query the tables.

'rolloutops COMMAND --help' explains a command; 'rolloutops --version' prints the version.
"""
    for argv in ([], ["--help"], ["-h"], ["help"], ["help", "--help"]):
        assert type_in(*argv) == Answer(0, page, "")
    assert type_in("--version") == Answer(0, "rolloutops 1.2.3\n", "")
    assert type_in("help", "colect").mistake == "rolloutops: no command 'colect', did you mean 'collect'?"


# ------------------------------------------------------------------------------------------------ the process itself

PROGRAM = """
import sys, time
from rolloutops.cli.run import Command, Flag, main

def copy(parsed):
    for _ in range(parsed.flags["lines"]):
        print("x" * 99)
    if parsed.flags.get("wait"):
        print("waiting", file=sys.stderr, flush=True)
        time.sleep(60)

flags = Flag("lines", int, "how many"), Flag("wait", bool, "then wait")
code = main(sys.argv[1:], [Command("copy", copy, "Print lines.", flags)], "rolloutops", "1.2.3", "About.")
if code == 2:
    print(" ".join(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def program(folder: Path, *argv: str, env: dict[str, str] | None = None, **streams: Any) -> subprocess.Popen[str]:
    """Start a small program that has one command, `copy`."""
    script = folder / "program.py"
    script.write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": str(PACKAGE), **(env or {})}
    return subprocess.Popen([sys.executable, str(script), *argv], text=True, env=env, **streams)


def test_help_and_mistakes_load_nothing_heavy(tmp_path: Path) -> None:
    for argv in (["copy", "--help"], ["help"], ["copy", "--line=5"], ["cpoy"], ["copy", "--lines=x"]):
        with program(tmp_path, *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate()
        if process.returncode == 0:
            assert out.startswith("Usage: ")
            continue
        said, loaded = err.splitlines()
        assert said.startswith("rolloutops")
        assert "rolloutops.cli.run" in loaded.split()
        assert not {"duckdb", "pyarrow", "polars", "vllm", "aiohttp", "openai", "fire"} & set(loaded.split())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path: Path, unbuffered: str) -> None:
    env = {"PYTHONUNBUFFERED": unbuffered}
    for lines in (1, 10_000):  # the pipe breaks at the last flush, or on the way
        reader, writer = os.pipe()
        os.close(reader)
        with program(tmp_path, "copy", f"--lines={lines}", env=env, stdout=writer, stderr=-1) as process:
            os.close(writer)
            assert (process.communicate()[1], process.returncode) == ("", 141)


def test_another_broken_pipe_is_not_taken_for_the_readers() -> None:
    answer = type_in("chunk", does=raising(BrokenPipeError(errno.EPIPE, "a worker died")))
    assert (answer.code, "a worker died" in answer.err) == (1, True)


def test_interrupting_ends_with_a_sentence(tmp_path: Path) -> None:
    with program(tmp_path, "copy", "--lines=0", "--wait", stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == "rolloutops: interrupted; rerun the same command to continue\n"
    assert process.returncode == 130


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_a_sentence(tmp_path: Path) -> None:
    for unbuffered in ("", "1"):
        env = {"PYTHONUNBUFFERED": unbuffered}
        with open("/dev/full", "w") as full:
            process = program(tmp_path, "copy", "--lines=1", env=env, stdout=full, stderr=-1)
        with process:
            said = process.communicate()[1].splitlines()
        assert (process.returncode, said[0]) == (2, "rolloutops: no space is left on the device")
        assert len(said) == 2  # the other line tells the modules, as it does after each error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "x", "data/part"), "no space is left on the device: data/part"),
        (OSError(errno.EACCES, "x", "data/part"), "permission denied: data/part"),
        (OSError(errno.EROFS, "x", "a", None, "b"), "the file system is read-only: b"),
        (OSError(errno.ENOSPC, "x"), "no space is left on the device"),
        (MemoryError(), "out of memory: reduce concurrency or batch size, then rerun"),
    ],
)
def test_a_hindrance_of_the_machine_is_a_sentence(error: BaseException, line: str) -> None:
    answer = type_in("chunk", does=raising(error))
    assert (answer.code, answer.out, answer.err) == (2, "", f"rolloutops: {line}\n")


def test_errors_are_raised_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLOUTOPS_TRACEBACK", "1")
    with pytest.raises(EngineError, match="the server died"):
        type_in("chunk", does=raising(EngineError("the server died")))
    with pytest.raises(UsageError):
        type_in("chunk", "--rowz=5")
    monkeypatch.setenv("ROLLOUTOPS_TRACEBACK", "0")
    assert type_in("chunk", "--rowz=5").code == 2
