"""What a format has no place for, media and the role developer, is refused or converted by every build and linter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rolloutops.build.build import build
from rolloutops.build.lint import targets
from rolloutops.config.recipe import StepUse
from rolloutops.config.resources import shipped
from rolloutops.errors import StepError
from rolloutops.steps.selection import select
from rolloutops.steps.step import read_step
from tests.given import dump, workspace
from tests.test_lint import blocks, linted

BUILDS = {path.stem: read_step(f"build/{path.stem}", path) for path in sorted((shipped("sql") / "build").glob("*.sql"))}
MEDIA = [
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}, "sha256": "ab"},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
    {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}},
    {"type": "image_url", "image_url": {"url": "m/a.png"}, "sha256": "ab"},
]
REFERENCES = ["iVBORw0KGgo=", "UklGRg==", "https://example.com/a.mp4", "JVBERi0=", "m/a.png"]
DATA, SOUND, CLIP, FILE, PICTURE = range(5)
FILES, LINKS, DRAWN = frozenset([PICTURE]), frozenset([DATA, CLIP, PICTURE]), frozenset([DATA, PICTURE])
SENT, ALL = frozenset([DATA]), frozenset(range(5))
PLACES = {
    **dict.fromkeys(["sharegpt", "llamafactory_kto", "llamafactory_preference"], FILES),
    **dict.fromkeys(["ms_swift", "ms_swift_kto", "ms_swift_preference", "verl"], LINKS),
    **dict.fromkeys(["sft_messages", "sft_prompt_completion"], DRAWN),
    **dict.fromkeys(["openai_sft", "openai_preference"], SENT),
    "rl_gym": ALL,
}
"""What a build has a place for: columns of files or also of URLs, OpenAI's parts of URLs and data, NeMo Gym's rows."""

LINTED = {"ms_swift": LINKS, "openai_sft": SENT, "openai_preference": SENT, "rl_gym": ALL}
"""What a linter accepts as a part in a line."""

WORDS = "an image, audio, video or file part: this format has no place for it, and the model would learn to answer"
ROLE = "role developer: chat templates and loaders leave the message out, skip the row or stop; use role system"
OWN = {"rl_gym": {"agent_name": "a"}}


def rollouts(*prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two rollouts of a task for each prompt; all that any build reads is there."""
    turns = [{"prompt_token_ids": [1, 2], "generation_token_ids": [3], "generation_log_probs": [-0.1]}]
    found = []
    for task, prompt in enumerate(prompts):
        for index, text in enumerate(["four", "five"]):
            row = {"task_id": f"t{task}", "rollout_index": index, "reward": 1.0 - index, "text": text, "answer": "4"}
            gym = dump({"responses_create_params": {"input": prompt}})
            found.append(row | {"prompt": dump(prompt), "token_turns": turns, "row": gym})
    return found


def built(name: str, rows: list[dict[str, Any]], folder: Path, **keys: Any) -> list[dict[str, Any]]:
    """The lines of a build of all these rollouts."""
    con = workspace(rows)
    steps = [StepUse("pair", "best", "pair/best_worst", {})] if "pairs" in BUILDS[name].reads else []
    use = StepUse("build", "it", f"build/{name}", {"format": "jsonl", **OWN.get(name, {}), **keys})
    report = build(con, use, Path(), folder, select(con, steps, Path()))
    return [json.loads(line) for line in (report.output / "train.jsonl").read_bytes().split(b"\n") if line]


def asks(content: Any, role: str = "system") -> list[dict[str, Any]]:
    return [{"role": role, "content": "Be brief."}, {"role": "user", "content": content}]


@pytest.mark.parametrize("name", BUILDS)
def test_media_without_a_place_stop_a_build_in_the_same_words(name: str, tmp_path: Path) -> None:
    """And the key that the error names drops these lines, and only these."""
    has_place = [kind in PLACES.get(name, ()) for kind in range(len(MEDIA))]
    shown = [asks([{"type": "text", "text": "What is it?"}, part]) for part in MEDIA]
    rows = rollouts(asks("2 + 2?"), *shown)
    if not all(has_place):
        with pytest.raises(StepError, match=WORDS) as caught:
            built(name, rows, tmp_path / "out")
        (key,) = {key for key in ("drop_unfit", "drop_invalid") if f"set {key} = true" in str(caught.value)}
        lines = built(name, rows, tmp_path / "out", **{key: True})
    else:
        lines = built(name, rows, tmp_path / "out")
    held = rollouts(asks("2 + 2?"), *(one for one, place in zip(shown, has_place, strict=True) if place))
    assert len(lines) == len(built(name, held, tmp_path / "held"))
    assert [reference in json.dumps(lines) for reference in REFERENCES] == has_place


@pytest.mark.parametrize("name", BUILDS)
def test_every_build_makes_the_developer_the_system(name: str, tmp_path: Path) -> None:
    lines = built(name, rollouts(asks("2 + 2?", "developer")), tmp_path / "out")
    assert ("developer" in json.dumps(lines)) == (name == "rl_gym")
    assert name == "rl_gym" or lines == built(name, rollouts(asks("2 + 2?")), tmp_path / "plain")


def messages_in(value: Any) -> list[dict[str, Any]]:
    """The chat messages of a line."""
    if isinstance(value, dict):
        own = [value] if {"role", "content"} <= value.keys() else []
        return own + [found for inner in value.values() for found in messages_in(inner)]
    return [found for inner in value for found in messages_in(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("target", sorted(targets()))
def test_every_linter_says_it_in_the_same_words(target: str) -> None:
    """Of files made elsewhere: a good line with a part of each kind, and with a developer."""
    (none, good), *_ = blocks(target)
    assert not none
    shown = [
        with_part(json.loads(good[0]), part) for kind, part in enumerate(MEDIA) if kind not in LINTED.get(target, ())
    ]
    lines = [json.dumps(line) for line in shown if line]
    found = linted(target, [*good, *lines])
    assert {row for row, _, fault in found if WORDS in fault} == set(range(len(good) + 1, len(good) + len(lines) + 1))
    assert lines or target in ("rl_gym", "pretokenized", "trajectories", "llamafactory_v1")
    line = json.loads(good[0])
    if target != "rl_gym" and (messages := messages_in(line)):
        messages[0]["role"] = "developer"
        assert ROLE in [fault for _, _, fault in linted(target, [*good, json.dumps(line)])]


def with_part(line: dict[str, Any], part: dict[str, Any]) -> dict[str, Any] | None:
    """The line with a part in place of its first text that a user says; None where nobody speaks."""
    for key in ("content", "value", "instruction", "input", "chosen"):
        spots = messages_in(line) if key == "content" else [*line.get("conversations", []), line]
        spots = [one for one in spots if isinstance(one.get(key), str) and one.get("role") in (None, "user")]
        if spots:
            spots[0][key] = [part]
            return line
    return None
