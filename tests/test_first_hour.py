"""The first hour: help by groups, near names, errors of queries, a workspace that is found, what there is to use."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rolloutops.cli.catalog import kinds
from rolloutops.cli.commands import check, collect, run
from rolloutops.cli.commands.list_ import SHOWN
from rolloutops.cli.help import help_text
from rolloutops.cli.main import COMMANDS, main
from rolloutops.config.resources import shipped
from rolloutops.errors import UsageError, did_you_mean
from rolloutops.layout import width
from rolloutops.steps.step import find_step
from rolloutops.store.user_query import view_comments
from rolloutops.store.workspace import open_workspace
from tests.helpers import environ, rolloutops, sums, write_jsonl


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace, data/w, that has four rollouts."""
    folder = tmp_path_factory.mktemp("project")
    write_jsonl(folder / "tasks.jsonl", sums(4))
    rolloutops(
        *("collect", "--input=tasks.jsonl", "--data=data/w", "--engine=scripted", "--environment=exact_match"),
        cwd=folder,
    )
    return folder


@pytest.fixture
def workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The workspace, by its name in the folder where the test stands."""
    monkeypatch.chdir(project)
    return "data/w"


def test_the_help_of_collect_begins_with_the_six_flags_that_everyone_needs() -> None:
    page = help_text(collect.COMMAND, "rolloutops")
    first = page.partition("Most used:\n")[2].partition("\n\n")[0]
    names = ("engine", "model", "num_repeats", "limit", "num_samples_in_parallel", "data")
    assert [line.split("=")[0] for line in first.splitlines() if line.startswith("  --")] == [f"  --{n}" for n in names]
    for command in (collect.COMMAND, run.COMMAND, check.COMMAND):
        page = help_text(command, "rolloutops")
        assert "Other flags:" not in page, "a flag is in no group of COLLECTING_GROUPS"
        for flag in command.flags:
            assert page.count(f"\n  --{flag.name}") + page.count(f"\n  --[no-]{flag.name}") >= 1


def test_an_unknown_step_gets_its_three_nearest_names() -> None:
    three = "did you mean 'metrics/rewards', 'metrics/reward_by_length' or 'metrics/reward_histogram'"
    with pytest.raises(UsageError, match=f"'metrics/reward', {three}"):
        find_step("metrics/reward")
    with pytest.raises(UsageError, match="'solve_rat', did you mean 'filter/solve_rate'"):
        find_step("solve_rat")
    with pytest.raises(UsageError, match="no step 'filter/xyz'; there are: filter/best_of_n"):
        find_step("filter/xyz")
    assert did_you_mean("exact_mtch", ["exact_match", "mcqa", "code"], most=3) == ", did you mean 'exact_match'?"
    assert did_you_mean("sft", ["sft_a", "sft_b", "x"], most=3) == ", did you mean 'sft_a' or 'sft_b'?"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT rewrd FROM rollouts", ["Referenced column", "  SELECT rewrd FROM rollouts", "         ^^^^^"]),
        ("SELECT 1 +\n  FROM x", ["syntax error", "  line 2:   FROM x", "            ^^^^"]),
        ("FROM rolouts", ["no view 'rolouts', did you mean 'rollouts'", "  FROM rolouts", "       ^^^^^^^"]),
        ("SELECT 1 +", ["syntax error", "  SELECT 1 +", "           ^"]),
    ],
)
@pytest.mark.parametrize("more", [[], ["--output=x.csv"]])
def test_an_error_of_a_query_shows_the_users_own_text(
    workspace: str, capsys: pytest.CaptureFixture[str], query: str, said: list[str], more: list[str]
) -> None:
    assert main(["sql", query, f"--data={workspace}", *more]) == 2
    sentence, *place = capsys.readouterr().err.splitlines()
    assert said[0] in sentence
    assert place[: len(said) - 1] == said[1:]


def test_show_tables_lists_the_documented_views(workspace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "show tables;", f"--data={workspace}", "--json"]) == 0
    listed = {row["name"]: row["description"] for row in json.loads(capsys.readouterr().out)}
    assert listed["rollouts"] == "one row for each rollout, with its task and its reward"
    assert set(view_comments()) < set(listed)
    assert all(listed.values())
    for name in listed:
        assert main(["sql", f"SELECT count(*) FROM {name}", f"--data={workspace}"]) == 0
    views = re.findall(r"CREATE OR REPLACE VIEW (\w+)", (shipped("sql") / "views.sql").read_text(encoding="utf-8"))
    assert list(view_comments()) == views, "a view has no comment"


@pytest.mark.parametrize("below", ["", "data", "data/w", "data/w/exports/sft"])
def test_a_workspace_is_found_from_the_folder_that_one_stands_in(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    (project / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(project / below)
    found = below != "data"
    for words in (["status"], ["sql", "SELECT count(*) FROM rollouts"], ["metrics", "--step=rewards"]):
        assert main(words) == (0 if found else 2)
        err = capsys.readouterr().err
        if found:
            assert re.match(r"workspace: (data/w|\.|\.\./\.\.)\n", err)
        else:
            assert f"{words[0]} needs a recipe, or --data=WORKSPACE\n" in err
    assert main(["collect"]) == 2, "what spends is told where"


def test_of_several_workspaces_one_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        open_workspace(Path("data", name), create=True)
    assert main(["status"]) == 2
    assert "status needs a recipe, or --data=WORKSPACE: here are data/a, data/b" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [40, 80])
def test_lists_and_help_fit_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for kind in kinds():
        assert main(["list", kind]) == 0
        listed = capsys.readouterr().out.rpartition("\n\n")[0]
        assert max(map(width, listed.splitlines())) <= columns
    for name in ("filter/solve_rate", "mix/shares", "scripted", "math", "verl"):
        assert main(["help", name]) == 0
        page = capsys.readouterr().out
        assert max(map(width, page.splitlines()[1:])) <= max(columns, 60), page


def test_everything_that_is_listed_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {kind: find() for kind, find in kinds().items()}
    assert set(map(len, listed.values())) != {0}
    for kind in SHOWN:
        for entry in listed[kind]:
            assert entry.about, f"{kind} {entry.name} has no description"
            assert "schema" not in entry.about, "a line for editors is no description"
            assert main(["help", entry.name]) == 0
            assert entry.name in capsys.readouterr().out
    assert {e.name for e in listed["builds"]} < {e.name for e in listed["steps"]}


def test_help_names_parameters_and_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "filter/solve_rate"]) == 0
    page = capsys.readouterr().out
    assert "  low: DOUBLE = 0.1\n      lowest mean reward kept\n" in page
    assert '  [[steps]]\n  kind = "filter"\n  name = "solve_rate"\n  use = "filter/solve_rate"\n' in page
    assert main(["help", "filter/solverate"]) == 2
    assert "nothing is named 'filter/solverate', did you mean 'filter/solve_rate'" in capsys.readouterr().err
    assert main(["list", "enviroment"]) == 2
    assert "got 'enviroment', did you mean 'environments'?" in capsys.readouterr().err
    assert main(["help", "collect"]) == 0
    assert capsys.readouterr().out == help_text(collect.COMMAND, "rolloutops")


def test_help_explains_a_file_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "mine.py"
    own.write_text('"""Counts words."""\n\n\ndef make(least: int = 3):\n    """least: words that are enough."""\n')
    assert main(["help", str(own)]) == 0
    page = capsys.readouterr().out
    assert "Counts words." in page
    assert "  least: a whole number = 3\n      words that are enough\n" in page


def test_a_new_project_runs_at_once(tmp_path: Path) -> None:
    said = rolloutops("new", "sums", cwd=tmp_path).stderr
    folder, commands = tmp_path / "sums", [line.split() for line in said.splitlines()[1:]]
    assert commands.pop(0) == ["cd", "sums"]
    done = {words[1]: rolloutops(*words[1:], cwd=folder) for words in commands}
    assert not any("later version" in one.stderr for one in done.values()), "a new recipe has its steps as [[steps]]"
    assert list(done) == ["check", "test", "run", "status"]
    assert "BAD" not in done["check"].stdout + done["test"].stdout
    assert (folder / "data/sums/exports/sft/train.jsonl").is_file()
    assert "24 of 24 gold answers score 1.0" in rolloutops("check", "sums.toml", cwd=folder).stdout
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, sentence in (("sums", "sums exists: choose another name"), ("x/..", "x/.. is not a name for a project")):
        assert sentence in rolloutops("new", name, cwd=tmp_path, code=2).stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("out", "into", "sentence"),
    [
        ("it is seven", "2", "put text in quotes, e.g. '2'"),
        ("it is seven", "b | c", "has 3 cells for 2 columns: a | b | c"),
        ("task_id | text", "task_id | since", "since cannot be it is seven"),
        ("reason  ", "rason  ", "not [('d', None, 1)]"),
        ("expect:\ntask_id", "expect:\ntask_id | text", "has 1 cell for 2 columns: a"),
    ],
)
def test_a_wrong_table_of_a_case_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    into: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "sums"]) == 0
    case = tmp_path / "sums/tests/filter/concise/bounds.txt"
    text = case.read_text(encoding="utf-8")
    assert out in text
    case.write_text(text.replace(out, into, 1), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "sums")
    capsys.readouterr()
    assert main(["test"]) == 2
    assert sentence in capsys.readouterr().out


def test_init_says_the_next_command(tmp_path: Path) -> None:
    assert rolloutops("init", cwd=tmp_path).stderr == "next:\n  rolloutops run recipes/demo.toml\n"
    into = rolloutops("init", "dpo_on_policy", "--into=my recipes", cwd=tmp_path)
    assert into.stderr == "next:\n  cd 'my recipes'\n  rolloutops run recipes/dpo_on_policy.toml\n"
    assert into.stdout.startswith("my recipes/recipes/dpo_on_policy.toml\n")


def completed(*words: str, folder: Path) -> list[str]:
    """What bash offers for a command line: its own completion of the last word, by the script."""
    script = f"""
eval "$({sys.executable} -m rolloutops completion bash)"
compopt() {{ :; }}  # it works only while a person completes
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p rolloutops | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    argv = ["bash", "--noprofile", "--norc", "-c", script, "bash", *words]
    done = subprocess.run(argv, cwd=folder, env=environ(), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_flags_and_files(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").touch()
    assert completed("rolloutops", "met", folder=tmp_path) == ["metrics"]
    assert set(completed("rolloutops", "", folder=tmp_path)) == {c.name for c in COMMANDS} | {"--help", "--version"}
    assert completed("rolloutops", "collect", "--num_r", folder=tmp_path) == ["--num_repeats="]
    assert completed("rolloutops", "collect", "--no", folder=tmp_path) == ["--no-keep_response"]
    assert completed("rolloutops", "collect", "--engine_a", folder=tmp_path) == ["--engine_args."]
    assert completed("rolloutops", "status", "--j", folder=tmp_path) == ["--json"]
    assert completed("rolloutops", "list", "en", folder=tmp_path) == ["engines", "environments"]
    assert completed("rolloutops", "completion", "", folder=tmp_path) == ["bash", "zsh", "fish"]
    assert completed("rolloutops", "run", "mi", folder=tmp_path) == ["mine.toml"]
    assert completed("rolloutops", "sql", "--recipe", "=", "mi", folder=tmp_path) == ["mine.toml"]
    assert completed("rolloutops", "sql", "--recipe", "=", folder=tmp_path) == ["mine.toml"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_names_every_command_and_flag_and_can_be_read(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"\b{command.name}\b", script)
        for flag in command.flags:
            assert re.search(rf"(-l |--)(no-)?{flag.name}\b", script)
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_for_a_person_at_a_terminal(tmp_path: Path) -> None:
    program = tmp_path / "rolloutops"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rolloutops "$@"\n')
    program.chmod(0o755)
    theirs, ours = pty.openpty()
    env = environ(PATH=f"{tmp_path}:{os.environ['PATH']}", PS1="$ ", TERM="dumb", INPUTRC="/dev/null")
    with subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-i"], stdin=ours, stdout=ours, stderr=ours, env=env, start_new_session=True
    ) as shell:
        os.write(theirs, b'eval "$(rolloutops completion bash)"\nrolloutops met\t--st\tfields --data=x\nexit\n')
        os.close(ours)
        seen = b""
        with contextlib.suppress(OSError):  # the terminal is gone as soon as bash is
            while data := os.read(theirs, 4096):
                seen += data
        shell.wait(timeout=600)
    os.close(theirs)
    assert b"rolloutops metrics --step=fields --data=x" in seen.replace(b"\x07", b""), seen.decode()
