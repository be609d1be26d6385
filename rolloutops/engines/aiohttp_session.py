"""aiohttp, for what `direct.py` does not do: proxies, cookies, requests to many addresses."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from rolloutops.engines.direct import KEEP_ALIVE
from rolloutops.engines.open_files import out_of_files
from rolloutops.errors import AttemptFailed

LARGE = 2**20
"""Bytes from which on aiohttp wants a body as a stream."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: for a whole call, to reach the server, and in which nothing at all may come; None is no limit."""

    total: float
    connect: float
    silence: float | None = None


def open_session(
    headers: Mapping[str, str], timeouts: Timeouts, *, most: int = 0, proxy: URL | None = None
) -> aiohttp.ClientSession:
    """A session that keeps its connections, and no cookies. most: connections at the same time; 0 is no limit."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=most, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=300),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeouts.total, sock_connect=timeouts.connect, sock_read=timeouts.silence),
        headers=headers,
        proxy=proxy,
        read_bufsize=2**18,
    )


def sendable(body: bytes) -> bytes | io.BytesIO:
    """A body as aiohttp takes it."""
    return body if len(body) < LARGE else io.BytesIO(body)


def unreached(error: Exception, shown: str, timeouts: Timeouts, said: str = "") -> AttemptFailed:
    """What an error of aiohttp means. shown: the address, as it may be told. said: the error's text, where it may not
    be told as it is."""
    if ended := out_of_files(error):
        raise ended
    said = said or str(error) or type(error).__name__
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return AttemptFailed("unreachable", f"no connection to {shown} within {timeouts.connect:g} s")
    if isinstance(error, aiohttp.ClientConnectorError):
        return AttemptFailed("unreachable", f"{shown}: {said}")
    if isinstance(error, asyncio.TimeoutError):
        return AttemptFailed("timeout", f"no answer from {shown} within {timeouts.total:g} s")
    if isinstance(error, aiohttp.ClientResponseError):
        return AttemptFailed("bad_response", f"{shown} does not speak HTTP: {error.message or said}")
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return AttemptFailed("connection", f"{shown}: {said}")
    return AttemptFailed("bad_response", f"{shown}: {type(error).__name__}: {said}")
