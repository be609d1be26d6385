"""https to a port that speaks plain http, and the other way round: named at once, with what to write instead.

What such a server does to a request of the other kind differs: it hangs up, answers 400 or sends bytes that are no
HTTP. So, where nothing has ever come from an address and a request failed in one of these ways, it is asked once in the
other way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from yarl import URL

from rolloutops.errors import AttemptFailed, EngineError

SECONDS = 5.0
"""How long a server may take to show what it speaks."""
SUSPECT = frozenset({"connection", "unreachable", "bad_response", "bad_request"})
"""Failures that a wrong scheme looks like."""


class SchemeCheck:
    """Looks once whether an address speaks the other one of http and https. shown: the address, as it may be told."""

    def __init__(self, url: URL, label: str) -> None:
        self._url, self._shown = url, label
        self._looking: asyncio.Future[bool] | None = None
        self._answered = False

    def answered(self) -> None:
        """Something came that the address means to say: it speaks what it is asked in."""
        self._answered = True

    async def look(self, failed: AttemptFailed) -> None:
        """Raises EngineError where the failure is that of a wrong scheme."""
        if self._answered or failed.kind not in SUSPECT:
            return
        if self._looking is None:
            self._looking = asyncio.ensure_future(speaks_other(self._url))
        if await asyncio.shield(self._looking):
            raise EngineError(wrong_scheme(self._url, self._shown))


def wrong_scheme(url: URL, label: str) -> str:
    """The sentence for an address that speaks the other one."""
    other = "http" if url.scheme == "https" else "https"
    kind = "plain http, not https" if url.scheme == "https" else "https, not plain http"
    return f"{label}: the server speaks {kind}, at this port: write {other}:// in place of {url.scheme}://"


async def speaks_other(url: URL) -> bool:
    """Whether the server at an address speaks https where http is asked, or the other way round."""
    with contextlib.suppress(OSError, TimeoutError, UnicodeError, ValueError):
        async with asyncio.timeout(SECONDS):
            return await (_speaks_http(url) if url.scheme == "https" else _speaks_tls(url))
    return False


async def _speaks_tls(url: URL) -> bool:
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE  # nothing is sent: only whether it is TLS
    _, writer = await asyncio.open_connection(url.raw_host, url.port, ssl=anyone, server_hostname=url.raw_host)
    writer.transport.abort()
    return True


async def _speaks_http(url: URL) -> bool:
    reader, writer = await asyncio.open_connection(url.raw_host, url.port)
    try:
        host = url.host_port_subcomponent or ""
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.read(512)
    finally:
        writer.transport.abort()
    # A TLS port may answer in plain HTTP too: that it was asked in plain HTTP.
    return head.startswith(b"HTTP/") and not (head[9:12] == b"400" and b"HTTPS" in head.upper())
