"""Who may ask the viewer, and what a query of a reader's may do: each point against the real command."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import rolloutops
from tests.viewer import Viewer, collect, viewing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("viewed")
    collect(made)
    return made


@pytest.fixture(scope="module")
def viewer(folder: Path) -> Iterator[Viewer]:
    with viewing(folder, "recipe.toml") as running:
        yield running


ADDRESSES = ("/", "/rollout", "/api/rows", "/api/moment", "/static/main.js", "/static/style.css", "/image", "/none")


@pytest.mark.parametrize("path", ADDRESSES)
def test_nothing_is_answered_without_the_key(viewer: Viewer, path: str) -> None:
    for headers in ({}, {"Cookie": "rolloutops_view=x"}, {"Cookie": viewer.cookie()[:-1]}):
        status, _, body = viewer.ask(path, **headers)
        assert status == 401
        assert b"open the link" in body


def test_the_link_sets_a_strict_cookie_and_leaves_the_address(viewer: Viewer) -> None:
    status, headers, _ = viewer.ask(f"/?token={viewer.token}")
    assert (status, headers["location"]) == (302, "/")
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "domain" not in cookie
    assert viewer.ask(f"/?token={viewer.token[:-1]}x")[0] == 401
    assert viewer.ask(f"/api/rows?token={viewer.token}")[0] == 401, "the key opens pages, not answers"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::2]"])
def test_a_foreign_host_is_refused(viewer: Viewer, host: str) -> None:
    for path in ("/", f"/?token={viewer.token}", "/api/rows"):
        assert viewer.ask(path, Host=host, Cookie=viewer.cookie())[0] in (400, 421)


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:1", "[::1]:7655", "LOCALHOST"])
def test_a_loopback_name_with_any_port_is_accepted(viewer: Viewer, host: str) -> None:
    """Behind `ssh -L` the port is that of the other end."""
    assert viewer.ask("/", Host=host, Cookie=viewer.cookie())[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_is_refused(viewer: Viewer, site: str) -> None:
    for path in ("/", f"/?token={viewer.token}", "/api/rows", "/static/main.js"):
        assert viewer.ask(path, Sec_Fetch_Site=site, Cookie=viewer.cookie())[0] == 403
    assert viewer.ask("/api/rows", Origin="http://evil.example", Cookie=viewer.cookie())[0] == 403
    assert viewer.ask("/api/rows", Origin="null", Cookie=viewer.cookie())[0] == 403


def test_a_post_needs_the_header_and_the_origin(viewer: Viewer) -> None:
    cookie, here = viewer.cookie(), viewer.address
    for headers in (
        {},
        {"Origin": here},
        {"X_Rolloutops": "1"},
        {"Origin": "http://evil.example", "X_Rolloutops": "1"},
    ):
        assert viewer.ask("/api/rows", "POST", b"{}", Cookie=cookie, **headers)[0] == 403
    good = {"Origin": here, "X_Rolloutops": "1"}
    assert viewer.ask("/api/rows", "POST", b"{}", **good)[0] == 401, "and the key"
    assert viewer.ask("/api/rows", "POST", b"{}", Cookie=cookie, **good)[0] == 405, "what is read is not posted to"
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert viewer.ask("/api/rows", method, Cookie=cookie)[0] == 405


@pytest.mark.parametrize("path", [*ADDRESSES, "/static/..%2fserver.py", "/static/%2e%2e/server.py"])
def test_every_answer_has_the_policy(viewer: Viewer, path: str) -> None:
    for cookie in ("", viewer.cookie()):
        _, headers, _ = viewer.ask(path, Cookie=cookie)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/static/..%2fserver.py", "/static/%2e%2e/guard.py", "/static/page.html", "/static/"])
def test_static_files_are_those_of_the_pages(viewer: Viewer, path: str) -> None:
    assert viewer.ask(path, Cookie=viewer.cookie())[0] == 404


REFUSED = {
    "two statements": "true; SELECT 1",
    "a statement behind the condition": "true); DROP TABLE small; SELECT (1",
    "COPY": "true); COPY (SELECT 1) TO 'data/viewed/x.csv'; SELECT (1",
    "ATTACH": "true); ATTACH 'data/viewed/x.db'; SELECT (1",
    "a set operation": "true) UNION ALL SELECT * FROM small WHERE (true",
    "another file": "(SELECT length(content) FROM read_text('/etc/passwd')) > 0",
    "a file by its name": "task_id IN (SELECT column0 FROM '/etc/passwd')",
    "a path that leaves the workspace": "(SELECT count(*) FROM read_text('data/viewed/../../recipe.toml')) > 0",
    "a folder's list": "(SELECT count(*) FROM glob('/etc/*')) > 0",
    "a write inside a query": "task_id IN (WITH x AS (DELETE FROM small RETURNING task_id) SELECT task_id FROM x)",
    "another query as text": "(SELECT count(*) FROM query('DROP TABLE small')) > 0",
    "the network": "(SELECT count(*) FROM read_csv('http://127.0.0.1:1/x.csv')) > 0",
    "an unclosed comment": "true /*",
    "two expressions": "true) OR (true",
    "no condition": "ORDER BY 1",
    "no column": "no_such_column = 1",
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("name", ["rows", "totals", "histogram"])
def test_a_condition_is_one_expression_over_the_workspace(viewer: Viewer, folder: Path, name: str, why: str) -> None:
    before = sorted(os.listdir(folder / "data" / "viewed"))
    found = viewer.get(name, where=REFUSED[why])
    assert found["error"], why
    assert sorted(os.listdir(folder / "data" / "viewed")) == before
    assert viewer.get("totals")["rollouts"] == viewer.get("moment")["rollouts"]


def test_a_wrong_condition_is_answered_with_its_place(viewer: Viewer) -> None:
    found = viewer.get("rows", where="reward > 0 AND\nrewart < 1")
    assert "rewart" in found["error"]
    assert found["notes"][0].startswith("  line 2: rewart < 1\n          ^")


WRONG = {
    "rows": [{"key": "["}, {"key": "[1,2,3]"}, {"key": '["a"]'}, {"sort": "1; DROP TABLE small"}, {"low": "x"}],
    "rollout": [{}, {"of": "sums", "attempt": "' OR 1=1 --"}],
    "turns": [{"of": "sums", "attempt": "x", "from": "-1"}],
    "text": [{"of": "sums", "attempt": "x", "turn": "0", "part": "text"}],
    "task": [{}, {"of": "'", "task": "'"}],
    "compare": [{}, {"a": "bold", "b": "'"}],
    "lines": [{"path": "/etc/passwd", "line": "1"}, {"path": "recipe.toml", "line": "1"}, {"line": "x"}],
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_shown_is_a_sentence(viewer: Viewer, name: str) -> None:
    for params in WRONG[name]:
        assert viewer.get(name, **params)["error"], params


def test_a_value_with_quotes_is_a_value(viewer: Viewer) -> None:
    for facet in ("dataset", "policy", "finish_reason", "error", "tool"):
        assert viewer.rows(**{facet: "'); DROP TABLE small; --"}) == []
    assert viewer.rows(policy=["bold", "it's"])


def test_a_runaway_query_is_stopped(viewer: Viewer) -> None:
    began = time.monotonic()
    found = viewer.get("rows", where="(SELECT count(*) FROM range(100000000) a, range(100000000) b) > 0")
    assert "stopped after 20 s" in found["error"]
    assert time.monotonic() - began < 90
    assert viewer.rows()


def test_another_address_needs_a_token(folder: Path) -> None:
    done = rolloutops("view", "recipe.toml", "--host=0.0.0.0", "--port=0", cwd=folder, code=2)
    assert "--token" in done.stderr
    done = rolloutops("view", "recipe.toml", "--host=0.0.0.0", "--port=0", "--token=short", cwd=folder, code=2)
    assert "16 characters" in done.stderr


def test_a_taken_port_is_a_sentence(viewer: Viewer, folder: Path) -> None:
    done = rolloutops("view", "recipe.toml", f"--port={viewer.port}", cwd=folder, code=2)
    assert "--port=N" in done.stderr
