"""The page, the card and the description of a build: well-formed, complete, honest, and of any size."""

from __future__ import annotations

import json
import math
import random
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from rolloutops.build import manifest
from rolloutops.build.build import build
from rolloutops.build.report import card, plots, queries, report
from rolloutops.config.recipe import StepUse
from rolloutops.steps.selected import prepare
from rolloutops.steps.selection import select
from rolloutops.steps.step import measure
from tests.given import workspace

ODD = "a <b>name</b> & \"quotes\" 'that' goes on and on\x01\x0b with 日本語 and 😀 up to a very long end"
FINITE = re.compile(r"-?\d+(\.\d+)?")


def rollouts(
    datasets: tuple[str, ...] = ("d",), policies: tuple[str, ...] = ("p",), tasks: int = 10, repeats: int = 4
) -> list[dict[str, Any]]:
    """Rollouts with everything that a figure shows."""
    rng = random.Random(len(datasets) * 1000 + tasks)
    began = datetime(2026, 1, 2, tzinfo=UTC)
    return [
        {
            **{"dataset": dataset, "policy": policy, "task_id": f"t{task}", "rollout_index": index},
            "reward": float(index < task % (repeats + 1)),
            "text": f"answer {task} {index}" + " more" * rng.randint(0, 30),
            "finish_reason": rng.choice(["stop", "length", ODD]),
            **{"output_tokens": rng.randint(5, 900), "input_tokens": 20, "turns": 1},
            **{"tool_calls": 2, "tool_errors": rng.randint(0, 1), "tool_names": ["search", ODD]},
            **{"started_at": began + timedelta(seconds=rng.random() * 600), "seconds": 1 + rng.random()},
        }
        for dataset in datasets
        for policy in policies
        for task in range(tasks)
        for index in range(repeats)
    ]


def made(rows: list[dict[str, Any]], folder: Path, use: str, *steps: StepUse, **keys: Any) -> Path:
    """A build of some rollouts."""
    con = workspace(rows)
    build(con, StepUse("build", ODD, use, keys), Path(), folder, select(con, steps, Path()))
    return folder


MANY = rollouts(tuple(f"{n} {ODD}" for n in range(20)), ("p", ODD), 5, 3)
SHARES = {f"{n} {ODD}": 0.05 for n in range(20)}
EVEN = StepUse("mix", "even", "mix/shares", {"shares": SHARES, "on_shortage": "repeat"})
BEST = StepUse("pair", "best", "pair/best_worst", {})


@pytest.fixture(
    scope="module",
    params=["many", "pairs", "one", "nothing said"],
)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ET.Element:
    """report.html of builds of very different shape, as XML."""
    folder = tmp_path_factory.mktemp("page") / "out"
    match request.param:
        case "many":
            made(MANY, folder, "build/sft_messages", EVEN, min_reward=0.0, validation=0.3)
        case "pairs":
            made(rollouts(("d", "e")), folder, "build/dpo_messages", BEST)
        case "one":
            made(rollouts(tasks=2, repeats=1), folder, "build/sft_messages", min_reward=0.0)
        case _:
            rows = [{"task_id": "t", "finish_reason": None}]
            made(rows, folder, "build/sft_messages", min_reward=float("-inf"))
    return ET.fromstring((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(page: ET.Element) -> None:
    tags = {element.tag for element in page.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "image", "use"}
    assert not [element for element in page.iter() if {"src", "href", "onclick", "onload"} & set(element.attrib)]
    text = ET.tostring(page, "unicode")
    assert "url(" not in text
    assert "@import" not in text


def test_every_number_is_a_number(page: ET.Element) -> None:
    for svg in page.iter("svg"):
        for element in svg.iter():
            for name in {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"} & set(element.attrib):
                assert FINITE.fullmatch(element.get(name, "")), (element.tag, element.attrib)
            for pair in element.get("points", "").split():
                assert all(FINITE.fullmatch(number) for number in pair.split(","))
    words = set(re.findall(r"\w+", " ".join(page.itertext())))
    assert not words & {"nan", "NaN", "None"}


def test_no_text_of_a_figure_lies_over_another_or_outside(page: ET.Element) -> None:
    assert list(page.iter("svg"))
    for svg in page.iter("svg"):
        width, height = (float(value) for value in svg.get("viewBox", "").split()[2:])
        lines: dict[str, list[tuple[float, float, str]]] = {}
        for text in svg.iter("text"):
            shown = text.text or ""
            wide, x = plots.width_of(shown) * 0.9, float(text.get("x", ""))
            left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor", "start")]
            assert left >= -1, (shown, svg.get("aria-label"))
            assert left + wide <= width + 1, (shown, svg.get("aria-label"))
            assert 0 < float(text.get("y", "")) <= height
            lines.setdefault(text.get("y", ""), []).append((left, left + wide, shown))
        for line in lines.values():
            for one, other in zip(sorted(line), sorted(line)[1:], strict=False):
                assert one[1] <= other[0], (one, other, svg.get("aria-label"))


def test_odd_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    made(rollouts(), tmp_path / "out", "build/sft_messages", min_reward=0.0)
    root = ET.fromstring((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert root.findtext(".//h1") == ODD.replace("\x01", "␁").replace("\x0b", "␋")
    assert not list(root.iter("script"))


def test_a_page_does_not_grow_with_the_rollouts(tmp_path: Path) -> None:
    """All marks are aggregates."""
    sizes = []
    for tasks in (300, 3000):
        made(rollouts(tasks=tasks), tmp_path / str(tasks), "build/sft_messages", min_reward=0.0)
        sizes.append((tmp_path / str(tasks) / "report.html").stat().st_size)
    assert sizes[1] < 1.1 * sizes[0]


def test_the_figures_say_what_the_metrics_say() -> None:
    con = workspace(rollouts(("d",), ("p",), tasks=30, repeats=5))
    prepare(con)
    queries.prepare(con)
    columns, rows = measure(con, "metrics/pass_at_k")
    reported = [dict(zip(columns, row, strict=True)) for row in rows]
    drawn = {row["k"]: row for row in queries.query(con, "pass_at_k")}
    assert {row["k"]: pytest.approx(row["pass_at_k"], abs=1e-9) for row in reported} == {
        k: row["mean"] for k, row in drawn.items()
    }
    assert all(row["low"] <= row["mean"] <= row["high"] for row in drawn.values())
    columns, rows = measure(con, "metrics/solve_rates")
    named = {row[columns.index("solve_rate")]: row[columns.index("tasks")] for row in rows}
    places = {row["place"]: row["tasks"] for row in queries.query(con, "solve_rates")}
    assert (places[0], places[11]) == (named["0 (never)"], named["1 (always)"])
    assert sum(places.values()) == sum(named.values()) == 30
    assert sum(row["share"] for row in queries.query(con, "rewards")) == pytest.approx(1)


def test_what_to_look_at(tmp_path: Path) -> None:
    rows = rollouts(("d", "e"), tasks=12)
    for row in rows:
        row["finish_reason"] = "length"
        row["text"] = "long " * 50 if row["reward"] else "short"
        row["output_tokens"] = None
    shares = StepUse("mix", "mixed", "mix/shares", {"shares": {"d": 0.5, "e": 0.5}})
    cut = StepUse("filter", "cut", "filter/finished", {"finish_reasons": ["length"]})
    made(rows, tmp_path / "out", "build/dpo_messages", cut, shares, BEST)
    text = " ".join(ET.fromstring((tmp_path / "out" / "report.html").read_text("utf-8")).itertext())
    for said in (
        "The files hold",
        "were truncated",
        "In 100 % of the pairs the chosen answer is the longer one",
        "characters",
    ):
        assert said in text
    assert "the rollouts have no token counts" in text


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [("A", "B", None), ("short", "much longer", "shorter"), ("much longer", "short", "longer")],
)
def test_what_pairs_teach_of_length(tmp_path: Path, chosen: str, rejected: str, said: str | None) -> None:
    rows = [row | {"output_tokens": None, "text": chosen if row["reward"] else rejected} for row in rollouts(tasks=12)]
    made(rows, tmp_path / "out", "build/dpo_messages", BEST)
    text = " ".join(ET.fromstring((tmp_path / "out" / "report.html").read_text("utf-8")).itertext())
    assert re.findall(r"In 100 % of the pairs the chosen answer is the (\w+) one", text) == ([said] if said else [])
    reported = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["steps"][-1]["reports"][0][0]
    assert (reported["reward_length_rank_correlation"] is None) == (said is None), "nothing goes with a constant"


def test_a_mix_that_the_build_undid_is_told(tmp_path: Path) -> None:
    rows = rollouts(("d", "e"), tasks=10)
    for row in rows:
        row["reward"] = 1.0 if row["dataset"] == "d" else float(row["rollout_index"] == 0)
    shares = StepUse("mix", "mixed", "mix/shares", {"shares": {"d": 0.5, "e": 0.5}})
    made(rows, tmp_path / "out", "build/sft_messages", shares)
    text = " ".join(ET.fromstring((tmp_path / "out" / "report.html").read_text("utf-8")).itertext())
    assert "The mix differs from the requested shares: d is 80 % (requested 50 %), e is 20 % (requested 50 %)." in text


def test_tokens_that_nobody_counted_are_not_drawn_as_none(tmp_path: Path) -> None:
    rows = [row | ({"output_tokens": None} if row["dataset"] == "e" else {}) for row in rollouts(("d", "e"))]
    made(rows, tmp_path / "out", "build/sft_messages", min_reward=0.0)
    text = " ".join(ET.fromstring((tmp_path / "out" / "report.html").read_text("utf-8")).itertext())
    assert "tokens not counted" in text
    assert "0 tokens, 0 %" not in text


def test_a_build_without_a_page(tmp_path: Path) -> None:
    made(rollouts(), tmp_path / "out", "build/sft_messages", report=False)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"train.jsonl", "lineage.parquet", "manifest.json", "README.md", "croissant.json"}
    assert manifest.files_of(tmp_path / "out") == names


def test_the_page_of_a_workspace() -> None:
    con = workspace(rollouts(("d", "e")))
    prepare(con)
    queries.prepare(con)
    root = ET.fromstring(report.workspace_page(con, "w", [("metrics/x", ["a"], [[1.5], [None], ["<i>"]])]))
    text = " ".join(root.itertext())
    assert "80 rollouts" in " ".join(text.split())
    assert "there is no selection to compare with" in text
    assert "<i>" in text


# The card and the description


def test_the_card_names_files_and_says_what_was_dropped(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    good = StepUse("filter", "good", "filter/reward", {"min_reward": 0.5})
    made(rollouts(), tmp_path / "out", "build/sft_messages", good, validation=0.3, max_shard_rows=5)
    content = manifest.read(tmp_path / "out")
    head, body = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").removeprefix("---\n").split("\n---\n", 1)
    front = yaml.safe_load(head)
    splits = front["configs"][0]["data_files"]
    assert [one["split"] for one in splits] == ["train", "validation"]
    files = [name for one in splits for name in one["path"]]
    assert len(files) > 2
    assert all((tmp_path / "out" / name).is_file() for name in files)
    reported = {one["name"]: one["num_examples"] for one in front["dataset_info"]["splits"]}
    assert reported == {split: sum(rows.values()) for split, rows in content["splits"].items()}
    assert front["size_categories"] == ["n<1K"]
    assert front["dataset_info"]["features"][0]["name"] == "messages"
    step = content["steps"][0]
    assert f"| {step['rows_in']} | {step['kept']} | {step['dropped']} | {step['rows']} |" in body
    assert "<b>" not in body, "Markdown lets HTML through"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner),
    max_leaves=10,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@hypothesis_given(st.dictionaries(st.text(min_size=1), JSON))
def test_yaml_says_what_it_was_given(value: dict[str, Any]) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    assert yaml.safe_load(card.yaml(value) or "{}") == value


def test_the_description_has_the_hash_and_the_fields_of_each_file(tmp_path: Path) -> None:
    made(rollouts(), tmp_path / "out", "build/dpo_messages", BEST, validation=0.3)
    described = json.loads((tmp_path / "out" / "croissant.json").read_text(encoding="utf-8"))
    hashes = {file["name"]: file["sha256"] for file in manifest.read(tmp_path / "out")["files"]}
    assert {one["contentUrl"]: one["sha256"] for one in described["distribution"]} == {
        name: hashes[name] for name in ("train.jsonl", "validation.jsonl")
    }
    for records in described["recordSet"]:
        assert [field["name"] for field in records["field"]] == ["prompt", "chosen", "rejected"]
        inner = records["field"][1]["subField"]
        assert [field["name"] for field in inner] == ["role", "content"]
        assert inner[0]["source"]["transform"] == {"jsonPath": "role"}


# The words and numbers of plots


@hypothesis_given(st.text(), st.floats(1, 500))
def test_a_name_is_cut_to_the_room_there_is(text: str, width: float) -> None:
    shown = plots.cut(text, width)
    assert plots.width_of(shown) <= width or shown == "…"
    if "…" not in shown:
        assert shown == " ".join(text.split())


@hypothesis_given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_lie_within_and_are_not_too_many(low: float, span: float, most: int) -> None:
    found = plots.ticks(low, low + span, most)
    assert len(found) <= most
    slack = span * 1e-6 + 4 * math.ulp(abs(low) + span)
    assert all(low - slack <= value <= low + span + slack for value in found)


@hypothesis_given(st.floats(0, 1))
def test_a_share_is_0_or_100_per_cent_only_where_it_is(share: float) -> None:
    text = plots.percent(share)
    assert (text == "0 %") == (share == 0)
    assert (text == "100 %") == (share == 1)


@hypothesis_given(st.text())
def test_escaped_text_is_xml_and_says_the_same(text: str) -> None:
    assert ET.fromstring(f'<a b="{plots.escape(text)}"/>').get("b") == text.translate(plots.CONTROLS)
