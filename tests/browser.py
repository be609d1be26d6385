"""Real Chromium for tests of pages, and what every page must hold: no console error, no request to another host."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

INSTALL = "apt-get install chromium && pip install playwright"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; a test is skipped where it or Playwright is not installed."""
    api = pytest.importorskip("playwright.sync_api", reason=f"needs a browser: {INSTALL}")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip(f"needs a browser: {INSTALL}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Browser, link: str, **settings: Any) -> Iterator[Page]:
    """Open a viewer's link in a window of its own. At the end: nothing was complained of, nobody else was asked."""
    host = urlsplit(link).netloc
    context = browser.new_context(**{"reduced_motion": "reduce", **settings})
    context.set_default_timeout(300_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def check_host(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "about") and parts.netloc != host:
            wrong.append(f"request to {url}")

    page.on("request", lambda request: check_host(request.url))
    page.goto(link)
    ready(page)
    yield page
    context.close()
    assert not wrong, wrong


def ready(page: Page) -> None:
    """Wait until a page has shown itself."""
    page.locator("body[data-ready]").wait_for()


def axe(folder: Path) -> str:
    """The source of axe-core, from npm; a test is skipped where it cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, for axe-core")
    done = subprocess.run(
        [npm, "pack", "--silent", "axe-core@4"], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        pytest.skip("axe-core cannot be had from npm")
    subprocess.run(["tar", "xzf", done.stdout.split()[-1], "package/axe.min.js"], cwd=folder, check=True)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")
