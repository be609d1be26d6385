"""HTTP through aiohttp, for every engine that asks a server: sessions, one POST with its reply, what failures mean.

Compression, TLS, proxies, chunks and time limits are aiohttp's. Here stands what it leaves to its users: a request that
a closing kept connection swallowed is sent again, an answer that nobody waits for is not taken for the next one, and a
reply has a largest size.
"""

from __future__ import annotations

import asyncio
import io
import re
import weakref
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from rolloutops.engines.open_files import out_of_files
from rolloutops.errors import AttemptFailed, UsageError

KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept: less than the 5 s after which uvicorn, vLLM's and NeMo Gym's server, hangs
up, because a request sent just then would fail."""
DNS_SECONDS = 300
"""Seconds for which a host's addresses are not looked up again."""
READ_BYTES = 2**18
"""Bytes that are read ahead of whoever reads the reply."""
HEADER_BYTES = 2**16
"""Bytes that one header of a reply may have; aiohttp's own limit is 8 kB, and gateways send longer ones."""
LARGE = 2**20
"""Bytes from which on aiohttp wants a body as a stream."""
MAX_REPLY_BYTES = 64_000_000
"""Bytes that a reply may have, decompressed: a server that never ends one must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: for a whole call, to reach the server, and in which nothing at all may come; None is no limit."""

    total: float
    connect: float
    silence: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, decompressed. headers: looked up in any case; of one that is there twice the first."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Sending:
    """One request on its way. fresh: only on a new connection. kept: whether its connection served others before."""

    fresh: bool = False
    kept: bool = False


_sending: ContextVar[_Sending | None] = ContextVar("_sending", default=None)


class _Connector(aiohttp.TCPConnector):
    """aiohttp's connections, without those that a reply came from while nobody waited for one: aiohttp would give it
    to the next request. It notes in `_sending` whether a connection was kept."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        """Take a kept connection that is still good, else make one."""
        sending = _sending.get() or _Sending()
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol not in self._seen:
                self._seen.add(protocol)
                sending.kept = False
                return connection
            if not sending.fresh and protocol is not None and not protocol.should_close:
                sending.kept = True
                return connection
            connection.close()


def open_session(headers: Mapping[str, str], timeouts: Timeouts, *, proxy: URL | None = None) -> aiohttp.ClientSession:
    """Open a session that keeps its connections, and no cookies. Raises UsageError for headers that cannot be sent."""
    _refuse_bad_headers(headers)
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=DNS_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeouts.total, connect=timeouts.connect, sock_read=timeouts.silence),
        headers=headers,
        proxy=proxy,
        read_bufsize=READ_BYTES,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
    )


async def post(session: aiohttp.ClientSession, url: URL, body: bytes, max_bytes: int = MAX_REPLY_BYTES) -> Reply:
    """Send a request and return its reply, whatever its status.

    A request that dies on a kept connection before anything of a reply came is sent once more on a new connection: the
    server closed the old one while the request was on its way (RFC 9112, 9.3.1), and did not take it. Redirects are
    returned, not followed: one would carry prompts to an address that nobody named. Raises what aiohttp raises, and
    AttemptFailed for a reply that is too large.
    """
    sending = _Sending()
    _sending.set(sending)
    try:
        reply = await session.post(url, data=sendable(body), allow_redirects=False)
    except aiohttp.ClientConnectionError as error:
        if not sending.kept or not _nothing_came(error):
            raise
        _sending.set(_Sending(fresh=True))
        reply = await session.post(url, data=sendable(body), allow_redirects=False)
    async with reply:
        return Reply(reply.status, reply.headers, await _read(reply, max_bytes))


async def _read(reply: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read a body piece by piece: what a compressed one becomes is not known before."""
    pieces, size = [], 0
    while piece := await reply.content.readany():
        size += len(piece)
        if size > max_bytes:
            raise AttemptFailed(
                "bad_response",
                f"the reply has more than {max_bytes:,} bytes: raise max_reply_bytes if replies may be this long",
            )
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _nothing_came(error: aiohttp.ClientConnectionError) -> bool:
    """Whether a connection ended before the first byte of a reply: aiohttp attaches a reply that had begun."""
    if isinstance(error, aiohttp.ServerTimeoutError):
        return False
    return not isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(error.message, str)


def sendable(body: bytes) -> bytes | io.BytesIO:
    """Wrap a body as aiohttp takes it."""
    return body if len(body) < LARGE else io.BytesIO(body)


def unreached(error: Exception, label: str, timeouts: Timeouts, text: str = "") -> AttemptFailed:
    """Name the failure that an error of aiohttp means. label: the address, as it may be named. text: the error's text,
    where it may not be shown as it is."""
    if ended := out_of_files(error):
        raise ended
    text = text or str(error) or type(error).__name__
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return AttemptFailed("unreachable", f"no connection to {label} within {timeouts.connect:g} s")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or text
        hint = "if a private authority signed it, set SSL_CERT_FILE to that authority's certificate"
        return AttemptFailed("unreachable", f"{label}: its certificate is refused: {why} ({hint})")
    if isinstance(error, aiohttp.ClientConnectorError):
        return AttemptFailed("unreachable", f"{label}: {text}")
    if isinstance(error, aiohttp.SocketTimeoutError) and timeouts.silence is not None:
        return AttemptFailed("timeout", f"no data from {label} for {timeouts.silence:g} s")
    if isinstance(error, asyncio.TimeoutError):
        return AttemptFailed("timeout", f"no answer from {label} within {timeouts.total:g} s")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return AttemptFailed("connection", f"{label} closed the connection before the answer was complete")
    cause = error.__cause__
    if isinstance(cause, HttpProcessingError) and "content-encoding" in cause.message:
        return AttemptFailed("bad_response", f"{label}: the reply cannot be read: {cause.message}")
    if isinstance(error, aiohttp.ClientResponseError):
        return AttemptFailed("bad_response", f"{label} does not speak HTTP: {error.message or text}")
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return AttemptFailed("connection", f"{label}: {text}")
    return AttemptFailed("bad_response", f"{label}: {type(error).__name__}: {text}")


def _refuse_bad_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\r\n\0]", value):
            raise UsageError(f"the header {name!r} cannot be sent: its name or value is not one line of plain text")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise UsageError(f"the header {name!r} cannot be set: the HTTP client sets it")
