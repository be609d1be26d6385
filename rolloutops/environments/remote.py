"""A NeMo Gym resources server as the verifier: each rollout is sent to its `POST /verify`, for deferred verification.

The server must be able to verify a rollout without the session in which it was made (NeMo Gym calls this stateless), or
with a session that was only seeded: then `seed_session` opens one for each rollout and sends its cookies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from rolloutops import __version__
from rolloutops.config.redact import redacted, without_keys
from rolloutops.config.secrets import keep_out_settings, without_keys_in_addresses
from rolloutops.errors import EngineError, UsageError
from rolloutops.formats.finish_reasons import incomplete_details
from rolloutops.formats.nemo_gym import FAILURE_CLASS, create_params
from rolloutops.formats.responses import to_responses
from rolloutops.formats.strict_json import dump, parse
from rolloutops.types import Rollout, Task

READY = 30.0
"""Seconds in which the server must answer `check`."""
VERSION = 1
"""Raised by whoever changes a reward: rollouts that an earlier version judged are then judged again."""

SAID = 500
"""Characters of a refusal that are told."""


class Remote:
    """See `make`."""

    runs = "async"
    spends = True  # it may ask a model, which cannot be seen from here

    def __init__(self, url: str, seed_session: bool, headers: Mapping[str, str], parallel: int) -> None:
        self.url, self.shown = url, without_keys_in_addresses(url)
        self.seed_session = seed_session
        self.headers = {"User-Agent": f"rolloutops/{__version__}", **headers}
        self.parallel = parallel
        self._session: aiohttp.ClientSession | None = None

    async def verify(self, task: Task, rollout: Rollout) -> dict[str, Any]:
        """What the server returned, but for the conversation. Raises where it does not judge."""
        request = {**task.row, "responses_create_params": create_params(task.row, task.prompt, task.tools, {})}
        cookies: dict[str, str] = {}
        if self.seed_session:
            await self._post("/seed_session", request, cookies)
        reply = await self._post("/verify", {**request, "response": _response(rollout)}, cookies)
        if not isinstance(reply, dict):
            raise ValueError(f"{self.shown}/verify gave no JSON object")
        if FAILURE_CLASS in reply:
            said = reply.get("_ng_failure_message") or reply.get("failure_reason") or "no reason given"
            raise ValueError(f"{reply[FAILURE_CLASS]}: {said}")
        return {key: value for key, value in reply.items() if key not in ("responses_create_params", "response")}

    async def ready(self) -> str:
        """Whether the server answers at all, for `check`. Raises EngineError."""
        timeout = aiohttp.ClientTimeout(total=READY, sock_connect=10.0)
        try:
            async with (
                aiohttp.ClientSession(headers=self.headers, timeout=timeout) as session,
                session.get(f"{self.url}/verify", allow_redirects=False) as reply,
            ):
                await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise EngineError(f"{self.url} does not answer: {str(error) or type(error).__name__}") from None
        return f"{self.url} answers"

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, path: str, body: Mapping[str, Any], cookies: dict[str, str]) -> Any:
        """One request; the cookies that come back join those that went out."""
        if self._session is None:
            # No time limit of its own: the judge has one for each verdict.
            self._session = aiohttp.ClientSession(
                headers={"Content-Type": "application/json", **self.headers},
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=self.parallel, keepalive_timeout=4.0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            )
        data = dump(body).encode()
        async with self._session.post(
            f"{self.url}{path}", data=data, cookies=cookies or None, allow_redirects=False
        ) as reply:
            got = await reply.read()
        if not 200 <= reply.status < 300:
            said = redacted(got)[:SAID].decode(errors="replace")
            raise ValueError(f"{self.shown}{path} answered {reply.status}: {said}")
        cookies.update({name: cookie.value for name, cookie in reply.cookies.items()})
        return parse(without_keys(got)) if got.strip() else None


def _response(rollout: Rollout) -> dict[str, Any]:
    """A rollout as the Responses object that verifiers read."""
    cut = incomplete_details(rollout.finish_reason)
    return {
        "id": "resp_rollout",
        "created_at": 0,
        "object": "response",
        "model": "",
        "status": "incomplete" if cut else "completed",
        "incomplete_details": cut,
        "output": to_responses(list(rollout.completion)),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def make(
    url: str,
    seed_session: bool = False,
    headers: Mapping[str, str] | None = None,
    parallel: int = 64,
    version: str = "",
) -> Remote:
    """An environment that asks a NeMo Gym resources server for each verdict.

    url: the server's URL, e.g. http://localhost:8000. seed_session: begin each verdict with `POST /seed_session`.
    headers: further headers of each request. parallel: maximum concurrent requests. version: any text; change it when
    the server's code changes, and all rollouts are unverified again.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"remote: url must be like http://localhost:8000, not {without_keys_in_addresses(url)!r}")
    keep_out_settings(url=url, headers=headers)
    return Remote(url.rstrip("/").removesuffix("/verify"), seed_session, dict(headers or {}), parallel)
