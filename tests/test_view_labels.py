"""Labels in the viewer, in real Chromium: a reviewer needs the keys alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import chromium, ready, visiting
from tests.helpers import query, read_jsonl, rolloutops
from tests.test_labels import STEPS
from tests.viewer import Viewer, collect, viewing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def collected(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labeled")
    recipe = collect(folder, tasks=5)
    recipe.write_text(recipe.read_text().partition("[[steps]]")[0] + STEPS, encoding="utf-8")
    return folder


@pytest.fixture
def page(browser: Browser, viewer: Viewer) -> Iterator[Page]:
    with visiting(browser, viewer.link) as opened:
        yield opened


@pytest.fixture(scope="module")
def viewer(collected: Path, browser: Browser) -> Iterator[Viewer]:
    with viewing(collected, "recipe.toml") as running:
        yield running


def labels(folder: Path) -> list[tuple[str | None, float | None, str | None]]:
    found = query(folder / "data/viewed", "SELECT label, score, note FROM labels ORDER BY created_at")
    return [(label, score, note) for label, score, note in found]


def next_row(page: Page, key: str = "n") -> None:
    before = page.url
    page.locator("body[data-neighbors]").wait_for()
    page.keyboard.press(key)
    page.wait_for_url(lambda url: url != before)
    ready(page)


def saved(page: Page) -> None:
    page.locator("#labels [role=status]", has_text=re.compile("^(By|Nothing)")).wait_for()


def test_a_reviewer_labels_rollouts_by_keys_and_builds_of_them(page: Page, viewer: Viewer, collected: Path) -> None:
    page.goto(f"{viewer.address}/?where=policy+%3D+%27careful%27&sort=attempt_id")
    ready(page)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/rollout?*")
    ready(page)
    for _ in range(6):  # the label that the recipe's step names, and at once the next row: nothing is lost
        page.keyboard.press("1")
        next_row(page)
    assert [label for label, _, _ in labels(collected)] == ["good"] * 6
    page.keyboard.press("l")
    page.keyboard.type("bad reasoning")
    page.keyboard.press("Enter")
    page.locator("body[data-label='bad reasoning']").wait_for()
    page.keyboard.press("s")
    page.keyboard.type("0.25")
    page.keyboard.press("Enter")
    page.keyboard.press("c")
    page.keyboard.type("n, l and 1 are letters here")
    page.keyboard.press("Enter")
    next_row(page)
    next_row(page, "p")
    page.locator("body[data-label='bad reasoning']").wait_for()
    assert labels(collected)[-1] == ("bad reasoning", 0.25, "n, l and 1 are letters here")
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "/rollout" not in url)
    ready(page)
    assert "bad reasoning, 0.25" in page.locator("tbody").inner_text()
    recipe = collected / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("min_score = 0.5", ""), encoding="utf-8")
    rolloutops("build", "recipe.toml", cwd=collected)
    assert len(read_jsonl(collected / "data/viewed/exports/train/train.jsonl")) == 6


def test_the_keys_are_listed(page: Page, viewer: Viewer) -> None:
    row = viewer.rows()[0]
    page.goto(f"{viewer.address}/rollout?of={row['dataset']}&attempt={row['attempt_id']}")
    ready(page)
    page.keyboard.press("?")
    text = page.locator("dialog").inner_text()
    for label in ("the first label", "a new label", "a score", "a note", "away"):
        assert label in text


def test_a_label_appears_in_another_window_and_can_be_filtered(browser: Browser, page: Page, viewer: Viewer) -> None:
    row = viewer.rows(where="policy = 'bold'")[0]
    page.goto(f"{viewer.address}/rollout?of={row['dataset']}&attempt={row['attempt_id']}")
    ready(page)
    with visiting(browser, viewer.link) as other:
        page.keyboard.press("l")
        page.keyboard.type("<b>seen</b>")
        page.keyboard.press("Enter")
        saved(page)
        box = other.get_by_role("checkbox", name="<b>seen</b>")
        box.wait_for()
        box.check()
        other.locator("body[data-rows='1']").wait_for()
        assert "<b>seen</b>" in other.locator("tbody tr").inner_text()
    page.keyboard.press("x")
    saved(page)
    page.locator("body[data-label='']").wait_for()


def test_what_cannot_be_saved_is_said_and_the_page_stays(page: Page, viewer: Viewer) -> None:
    row = viewer.rows(where="policy = 'bold'")[1]
    page.goto(f"{viewer.address}/rollout?of={row['dataset']}&attempt={row['attempt_id']}")
    ready(page)
    page.keyboard.press("s")
    page.keyboard.type("high")
    page.keyboard.press("Enter")
    assert "A score is a number, not high" in page.locator("#labels").inner_text()
    page.keyboard.press("s")
    page.keyboard.press("Escape")
    assert page.locator("#score").input_value() == ""
    page.route("**/api/label", lambda route: route.fulfill(json={"error": "the disk is full", "notes": []}))
    page.keyboard.press("1")
    page.locator("#labels .error", has_text="the disk is full").wait_for()
    page.locator("body[data-neighbors]").wait_for()
    here = page.url
    page.keyboard.press("n")
    assert page.url == here
    page.unroute("**/api/label")
    page.keyboard.press("1")
    page.locator("body[data-label='good']").wait_for()


def test_a_viewed_file_says_where_labels_go(browser: Browser, collected: Path) -> None:
    rolloutops("export", "recipe.toml", "--output=out.jsonl", cwd=collected)
    with viewing(collected, "out.jsonl") as running, visiting(browser, running.link) as page:
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/rollout?*")
        ready(page)
        assert "A file has no place for labels" in page.locator("#labels").inner_text()
