"""The first hour: help by groups, near names, errors of queries, a workspace that is found, and what there is to use."""

from __future__ import annotations

from rolloutops.cli.commands import check, collect, run
from rolloutops.cli.help import help_text


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
