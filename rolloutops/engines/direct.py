"""POST over HTTP/1.1 to one address, for engines that ask it millions of times.

A client for every purpose spends more on a request than all the rest of a collection does. This one knows one method
and one address: what is sent is one piece, replies are read by httptools (llhttp, the parser of Node.js), and a
connection carries one request at a time and is kept for the next. TLS and sockets are asyncio's. Proxies, redirects,
cookies and compression are not its business.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools
from aiohappyeyeballs import start_connection
from yarl import URL

from rolloutops.engines.open_files import out_of_files
from rolloutops.errors import AttemptFailed, UsageError

KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept: less than the 5 s after which uvicorn, vLLM's and NeMo Gym's server, hangs
up, because a request sent just then would fail."""
ADDRESS_KEPT = 300.0
"""Seconds for which a host's addresses are not looked up again."""
BUFFER = 2**18
"""Bytes that are read at once."""
LONGEST_HEAD = 2**18
"""Bytes that the headers of a reply may have, for memory's sake."""


@dataclass(slots=True)
class Reply:
    """A reply. headers: names in lower case; of one that is there twice the first."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Direct:
    """Posts to one address. Make it and use it in one event loop, and close it there.

    url: http or https. shown: the address as failures name it. headers: of each request. timeout: seconds for a whole
    call, connecting included. connect_timeout: seconds to reach the server. silence: seconds in which nothing at all
    may come; None is no limit. most: connections at the same time; 0 is no limit. Raises UsageError for headers that
    HTTP has no form for.
    """

    def __init__(
        self,
        url: URL,
        shown: str,
        headers: Mapping[str, str],
        *,
        timeout: float,
        connect_timeout: float,
        silence: float | None = None,
        most: int = 0,
    ) -> None:
        self.url, self.shown, self.silence = url, shown, silence
        self.timeout, self.connect_timeout = timeout, connect_timeout
        self.loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(BUFFER))  # of all lines: what is read is parsed at once
        self._head = _head(url, headers)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._room = asyncio.Semaphore(most) if most else None
        self.lines: set[_Line] = set()
        self._idle: dict[_Line, float] = {}
        self._addresses: list[Any] = []
        self._looked_up = -ADDRESS_KEPT
        self._looking = asyncio.Lock()

    async def post(self, body: bytes) -> Reply:
        """The reply to one request, whatever its status. Raises AttemptFailed where there is none: unreachable,
        timeout, connection or bad_response."""
        if self._room is not None:
            async with self._room:
                return await self._post(body)
        return await self._post(body)

    async def close(self) -> None:
        """Hang up."""
        for line in list(self.lines):
            line.abort()
        await asyncio.sleep(0)  # in which the transports let go of their sockets

    async def _post(self, body: bytes) -> Reply:
        sent = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        line = self._kept()
        if line is not None:
            return await line.ask(sent, self.timeout)
        begun = self.loop.time()
        line = await self._connected()
        return await line.ask(sent, self.timeout - (self.loop.time() - begun))

    def _kept(self) -> _Line | None:
        """The connection that was used last, if it is still fresh; those that are not are closed."""
        while self._idle:
            line, since = self._idle.popitem()
            if self.loop.time() - since < KEEP_ALIVE and not line.is_closing:
                return line
            line.abort()
        return None

    async def _connected(self) -> _Line:
        seconds = min(self.connect_timeout, self.timeout)
        try:
            async with asyncio.timeout(seconds):
                link = await start_connection(await self._found(), happy_eyeballs_delay=0.25, interleave=1)
                link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                host = self.url.raw_host if self._tls else None
                _, line = await self.loop.create_connection(
                    lambda: _Line(self), sock=link, ssl=self._tls, server_hostname=host
                )
        except TimeoutError:
            raise AttemptFailed("unreachable", f"no connection to {self.shown} within {seconds:g} s") from None
        except (OSError, UnicodeError) as error:
            if ended := out_of_files(error):
                raise ended from None
            raise AttemptFailed("unreachable", f"{self.shown}: {_said(error)}") from None
        return line

    async def _found(self) -> list[Any]:
        """The host's addresses."""
        async with self._looking:
            if self.loop.time() - self._looked_up >= ADDRESS_KEPT:
                self._addresses = await self.loop.getaddrinfo(
                    self.url.raw_host, self.url.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
                )
                self._looked_up = self.loop.time()
            return self._addresses

    def free(self, line: _Line) -> None:
        """A line has nothing to do now."""
        now = self.loop.time()
        self._idle[line] = now
        oldest = next(iter(self._idle))
        if now - self._idle[oldest] >= KEEP_ALIVE:
            del self._idle[oldest]
            oldest.abort()

    def gone(self, line: _Line) -> None:
        """A line is no more."""
        self.lines.discard(line)
        self._idle.pop(line, None)


class _Line(asyncio.BufferedProtocol):
    """One connection: one request at a time, and what httptools reads of its reply (the methods `on_…`)."""

    def __init__(self, client: Direct) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._reply, self._body, self._length = Reply(0), [b""], 0
        self._until_close = False
        self._deadline = self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, sent: bytes, seconds: float) -> Reply:
        """Send a request and read its reply. Raises AttemptFailed."""
        loop = self._client.loop
        if self.is_closing:  # the server took the connection and hung up at once
            raise AttemptFailed("connection", f"{self._client.shown} hung up")
        waiter = self._waiter = loop.create_future()
        self._heard = loop.time()
        self._deadline = self._heard + seconds
        if self._timer is None:  # else it looks later: it was set for an earlier request
            self._timer = loop.call_at(self._due(), self._look)
        self._transport.write(sent)
        try:
            return await waiter
        finally:
            if self._waiter is waiter:  # whoever asked was cancelled
                self.abort()

    def abort(self) -> None:
        """Hang up at once. Nobody waits for an answer any more."""
        self._waiter = None
        self._client.gone(self)
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()

    def _due(self) -> float:
        silence = self._client.silence
        return self._deadline if silence is None else min(self._deadline, self._heard + silence)

    def _look(self) -> None:
        """Look whether the reply is late."""
        self._timer, client = None, self._client
        if self._waiter is None:
            return
        now, due = client.loop.time(), self._due()
        if now < due:
            self._timer = client.loop.call_at(due, self._look)
        elif due == self._deadline:
            self._fail("timeout", f"no answer from {client.shown} within {client.timeout:g} s")
        else:
            self._fail("timeout", f"nothing from {client.shown} for {client.silence:g} s")

    @property
    def is_closing(self) -> bool:
        """Whether one side has hung up."""
        return self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._client.lines.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._client.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._waiter is None:  # nothing was asked
            self.abort()
            return
        self._heard = self._client.loop.time()
        try:
            self._parser.feed_data(self._client.buffer[:nbytes])
        except httptools.HttpParserError as error:
            why = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
            self._fail("bad_response", f"{self._client.shown} does not speak HTTP: {why or error}")

    def connection_lost(self, error: Exception | None) -> None:
        if self._until_close and error is None:
            self._end()
        elif error is None:
            self._fail("connection", f"{self._client.shown} hung up before the answer was complete")
        else:
            self._fail("connection", f"{self._client.shown}: {_said(error)}")

    def on_message_begin(self) -> None:
        if self._waiter is None:  # more than was asked for: it must not be taken for the next request's reply
            self.abort()
        self._reply, self._body, self._length = Reply(0), [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._length += len(name) + len(value)
        if self._length > LONGEST_HEAD:
            raise ValueError(f"its headers have more than {LONGEST_HEAD:,} bytes")
        self._reply.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").rstrip())

    def on_headers_complete(self) -> None:
        headers, final = self._reply.headers, self._parser.get_status_code() >= 200
        self._until_close = final and not ("content-length" in headers or "transfer-encoding" in headers)

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:  # else the reply is still to come
            self._end()

    def _end(self) -> None:
        """The reply is there; the line may be used again, if both sides are through."""
        waiter, reply = self._waiter, self._reply
        self._waiter, self._until_close = None, False
        if waiter is None or waiter.done():  # whoever asked was cancelled
            self.abort()
            return
        reply.status, reply.body = self._parser.get_status_code(), b"".join(self._body)
        if self._parser.should_keep_alive() and not self.is_closing and not self._transport.get_write_buffer_size():
            self._client.free(self)
        else:
            self.abort()
        waiter.set_result(reply)

    def _fail(self, kind: str, why: str) -> None:
        waiter = self._waiter
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(AttemptFailed(kind, why))


def _head(url: URL, headers: Mapping[str, str]) -> bytes:
    """A request up to the number of its body's bytes."""
    given = {name.lower() for name in headers}
    ours = {"Host": url.host_port_subcomponent or "", "Accept-Encoding": "identity"}
    named = {**{name: value for name, value in ours.items() if name.lower() not in given}, **headers}
    for name, value in named.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\r\n\0]", value):
            raise UsageError(f"the header {name!r} cannot be sent: its name or value is not one line of plain text")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise UsageError(f"the header {name!r} cannot be given: it follows from what is sent")
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {url.raw_path_qs} HTTP/1.1\r\n{lines}Content-Length: ".encode()


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
