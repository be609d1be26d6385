"""Sentences that count: one of a thing is `1 rollout is`, and nowhere `1 rollouts are`."""

from __future__ import annotations

import re
from pathlib import Path

from rolloutops.layout import all_of, count, verb
from tests.helpers import CHECKOUT, rolloutops, sums, write_jsonl

PLURALS = r"rollouts|lines|rows|tasks|verdicts|attempts|files|parts|requests|steps|keys|pairs|tokens|failures|calls"
WRONG = re.compile(rf"(?<![\d,./])1 (({PLURALS})\b(?!/)|(given up )?(are|were|have)\b)")
BY_HAND = re.compile(
    rf"\{{(len\([^{{}}]*\)|[^{{}}]*:,)\}} (rejected |input |output )?({PLURALS})\b(?!/| open| failed)"
    r"""|if \w[\w.()\[\]"']* == 1 else ["']?s["']"""
)
"""A count that a sentence makes by hand."""


def test_counts_agree_with_their_nouns_and_verbs() -> None:
    assert [count(1, "task"), count(2000, "task"), count(0, "task")] == ["1 task", "2,000 tasks", "0 tasks"]
    assert [all_of(1, "task"), all_of(3, "task")] == ["the one task", "all 3 tasks"]
    assert [verb(1, "are"), verb(2, "are"), verb(1, "wait"), verb(0, "have")] == ["is", "are", "waits", "have"]


def test_no_command_says_one_things(tmp_path: Path) -> None:
    """One task and one of everything that can be counted, through each command that tells of it."""
    write_jsonl(tmp_path / "one.jsonl", sums(1))
    (tmp_path / "r.toml").write_text(
        'data = "w"\n[datasets.one]\ninput = "one.jsonl"\nenvironment = "exact_match"\n[collect]\nengine = "scripted"\n'
        'model = "m"\n[build.sft]\nuse = "build/sft_messages"\nvalidation = 0.0\ntest = 0.0\n'
    )
    (tmp_path / "two.jsonl").write_text('{"prompt": "What is 1 + 1?", "answer": "2"}\nnot JSON\n')
    failing = ("--data=f", "--max_given_up=1", "--engine_args.faults=bad_request:1")
    said = []
    for words, code in (
        (("chunk", "r.toml"), 0),
        (("collect", "r.toml"), 0),
        (("collect", "r.toml"), 0),
        (("verify", "r.toml"), 0),
        (("status", "r.toml"), 0),
        (("run", "r.toml"), 0),
        (("export", "r.toml", "--output=out.jsonl"), 0),
        (("trace", "w/exports/sft/train.jsonl", "--row=1"), 0),
        (("collect", "r.toml", *failing), 0),
        (("collect", "r.toml", *failing), 0),
        (("status", "--data=f"), 0),
        (("chunk", "--data=g", "--input=two.jsonl"), 2),
        (("import", "out.jsonl", "--data=i", "--dataset=one"), 0),
        (("lint", "w/exports/sft/train.jsonl", "--target=sft_messages"), 0),
    ):
        done = rolloutops(*words, cwd=tmp_path, code=code, COLUMNS="200")
        said += [f"{words[0]}: {line}" for line in (done.stdout + done.stderr).splitlines()]
    assert [line for line in said if WRONG.search(line)] == []


def test_every_count_in_a_sentence_is_made_by_the_one_helper() -> None:
    found = [
        f"{path.relative_to(CHECKOUT)}:{number}: {line.strip()}"
        for path in sorted((CHECKOUT / "rolloutops").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BY_HAND.search(line) and path.name != "layout.py"
    ]
    assert found == []
