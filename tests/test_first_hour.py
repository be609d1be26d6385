"""The first hour: help by groups, near names, errors of queries, a workspace that is found, what there is to use."""

from __future__ import annotations

import pytest

from rolloutops.cli.commands import check, collect, run
from rolloutops.cli.help import help_text
from rolloutops.errors import UsageError, did_you_mean_one_of
from rolloutops.steps.step import find_step


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
