"""The viewer's pages in real Chromium: each page, each key, and that people of all kinds can use them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.browser import axe, chromium, ready, visiting
from tests.helpers import CHECKOUT, query, write_jsonl
from tests.viewer import Viewer, collect, viewing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GOLDEN = CHECKOUT / "tests" / "pages"
ONE_OF_EACH = "where=policy+%3D+%27bold%27+AND+rollout_index+%3D+0&sort=task_id"
"""A filter whose rows and order do not depend on which rollout ended first."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("viewed")
    collect(made)
    return made


@pytest.fixture(scope="module")
def viewer(folder: Path, browser: Browser) -> Iterator[Viewer]:
    with viewing(folder, "recipe.toml") as running:
        yield running


@pytest.fixture
def page(browser: Browser, viewer: Viewer) -> Iterator[Page]:
    with visiting(browser, viewer.link) as opened:
        yield opened


def first_rollout(viewer: Viewer) -> str:
    """The address of a rollout that is the same in every run of these tests."""
    row = viewer.rows(where="policy = 'bold' AND rollout_index = 0", sort="task_id")[0]
    return f"/rollout?of={row['dataset']}&attempt={row['attempt_id']}"


def addresses(viewer: Viewer, folder: Path) -> dict[str, str]:
    """Page -> an address of it whose content is the same in every run."""
    row = viewer.rows(where="policy = 'bold' AND rollout_index = 0", sort="task_id")[0]
    built = quote("data/viewed/exports/sft/train.jsonl")
    return {
        "rollouts": f"/?{ONE_OF_EACH}",
        "conversation": first_rollout(viewer),
        "task": f"/task?of=sums&task={row['task_id']}",
        "compare": "/compare?a=bold&b=careful",
        "failures": "/failures",
        "run": "/run",
        "builds": "/builds",
        "lines": f"/builds?path={built}&line=1",
    }


PAGES = ("rollouts", "conversation", "task", "compare", "failures", "run", "builds", "lines")

VARIABLE = [
    (r"\d{8}T\d{6}-[0-9a-f]{6}(-\d{8})?", "RUN"),
    (r"2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\b[\d.,]+ (ms|s|min)\b", "SPAN"),
    (r"Output tokens: [\d,]+ in SPAN", "Output tokens: N in SPAN"),
    (r"\b[\d,]+ at most", "N at most"),
    (r"1-[0-9a-f]{12}", "VERSION"),
]
"""What differs from run to run, and what stands for it."""


@pytest.mark.parametrize("name", PAGES)
def test_the_accessibility_tree_of_each_page(page: Page, viewer: Viewer, folder: Path, name: str) -> None:
    """Set WRITE_PAGES=1 to write the trees anew; then read what changed."""
    page.goto(viewer.address + addresses(viewer, folder)[name])
    ready(page)
    page.wait_for_load_state("networkidle")
    tree = page.locator("body").aria_snapshot()
    for pattern, word in VARIABLE:
        tree = re.sub(pattern, word, tree)
    tree = re.sub(r"data/viewed|/\S*/viewed0?", "WORKSPACE", tree) + "\n"
    if name in ("failures", "run"):  # which attempts failed last depends on the order in which they ended
        tree = (
            re.sub(r"(?s)  - table.*", "", tree) if name == "failures" else re.sub(r"(?s)- region \"Pace\".*", "", tree)
        )
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("WRITE_PAGES"):
        path.write_text(tree, encoding="utf-8")
    assert tree == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    browser: Browser, viewer: Viewer, folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str, scheme: str
) -> None:
    source = _axe(tmp_path_factory)
    with visiting(browser, viewer.link, color_scheme=scheme, bypass_csp=True) as page:
        page.goto(viewer.address + addresses(viewer, folder)[name])
        ready(page)
        page.wait_for_load_state("networkidle")
        page.evaluate(source)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert [
            (one["id"], node["html"][:200], node.get("failureSummary"))
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ] == []


AXE: list[str] = []


def _axe(factory: pytest.TempPathFactory) -> str:
    if not AXE:
        AXE.append(axe(factory.mktemp("axe")))
    return AXE[0]


@pytest.mark.parametrize("wide", [360, 800, 3840])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_its_window(browser: Browser, viewer: Viewer, folder: Path, name: str, wide: int) -> None:
    with visiting(browser, viewer.link, viewport={"width": wide, "height": 800}) as page:
        page.goto(viewer.address + addresses(viewer, folder)[name])
        ready(page)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_what_an_imported_rollout_does_not_know_is_left_out(browser: Browser, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": turns, "reward": 1.0}])
    with viewing(tmp_path, "chat.jsonl") as viewer, visiting(browser, viewer.link) as page:
        row = viewer.rows()[0]
        page.goto(f"{viewer.address}/rollout?of={row['dataset']}&attempt={row['attempt_id']}")
        ready(page)
        names = page.locator(".side > dl dt").all_inner_texts()
        assert "Task" in names
        assert not {"Tokens", "Time", "Started"} & set(names)


def test_keys_of_the_rollouts(page: Page, viewer: Viewer) -> None:
    rows = viewer.rows()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    assert rows[1]["attempt_id"] in (page.evaluate("document.activeElement.href") or "")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "where"
    page.keyboard.type("rew")
    page.get_by_role("option", name="reward DOUBLE").wait_for()
    page.keyboard.press("Tab")
    assert page.locator("#where").input_value() == "reward"
    page.keyboard.type(" = 1 AND task_id = '?j'")
    assert page.locator("#where").input_value() == "reward = 1 AND task_id = '?j'", "keys typed into a field stay there"
    page.keyboard.press("Enter")
    page.get_by_text("No rollout matches.").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.locator("tbody tr").first.wait_for()
    assert "where" not in page.url
    page.keyboard.press("?")
    assert page.get_by_role("dialog").get_by_role("row").count() >= 6
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/rollout?*")


def test_keys_of_a_conversation(page: Page, viewer: Viewer) -> None:
    row = next(row for row in viewer.rows(policy="bold", sort="task_id") if row["rollout_index"] == 1)
    rows = [one["attempt_id"] for one in viewer.rows(policy="bold", sort="task_id")]
    address = f"/rollout?policy=bold&sort=task_id&of=sums&attempt={row['attempt_id']}"

    def press(key: str) -> str:
        page.goto(viewer.address + address)
        page.locator("body[data-neighbors]").wait_for()
        page.keyboard.press(key)
        page.wait_for_url(lambda url: row["attempt_id"] not in url or not url.split("/")[-1].startswith("rollout"))
        return page.url

    repeats = viewer.get("neighbors", of="sums", attempt=row["attempt_id"])["repeats"]
    assert [one["rollout_index"] for one in repeats] == [0, 1, 2]
    assert repeats[0]["attempt_id"] in press("[")
    assert repeats[2]["attempt_id"] in press("]")
    at = rows.index(row["attempt_id"])
    assert rows[at - 1] in press("p") if at else True
    assert rows[at + 1] in press("n")
    assert "policy=bold" in page.url, "the filter goes along"
    page.locator("body[data-neighbors]").wait_for()
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.getAttribute('aria-labelledby')") == "turn-0"
    page.keyboard.press("a")
    assert page.evaluate("document.activeElement.getAttribute('aria-labelledby')") == "turn-1"
    page.keyboard.press("Escape")
    page.locator("tbody tr").first.wait_for()
    assert rows[at + 1] in page.evaluate("document.activeElement.href"), "the row it was left from has the focus"


def test_facets_histogram_and_sorting(page: Page, viewer: Viewer) -> None:
    total = viewer.get("moment")["rollouts"]
    careful = viewer.get("totals", policy="careful")["rollouts"]
    page.get_by_role("checkbox", name="careful").check()
    page.get_by_text(f"{careful} of {total} rollouts").wait_for()
    assert page.get_by_role("checkbox", name="bold").count() == 1, "a facet counts without itself"
    plot = page.get_by_role("img", name="Histogram")
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 20)
    page.mouse.down()
    page.mouse.up()
    right = viewer.get("totals", policy="careful", low="1", high="1")["rollouts"]
    page.get_by_text(f"{right} of {total} rollouts").wait_for()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_text(f"{careful} of {total} rollouts").wait_for()
    page.get_by_role("button", name="Output tokens").click()
    page.locator("[data-sort='-output_tokens']").wait_for()
    heading = page.get_by_role("columnheader", name="Output tokens")
    assert heading.get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="Output tokens").click()
    page.locator("[data-sort='output_tokens']").wait_for()
    assert heading.get_attribute("aria-sort") == "ascending"
    page.go_back()
    page.locator("[data-sort='-output_tokens']").wait_for()


def test_scrolling_shows_every_row_once_in_any_order(page: Page, viewer: Viewer) -> None:
    total = viewer.get("moment")["rollouts"]
    assert total > 100
    for sort in ("-attempt_id", "reward", "-reward", "finish_reason", "reasoning_tokens", "-started_at", "task_id"):
        page.goto(f"{viewer.address}/?sort={sort}")
        ready(page)
        page.locator("button.end").scroll_into_view_if_needed()
        page.locator(f"body[data-rows='{total}']").wait_for()
        links = page.locator("tbody th a").evaluate_all("links => links.map((link) => link.href)")
        assert len(set(links)) == total


def test_a_wrong_condition_is_told_in_place(page: Page) -> None:
    page.locator("#where").fill("rewart < 1")
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_role("alert").wait_for()
    assert "^^^^^^" in page.get_by_role("alert").inner_text()
    assert page.locator("#where").get_attribute("aria-invalid") == "true"
    page.locator("#where").fill("text ILIKE '%answer%'")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for(state="hidden")


def test_a_search_streams_its_hits(page: Page, viewer: Viewer) -> None:
    page.get_by_text("Search in texts").click()
    page.locator("#text").fill("ANSWER:")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("body[data-searched]").wait_for()
    hits = page.locator(".hits li")
    assert 0 < hits.count() <= viewer.get("moment")["rollouts"]
    assert hits.first.locator("mark").inner_text() == "Answer:"
    page.locator("#text").fill("what is")
    page.get_by_role("checkbox", name="user", exact=True).check()
    page.get_by_role("checkbox", name="assistant", exact=True).uncheck()
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator(".hits mark", has_text="What is").first.wait_for()


def test_a_filter_is_saved_as_a_step_that_builds(page: Page, viewer: Viewer, folder: Path) -> None:
    from tests.helpers import rolloutops

    page.goto(f"{viewer.address}/?where=output_tokens+%3E+10&policy=bold&low=0.5")
    ready(page)
    total = viewer.get("totals", where="output_tokens > 10", policy="bold", low="0.5")["rollouts"]
    page.get_by_text("Save the filter as a step").click()
    page.locator("#step").fill("long_ones")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Written to").wait_for()
    step = page.locator(".save pre").inner_text()
    recipe = folder / "saved.toml"
    recipe.write_text((folder / "recipe.toml").read_text().split("[[steps]]")[0] + step + "\n", encoding="utf-8")
    done = rolloutops("filter", "saved.toml", cwd=folder)
    assert re.search(rf"long_ones .*\b{total}\b", done.stdout), done.stdout
    page.locator("#step").fill("Long ones")
    assert page.locator("#step").evaluate("field => field.validity.valid") is False
    assert viewer.get("rows", where="output_tokens > 10")


def test_from_a_rollout_to_its_lines_and_back(page: Page, viewer: Viewer, folder: Path) -> None:
    row = viewer.rows(where="reward = 1", sort="task_id")[0]
    page.goto(f"{viewer.address}/rollout?of=sums&attempt={row['attempt_id']}")
    page.get_by_role("link", name=re.compile("train.jsonl line")).click()
    ready(page)
    page.get_by_role("link", name=f"on {row['task_id']}").first.click()
    page.wait_for_url(f"**attempt={row['attempt_id']}*")
    assert query(folder / "data" / "viewed", f"SELECT count(*) FROM rollouts WHERE attempt_id = '{row['attempt_id']}'")


def test_two_rollouts_side_by_side(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.address + first_rollout(viewer))
    page.get_by_role("link", name="Task", exact=True).click()
    page.locator("body[data-sides]").wait_for()
    assert page.get_by_text("The first difference is in turn 2, in its text").is_visible()
    assert page.locator(".sides mark").count() == 2
    assert page.locator("table a").count() == 6, "three repeats of two policies"


def test_token_ids_are_shaded_and_texts_unfold(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.address + first_rollout(viewer))
    page.get_by_text("Token ids").click()
    page.locator(".token").first.wait_for()
    assert "log-prob" in (page.locator(".token").first.get_attribute("title") or "")
    page.get_by_text("Raw response").click()
    page.get_by_text('"finish_reason": "stop"').wait_for()
    page.get_by_text("Sampling parameters").click()


def test_a_wrong_key_is_a_sentence(browser: Browser, viewer: Viewer) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(viewer.address)
    assert "open the link" in page.inner_text("body")
    context.close()
