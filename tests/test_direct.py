"""The client of the openai engine: whatever a server sends, and wherever it is cut, one request has one reply or one
typed failure, the same as by aiohttp."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from rolloutops.engines.direct import Direct, Reply
from rolloutops.errors import AttemptFailed, UsageError

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length:"))
    return await reader.readexactly(int(length.split(":")[1]))


def whole(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


class Server:
    """Where it listens, and how many connections were made."""

    def __init__(self, port: int) -> None:
        self.url = URL(f"http://127.0.0.1:{port}/v1/answers?a=b c")
        self.connections = 0


@asynccontextmanager
async def listening(talk: Talk) -> Any:
    """A server that has this talk on each connection, then hangs up."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            await talk(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    server = Server(listener.sockets[0].getsockname()[1])
    async with listener:
        yield server


@asynccontextmanager
async def client(url: URL, **given: Any) -> Any:
    direct = Direct(url, str(url), {"X-Test": "yes"}, **{"timeout": 30.0, "connect_timeout": 5.0, **given})
    try:
        yield direct
    finally:
        await direct.close()


def talking(pieces: Sequence[bytes]) -> Talk:
    """One request is read, and these pieces are sent, each by itself."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return talk


async def by_direct(url: URL) -> Reply | str:
    async with client(url) as direct:
        try:
            return await direct.post(b"{}")
        except AttemptFailed as failed:
            return failed.kind


async def by_aiohttp(url: URL) -> Reply | str:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(url, data=b"{}", allow_redirects=False) as reply:
                headers = {name.lower(): value for name, value in reversed(list(reply.headers.items()))}
                return Reply(reply.status, headers, await reply.read())
        except aiohttp.ClientResponseError:
            return "bad_response"
        except aiohttp.ClientError:
            return "connection"


def cut(data: bytes, at: Sequence[int]) -> Iterator[bytes]:
    """The data in pieces."""
    places = sorted({place % (len(data) + 1) for place in at})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        if start < end:
            yield data[start:end]


def replies() -> st.SearchStrategy[bytes]:
    """Whole replies: any status and body, framed in each of HTTP's three ways, perhaps after an interim one."""

    def made(status: int, body: bytes, framing: str, interim: bytes, close: bool) -> bytes:
        head = b"HTTP/1.1 %d Said\r\nContent-Type: application/json\r\nX-Odd:  a\tb \r\nx-odd: second\r\n" % status
        if close or framing == "close":
            head += b"Connection: close\r\n"
        if framing == "length":
            rest = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        elif framing == "chunked":
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:3], body[3:]) if p)
            rest = b"Transfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks
        else:
            rest = b"\r\n" + body
        return interim + head + rest

    return st.builds(
        made,
        st.sampled_from([200, 201, 400, 404, 429, 500, 503]),
        st.binary(max_size=80),
        st.sampled_from(["length", "chunked", "close"]),
        st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]),
        st.booleans(),
    )


@settings(deadline=None, max_examples=150)
@given(replies(), st.lists(st.integers(0, 400), max_size=6))
def test_a_reply_in_any_pieces_is_what_aiohttp_makes_of_it(reply: bytes, at: list[int]) -> None:
    async def run() -> None:
        async with listening(talking(list(cut(reply, at)))) as server:
            ours, theirs = await by_direct(server.url), await by_aiohttp(server.url)
        assert ours == theirs
        assert isinstance(ours, Reply)

    asyncio.run(run())


@settings(deadline=None, max_examples=150)
@given(replies(), st.integers(0, 400))
def test_a_reply_that_is_cut_off_is_a_failure_or_what_aiohttp_makes_of_it(reply: bytes, place: int) -> None:
    async def run() -> None:
        async with listening(talking([reply[: place % len(reply)]])) as server:
            ours = await by_direct(server.url)
            if isinstance(ours, Reply):  # one that ends when the server hangs up, or whose last bytes are not needed
                assert ours == await by_aiohttp(server.url)
            else:
                assert ours in ("connection", "bad_response")

    asyncio.run(run())


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: %b\r\n" % (b"x" * 1000) * 300 + b"Content-Length: 0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_bad_response(said: bytes) -> None:
    async def run() -> None:
        async with listening(talking([said])) as server:
            assert await by_direct(server.url) == "bad_response"

    asyncio.run(run())


def test_a_connection_is_kept_and_one_that_the_server_gave_up_is_not_used() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(whole(await request(reader)))

    async def run() -> None:
        async with listening(talk) as server, client(server.url) as direct:
            for n in range(9):
                body = b"%d" % n
                assert (await direct.post(body)).body == body
                while n % 3 == 2 and direct.lines:
                    await asyncio.sleep(0.001)  # until it is known that the server hung up
            assert server.connections == 3
            assert not direct._idle

    asyncio.run(run())


def test_many_at_once_each_get_their_own_answer_over_as_many_connections_as_allowed() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(whole(await request(reader)))

    async def run() -> None:
        bodies = [b"%d " % n * 10_000 for n in range(200)]  # more than a socket holds
        async with listening(talk) as server, client(server.url, most=7) as direct:
            assert [reply.body for reply in await asyncio.gather(*map(direct.post, bodies))] == bodies
            assert server.connections == 7

    asyncio.run(run())


def test_who_was_cancelled_leaves_no_answer_to_the_next() -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await request(reader)
        asked.set()
        if body == b"first":
            await asyncio.sleep(0.05)
        writer.write(whole(body))

    async def run() -> None:
        async with listening(talk) as server, client(server.url) as direct:
            first = asyncio.create_task(direct.post(b"first"))
            await asked.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert (await direct.post(b"second")).body == b"second"
            assert server.connections == 2

    asyncio.run(run())


def test_an_answer_that_comes_before_all_was_sent_ends_the_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def run() -> None:
        async with listening(talk) as server, client(server.url) as direct:
            assert (await direct.post(b"x" * 50_000_000)).status == 413
            assert not direct._idle

    asyncio.run(run())


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(whole(await request(reader)) + whole(b"more"))

    async def run() -> None:
        async with listening(talk) as server, client(server.url) as direct:
            for n in range(4):
                assert (await direct.post(b"%d" % n)).body == b"%d" % n
            assert server.connections == 4

    asyncio.run(run())


def test_time_limits() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = await request(reader)
            if body == b"hang":
                await asyncio.sleep(60)
            elif body == b"slow":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
                for n in range(4):
                    await asyncio.sleep(0.1)
                    writer.write(b"%d" % n)
            else:
                writer.write(whole(body))

    async def failed(direct: Direct, body: bytes) -> str:
        with pytest.raises(AttemptFailed) as caught:
            await direct.post(body)
        return f"{caught.value.kind}: {caught.value.message}"

    async def run() -> None:
        async with listening(talk) as server:
            async with client(server.url, timeout=0.3) as direct:
                assert (await direct.post(b"quick")).body == b"quick"
                assert "timeout: no answer from http" in await failed(direct, b"hang")
                assert (await direct.post(b"quick")).body == b"quick"
                assert "within 0.3 s" in await failed(direct, b"slow")
            async with client(server.url, silence=0.3) as direct:
                assert (await direct.post(b"slow")).body == b"0123"
                assert "timeout: nothing from http" in await failed(direct, b"hang")
        async with client(URL("http://127.0.0.1:9/")) as direct:
            assert "unreachable: http://127.0.0.1:9/" in await failed(direct, b"")
        async with client(URL("http://no.such.host.invalid/")) as direct:
            assert "unreachable: http://no.such" in await failed(direct, b"")

    asyncio.run(run())


def test_what_goes_over_the_wire() -> None:
    heads: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(whole(b""))

    async def run() -> None:
        async with listening(talk) as server, client(server.url) as direct:
            await direct.post(b"123")
            assert heads[0].split("\r\n") == [
                "POST /v1/answers?a=b+c HTTP/1.1",
                f"Host: 127.0.0.1:{server.url.port}",
                "Accept-Encoding: identity",
                "X-Test: yes",
                "Content-Length: 3",
                "",
                "",
            ]
            for name, value in (("X-A", "a\r\nX-B: b"), ("X A", "a"), ("", "a"), ("content-length", "7")):
                with pytest.raises(UsageError, match="cannot be"):
                    Direct(server.url, "", {name: value}, timeout=1, connect_timeout=1)

    asyncio.run(run())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"]
    named = ["-newkey", "rsa:2048", "-nodes", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(["openssl", "req", "-x509", *named, *made], cwd=tmp_path, check=True, capture_output=True)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(whole(await request(reader)))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        async with listener:
            url = URL(f"https://localhost:{listener.sockets[0].getsockname()[1]}/")
            async with client(url) as direct:
                with pytest.raises(AttemptFailed, match=r"(?i)certificate") as caught:
                    await direct.post(b"1")
                assert caught.value.kind == "unreachable"
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
            bodies = [b"%d" % n * 100_000 for n in range(8)]
            async with client(url) as direct:
                assert [r.body for r in await asyncio.gather(*map(direct.post, bodies))] == bodies
            async with client(URL(str(url).replace("localhost", "127.0.0.1"))) as direct:
                with pytest.raises(AttemptFailed, match=r"(?i)(certificate|mismatch)"):
                    await direct.post(b"1")

    asyncio.run(run())
