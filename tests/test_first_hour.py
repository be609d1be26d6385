"""The first hour: help by groups, near names, errors of queries, a workspace that is found, what there is to use."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rolloutops.cli.commands import check, collect, run
from rolloutops.cli.help import help_text
from rolloutops.cli.main import main
from rolloutops.config.resources import shipped
from rolloutops.errors import UsageError, did_you_mean_one_of
from rolloutops.steps.step import find_step
from rolloutops.store.user_query import view_comments
from rolloutops.store.workspace import open_workspace
from tests.helpers import rolloutops, sums, write_jsonl


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
        assert "Other flags:" not in page, "a flag stands in no group of COLLECTING_GROUPS"
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
    assert did_you_mean_one_of("exact_mtch", ["exact_match", "mcqa", "code"]) == ", did you mean 'exact_match'?"
    assert did_you_mean_one_of("sft", ["sft_a", "sft_b", "x"]) == ", did you mean 'sft_a' or 'sft_b'?"


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
