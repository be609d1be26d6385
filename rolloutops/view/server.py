"""The viewer's server: which address shows what. Queries run on threads; the index is made anew when files appear."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from rolloutops.config.settings import Dataset
from rolloutops.errors import RolloutopsError, UsageError
from rolloutops.formats.media import MediaError
from rolloutops.ingest.media import media_folder
from rolloutops.store import sql
from rolloutops.view import conversation
from rolloutops.view.answers import ANSWERS, CHANGES, Answer, number
from rolloutops.view.filters import filter_of, first
from rolloutops.view.guard import Access, guard, with_headers
from rolloutops.view.search import search
from rolloutops.view.viewer import Viewer

STATIC = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

PAGES = {
    "/": "rollouts",
    "/rollout": "conversation",
    "/task": "task",
    "/compare": "compare",
    "/failures": "failures",
    "/run": "run",
    "/builds": "builds",
}
"""Address -> the module of static/ that shows it."""

LOOK = 1.0
"""Seconds between two looks at whether a workspace has changed."""

SHARE = 10
"""The index is made anew at most in one part of so many of the time."""


def make_app(viewer: Viewer, access: Access) -> web.Application:
    """Make the server's application."""
    app = web.Application(middlewares=[guard(access)], client_max_size=1 << 20)
    for address, page in PAGES.items():
        app.router.add_get(address, partial(_page, page))
    app.router.add_get("/static/{name}", _static)
    app.router.add_get("/image", partial(_image, viewer))
    for name, answer in ANSWERS.items():
        app.router.add_get(f"/api/{name}", partial(_answer, viewer, answer))
    for name, change in CHANGES.items():
        app.router.add_post(f"/api/{name}", partial(_change, viewer, change))
    app.router.add_get("/api/search", partial(_search, viewer))
    app.on_response_prepare.append(with_headers)
    return app


async def _page(page: str, request: web.Request) -> web.Response:
    """The frame of a page; its module fills it."""
    html = (STATIC / "page.html").read_text(encoding="utf-8").replace("PAGE", page)
    return web.Response(text=html, content_type="text/html", headers={"Cache-Control": "no-cache"})


async def _static(request: web.Request) -> web.StreamResponse:
    path = STATIC / request.match_info["name"]
    kind = TYPES.get(path.suffix)
    if kind is None or path.parent != STATIC or not path.is_file():
        return web.Response(status=404, text="there is no such file")
    return web.Response(
        body=path.read_bytes(), content_type=kind, charset="utf-8", headers={"Cache-Control": "max-age=600"}
    )


async def _answer(viewer: Viewer, answer: Answer, request: web.Request) -> web.Response:
    """Answer with JSON. What the person can mend is a sentence, `error`: no failure of a request, which a browser would
    report in its console."""
    return await _sentence_or(viewer, partial(answer, viewer, _query(request)))


async def _change(viewer: Viewer, change: Callable[[Viewer, Any], Any], request: web.Request) -> web.Response:
    """Change something; the guard has let the request in."""
    try:
        body = await request.json()
    except ValueError:
        return web.Response(status=400, text="the body must be JSON")
    return await _sentence_or(viewer, partial(change, viewer, body))


async def _sentence_or(viewer: Viewer, call: Callable[[], Any]) -> web.Response:
    """What a call on a thread returns, or the sentence of its error."""

    def run() -> Any:
        try:
            return call()
        except RolloutopsError as error:
            # A file of the moment may have gone since, as when part files are merged.
            if "IO Error" in str(error) and viewer.refresh():
                return call()
            raise

    try:
        return _json(await asyncio.to_thread(run))
    except RolloutopsError as error:
        return _json(_sentence(error))


def _sentence(error: RolloutopsError) -> dict[str, Any]:
    return {"error": str(error), "notes": getattr(error, "__notes__", [])}


async def _search(viewer: Viewer, request: web.Request) -> web.StreamResponse:
    """Send hits as lines of JSON while they are found; whoever goes away ends the search."""
    query, stop = _query(request), threading.Event()

    def results() -> Iterator[dict[str, Any]]:
        try:
            roles = list(query.get("role", []))
            yield from search(viewer.moment, filter_of(query), first(query, "text"), roles, stop)
        except RolloutopsError as error:
            yield _sentence(error)

    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    await response.prepare(request)
    lines = results()
    try:
        while (line := await asyncio.to_thread(next, lines, None)) is not None:
            await response.write(_dump(line) + b"\n")
        await response.write_eof()
    except ConnectionError:  # the person has stopped it
        pass
    finally:
        stop.set()
    return response


async def _image(viewer: Viewer, request: web.Request) -> web.Response:
    """A local picture of a turn, read only below the input's folder or its `media_root`."""
    query = _query(request)

    def load() -> tuple[str, bytes]:
        one = viewer.conversation(query)
        reference = conversation.image_of(one, number(query, "turn"), number(query, "place"))
        dataset, origin = one.facts["dataset"], one.facts["origin"] or ""
        settings = viewer.plan.datasets.get(dataset, Dataset())
        return media_folder(settings, Path(origin), viewer.plan.places).read(reference, "image")

    try:
        kind, data = await asyncio.to_thread(load)
    except (RolloutopsError, MediaError) as error:
        return web.Response(status=404, text=str(error))
    return web.Response(body=data, content_type=kind, headers={"Cache-Control": "no-store"})


def _query(request: web.Request) -> dict[str, list[str]]:
    return {name: request.query.getall(name) for name in request.query}


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, TypeError):  # half of a surrogate pair, or a whole number of more than 64 bits
        return json.dumps(value, default=str).encode()


def _json(value: Any) -> web.Response:
    return web.Response(body=_dump(value), content_type="application/json", headers={"Cache-Control": "no-store"})


def listen(host: str, port: int) -> socket.socket:
    """Open the server's port. Raises UsageError where it is taken or refused."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=64)
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"cannot listen on {host} port {port} ({why}): choose another with --port=N") from error


async def serve(viewer: Viewer, access: Access, opened: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until the process is interrupted. ready: called once the server answers."""
    runner = web.AppRunner(make_app(viewer, access), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, opened).start()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number_, stop.set)
    following = asyncio.create_task(_follow(viewer))
    ready()
    try:
        await stop.wait()
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        viewer.tokens.close()
        await runner.cleanup()


async def _follow(viewer: Viewer) -> None:
    """Make the index anew whenever the workspace has changed. What hinders it is tried again."""
    while True:
        await asyncio.sleep(max(LOOK, viewer.moment.seconds * SHARE if viewer.moment.number > 1 else LOOK))
        with suppress(RolloutopsError, sql.Error, OSError):
            await asyncio.to_thread(viewer.refresh)
