"""What a person waits for in Chromium: navigation until rows, the next rows, a rollout, a facet, the histogram."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROUNDS = 10

ROWS = "document.querySelectorAll('main tbody tr').length"
TOTAL = "document.querySelector('.total')?.textContent"


def measure(link: str) -> list[tuple[str, float, float]]:
    """Do each of a reader's acts ten times on a running viewer: its name, the median and the longest wait in ms.

    The clock runs in the page, from the event until the frame after the change is drawn.
    """
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        # The pages' policy refuses the conditions that Playwright evaluates while it waits.
        page = browser.new_page(viewport={"width": 1440, "height": 900}, bypass_csp=True)
        page.set_default_timeout(60_000)
        page.goto(link)
        page.wait_for_function(f"{ROWS} > 0 && {TOTAL}")
        home = link.partition("?")[0]
        found = [
            _repeat("first rows after navigation", lambda number: _navigation(page, home)),
            _repeat("the next hundred rows", lambda number: _next_rows(page, home, number)),
            _repeat("a rollout after a click", lambda number: _rollout(page, home, number)),
            _repeat("rows and counts after a facet", lambda number: _facet(page, home, number)),
            _repeat("histogram and counts after a condition", lambda number: _condition(page, home, number)),
        ]
        browser.close()
    return found


def _repeat(name: str, act: Callable[[int], float]) -> tuple[str, float, float]:
    took = [act(number) for number in range(ROUNDS)]
    return name, statistics.median(took), max(took)


def _start(page: Page, home: str) -> None:
    page.goto(home)
    page.wait_for_function(f"{ROWS} > 0 && {TOTAL}")
    time.sleep(0.2)  # what the page loads afterwards is not part of the act


def _until(page: Page, act: str, done: str) -> float:
    """Milliseconds from an act, JavaScript, until a condition holds and is drawn."""
    return float(
        page.evaluate(
            f"""async () => {{
                const began = performance.now();
                {act};
                await new Promise((resolve) => {{
                    const look = () => (({done}) ? resolve() : setTimeout(look, 2));
                    look();
                }});
                await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));
                return performance.now() - began;
            }}"""
        )
    )


def _navigation(page: Page, home: str) -> float:
    page.goto("about:blank")
    page.goto(home, wait_until="commit")
    page.wait_for_function(f"{ROWS} > 0", polling=2)
    return float(page.evaluate("performance.now()"))


def _next_rows(page: Page, home: str, number: int) -> float:
    if number == 0:
        _start(page, home)
    before = page.evaluate(ROWS)
    act = (
        "const last = document.querySelector('main tbody tr:last-child'); last.scrollIntoView({ behavior: 'instant' })"
    )
    return _until(page, act, f"{ROWS} > {before}")


def _rollout(page: Page, home: str, number: int) -> float:
    """From a click on a row until the turns of its rollout are on the page that it opens."""
    _start(page, home)
    page.evaluate(
        f"""() => {{
            const link = document.querySelectorAll('main tbody tr')[{number * 7}].querySelector('a');
            sessionStorage.setItem('clicked', performance.timeOrigin + performance.now());
            link.click();
        }}"""
    )
    page.wait_for_function("location.pathname === '/rollout' && document.querySelector('.turn')", polling=2)
    clicked = "Number(sessionStorage.getItem('clicked'))"
    return float(page.evaluate(f"performance.timeOrigin + performance.now() - {clicked}"))


def _facet(page: Page, home: str, number: int) -> float:
    _start(page, home)
    box = f"document.querySelectorAll('.facets input')[{number % 4}]"
    return _until(page, f"const before = {TOTAL}; {box}.click()", f"{TOTAL} !== before")


def _condition(page: Page, home: str, number: int) -> float:
    _start(page, home)
    act = f"""const before = {TOTAL}, form = document.querySelector('form');
        form.querySelector('input, textarea').value = 'output_tokens > {100 + number}'; form.requestSubmit()"""
    return _until(page, act, f"{TOTAL} !== before")
