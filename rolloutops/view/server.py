"""The viewer's server: which address shows what. Queries run on threads; the index is made anew when files appear."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from rolloutops.config.plan import Plan
from rolloutops.config.settings import Dataset
from rolloutops.errors import RolloutopsError, UsageError
from rolloutops.formats.media import MediaError
from rolloutops.ingest.media import media_folder
from rolloutops.store import sql
from rolloutops.store.workspace import Workspace
from rolloutops.view import conversation, rows
from rolloutops.view.conversation import Conversation
from rolloutops.view.filters import Query, filter_of, first
from rolloutops.view.guard import Access, guard
from rolloutops.view.index import make_views, signature, take_moment

STATIC = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

PAGES = {"/": "rollouts", "/rollout": "conversation"}
"""Address -> the module of static/ that shows it."""

LOOK = 1.0
"""Seconds between two looks at whether a workspace has changed."""

SHARE = 10
"""The index is made anew at most in one part of so many of the time."""

HELD = 4
"""Conversations that are held in memory: the pages of a long one are asked for one after the other."""


class Viewer:
    """What the server shows: a workspace, its moment, and the conversations that were read last."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self.workspace, self.plan = workspace, plan
        self.signature = signature(workspace)
        self.moment = take_moment(workspace, plan.rows, 1)
        self.conversations: dict[tuple[str, str], Conversation] = {}

    def refresh(self) -> bool:
        """Make the moment anew where files have appeared; return whether they have."""
        now = signature(self.workspace)
        if now == self.signature:
            return False
        self.moment = take_moment(self.workspace, self.plan.rows, self.moment.number + 1)
        self.signature = now
        return True

    def conversation(self, query: Query) -> Conversation:
        """Return the rollout that an address names."""
        key = first(query, "of"), first(query, "attempt")
        held = self.conversations.pop(key, None) or conversation.load(self.moment, self.workspace, *key)
        self.conversations[key] = held
        for old in list(self.conversations)[:-HELD]:
            self.conversations.pop(old, None)
        return held


Answer = Callable[[Viewer, Query], Any]
"""What answers an address below /api/ with JSON: runs on a thread, may raise a RolloutopsError."""


def _moment(viewer: Viewer, query: Query) -> dict[str, Any]:
    moment = viewer.moment
    return {
        "number": moment.number,
        "rollouts": moment.rollouts,
        "failures": moment.failures,
        "workspace": str(viewer.workspace.root),
    }


def _columns(viewer: Viewer, query: Query) -> list[dict[str, str]]:
    make_views(viewer.moment, "rollouts")
    return rows.completions(sql.columns(viewer.moment.cursor(), "FROM rollouts"))


def _rows(viewer: Viewer, query: Query) -> dict[str, Any]:
    moment, chosen, key = viewer.moment, filter_of(query), first(query, "key")
    after = json.loads(key) if key else []
    if not isinstance(after, list) or len(after) not in (0, 3):
        raise UsageError("a key is a JSON array of three texts")
    if attempt := first(query, "attempt"):
        after = list(rows.key_of(moment, chosen, first(query, "of"), attempt))
    return rows.page(moment, chosen, after, inclusive=bool(attempt))


def _totals(viewer: Viewer, query: Query) -> dict[str, Any]:
    return rows.totals(viewer.moment, filter_of(query))


def _histogram(viewer: Viewer, query: Query) -> list[dict[str, Any]]:
    return rows.histogram(viewer.moment, filter_of(query))


def _rollout(viewer: Viewer, query: Query) -> dict[str, Any]:
    return conversation.overview(viewer.conversation(query))


def _turns(viewer: Viewer, query: Query) -> dict[str, Any]:
    return conversation.turns(viewer.conversation(query), number(query, "from"))


def _neighbors(viewer: Viewer, query: Query) -> dict[str, Any]:
    return rows.neighbors(viewer.moment, filter_of(query), first(query, "of"), first(query, "attempt"))


def _text(viewer: Viewer, query: Query) -> dict[str, str]:
    return {"text": conversation.text(viewer.conversation(query), number(query, "turn"), first(query, "part"))}


def _raw(viewer: Viewer, query: Query) -> dict[str, str]:
    whole = viewer.conversation(query).raw.get(first(query, "name"), "")
    return {"text": whole[: conversation.LONGEST_RAW]}


def _tokens(viewer: Viewer, query: Query) -> dict[str, Any]:
    return conversation.tokens(viewer.conversation(query), number(query, "call"))


ANSWERS: dict[str, Answer] = {
    "moment": _moment,
    "columns": _columns,
    "rows": _rows,
    "totals": _totals,
    "histogram": _histogram,
    "rollout": _rollout,
    "turns": _turns,
    "neighbors": _neighbors,
    "text": _text,
    "raw": _raw,
    "tokens": _tokens,
}
"""Address below /api/ -> what answers it, all of them by GET: none of them writes."""


def number(query: Query, name: str) -> int:
    """A whole number of an address. Raises UsageError where it is none."""
    text = first(query, name)
    if not text.isdigit() or len(text) > 15:
        raise UsageError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def make_app(viewer: Viewer, access: Access) -> web.Application:
    """Make the server's application."""
    app = web.Application(middlewares=[guard(access)], client_max_size=1 << 20)
    for address, page in PAGES.items():
        app.router.add_get(address, partial(_page, page))
    app.router.add_get("/static/{name}", _static)
    app.router.add_get("/image", partial(_image, viewer))
    for name, answer in ANSWERS.items():
        app.router.add_get(f"/api/{name}", partial(_answer, viewer, answer))
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
    try:
        return _json(await asyncio.to_thread(answer, viewer, _query(request)))
    except RolloutopsError as error:
        return _json({"error": str(error), "notes": getattr(error, "__notes__", [])})


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


def _json(value: Any) -> web.Response:
    try:
        body = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, TypeError):  # half of a surrogate pair, or a whole number of more than 64 bits
        body = json.dumps(value, default=str).encode()
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


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
        await runner.cleanup()


async def _follow(viewer: Viewer) -> None:
    """Make the index anew whenever the workspace has changed. What hinders it is tried again."""
    while True:
        await asyncio.sleep(max(LOOK, viewer.moment.seconds * SHARE if viewer.moment.number > 1 else LOOK))
        with suppress(RolloutopsError, sql.Error, OSError):
            await asyncio.to_thread(viewer.refresh)
