"""Rollouts that would do harm, long ones, and a workspace that is collected into, in real Chromium."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import chromium, ready, visiting
from tests.helpers import command, environ, rolloutops, sums, write_jsonl
from tests.viewer import RECIPE, Viewer, viewing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCRIPT = "</script><script>window.harm = 1</script><img src=x onerror='window.harm = 2'><svg onload=alert(3)>"
BIDI = "left \u202eright\u202c \u2066isolated\u2069 zero\u200bwidth \u0007bell \U000e0041tag"
LINK = "[a](javascript:alert(4)) javascript:alert(5) ${alert(6)} {{7*7}}"
LONG = "x" * 5_000_000 + "the end"
HARM = f"{SCRIPT} {BIDI} {LINK}"


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CALL = {"id": "c1", "type": "function", "function": {"name": SCRIPT, "arguments": json.dumps({"a": HARM})}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGES = [
    {"type": "text", "text": HARM},
    {"type": "image_url", "image_url": {"url": "pixel.png"}},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    {"type": "image_url", "image_url": {"url": "https://remote.example/pixel.png"}},
]
ROWS = {
    "harm": [
        turn("system", HARM),
        turn("user", IMAGES),
        turn("assistant", HARM, reasoning_content=HARM, tool_calls=[CALL]),
        turn("tool", HARM, tool_call_id="c1"),
        turn("assistant", HARM),
    ],
    "long": [turn("user", "long"), turn("assistant", LONG)],
    "many": [turn(("user", "assistant")[n % 2], f"turn {n}") for n in range(10_000)],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("hostile")
    file = folder / "rollouts.jsonl"
    (folder / "pixel.png").write_bytes(base64.b64decode(PIXEL))
    rows = [{"task_id": name, "model": SCRIPT, "messages": messages, "reward": 1} for name, messages in ROWS.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with viewing(folder, "rollouts.jsonl") as running:
        yield running


@pytest.fixture
def page(browser: Browser, viewer: Viewer) -> Iterator[Page]:
    with visiting(browser, viewer.link) as opened:
        yield opened
        assert opened.evaluate("window.harm") is None


def opened(page: Page, viewer: Viewer, text: str) -> None:
    """Open the rollout whose texts begin so."""
    row = viewer.rows(where=f"completion::VARCHAR LIKE '%{text}%' OR prompt::VARCHAR LIKE '%{text}%'")[0]
    page.goto(f"{viewer.address}/rollout?of={row['dataset']}&attempt={row['attempt_id']}")
    ready(page)


def test_texts_of_models_stay_texts(page: Page, viewer: Viewer) -> None:
    page.get_by_text("window.harm").first.wait_for()
    opened(page, viewer, "onerror")
    for summary in page.locator("summary").all():
        summary.click()
    page.wait_for_load_state("networkidle")
    assert page.locator("main script, main iframe, main object, main form[action]").count() == 0
    assert page.locator("[onerror], [onload], [onclick]").count() == 0
    assert page.locator("a[href^='javascript:']").count() == 0
    shown = page.locator("article.assistant pre").first.text_content() or ""
    assert SCRIPT in shown
    for mark in ("U+202E", "U+202C", "U+2066", "U+2069", "U+200B", "U+0007", "U+E0041"):
        assert mark in shown
    assert "\u202e" not in (page.locator("main").text_content() or "")
    remote = page.get_by_role("link", name="https://remote.example/pixel.png")
    assert remote.get_attribute("rel") == "noreferrer noopener"
    assert page.locator("img[src^='http']").count() == 0, "remote images are links; the page asks nobody else"
    page.locator("article.user").first.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    widths = page.locator("article.user img").evaluate_all("images => images.map((image) => image.naturalWidth)")
    assert widths == [1, 1], "one from its file, one from its data URL"


@pytest.mark.parametrize("path", ["/compare", "/failures", "/run", "/"])
def test_names_of_models_stay_texts(page: Page, viewer: Viewer, path: str) -> None:
    page.goto(viewer.address + path)
    ready(page)
    page.wait_for_load_state("networkidle")
    assert page.locator("main script, main svg [onload]").count() == 0


def test_a_message_of_five_megabytes_is_folded(page: Page, viewer: Viewer) -> None:
    opened(page, viewer, "xxxxxxxx")
    assert len(page.locator("article.assistant pre").text_content() or "") == 3_000
    page.get_by_role("button", name="Show 4,997,007 more characters").click()
    page.locator("article.assistant pre", has_text="the end").wait_for()


def test_ten_thousand_turns_come_as_they_are_scrolled_to(page: Page, viewer: Viewer) -> None:
    opened(page, viewer, "turn 9999")
    page.locator("body[data-turns='100']").wait_for()
    page.locator("button.end").scroll_into_view_if_needed()
    page.locator("body[data-turns='200']").wait_for()
    assert page.get_by_text("turn 150", exact=True).count() == 1
    page.locator("#turn-0").scroll_into_view_if_needed()


def test_the_lines_of_the_file_are_shown_too(page: Page, viewer: Viewer) -> None:
    page.get_by_role("link", name="Lines").click()
    page.get_by_role("heading", name="Line 1").wait_for()
    assert page.locator("article script").count() == 0


TARGETS = {
    "sft_messages": {"messages": [turn("user", "ask"), turn("assistant", "reply")]},
    "sft_prompt_completion": {"prompt": "ask", "completion": "reply"},
    "sharegpt": {"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "reply"}]},
    "dpo_messages": {
        "prompt": [turn("user", "ask")],
        "chosen": [turn("assistant", "reply")],
        "rejected": [turn("assistant", "no")],
    },
    "dpo_strings": {"prompt": "ask", "chosen": "reply", "rejected": "no"},
    "kto": {"prompt": [turn("user", "ask")], "completion": [turn("assistant", "reply")], "label": True},
    "rl": {"responses_create_params": {"input": [turn("user", "ask")]}, "expected_answer": "reply"},
    "pretokenized": {"input_ids": [1, 2, 3], "loss_mask": [0, 1, 1], "text": "ask reply"},
    "alpaca": {"instruction": "ask", "input": "", "output": "reply"},
    "unknown": {"ask": "reply"},
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_of_any_target_is_viewed(browser: Browser, tmp_path: Path, target: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", [TARGETS[target]] * 12)
    with viewing(tmp_path, "train.jsonl") as running, visiting(browser, running.link) as page:
        page.goto(f"{running.address}/builds?path=train.jsonl&line=11")
        ready(page)
        assert page.locator("article h2").all_text_contents() == ["Line 11", "Line 12"]
        page.get_by_text("The line (").first.click()
        page.locator("article").first.filter(has_text="ask").filter(has_text="reply").wait_for()
    assert list(tmp_path.iterdir()) == [tmp_path / "train.jsonl"], "nothing is left beside the file"


def test_new_rollouts_appear_while_they_are_collected(browser: Browser, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sums.jsonl", sums(40))
    recipe = RECIPE.replace("correct = 0.8", "correct = 0.8, delay = 0.2").replace(
        "num_repeats = 3", "num_repeats = 20"
    )
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    rolloutops("chunk", "recipe.toml", cwd=tmp_path)
    with viewing(tmp_path, "recipe.toml") as running, visiting(browser, running.link) as page:
        page.get_by_text("No rollout matches.").wait_for()
        collecting = subprocess.Popen(
            command("collect", "recipe.toml", "--num_samples_in_parallel=8", "--max_failure_rate=1"),
            cwd=tmp_path,
            env=environ(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            news = page.get_by_role("button", name="new rollout")
            news.wait_for(timeout=600_000)
            news.click()
            page.locator("tbody tr").first.wait_for()
            seen = page.locator("tbody tr").count()
            page.locator("tbody th a").first.click()
            page.locator("article.assistant").first.wait_for()
            page.get_by_text("Answer").first.wait_for()
            page.goto(f"{running.address}/run")
            ready(page)
            if collecting.poll() is None:
                assert seen > 0
        finally:
            collecting.terminate()
            collecting.wait(timeout=600)
        for _ in range(60):
            if running.get("moment")["rollouts"] == running.get("totals")["rollouts"] >= seen:
                break
            time.sleep(0.5)
        assert running.get("moment")["rollouts"] >= seen
