"""A loopback endpoint with a rate limit: a bucket of requests that fills at an even pace, as providers have it.

As a process of its own: `python -m tests.limited --rate 20 --burst 20 --latency 1` prints its address; `GET /limits`
gives what it saw.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from tests.loopback import REPLIES, Loopback, _listen


@dataclass
class Limited(Loopback):
    """rate: requests a second, or a function of the seconds since the first request. burst: requests that may be saved
    up. headers: tell limit and remainder with each answer. admitted, refused: the time of each request."""

    rate: float | Callable[[float], float] = 20.0
    burst: float = 20.0
    tell: bool = False
    retry_after: str | None = "1"
    admitted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    _left: float = 0.0
    _at: float | None = None
    _began: float = 0.0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request: let through or refused."""
        if request.method == "GET":
            return web.json_response({"admitted": self.admitted, "refused": self.refused})
        now = time.monotonic()
        if self._at is None:
            self._left, self._at, self._began = self.burst, now, now
        self._left = min(self.burst, self._left + self._rate(now) * (now - self._at))
        self._at = now
        request["left"] = int(self._left)
        if self._left < 1:
            self.refused.append(now)
            await request.content.read()
            status, headers, body = REPLIES["429"]
            more = {"Retry-After": self.retry_after} if self.retry_after else {}
            return await self._deliver(request, status, {**headers, **more}, body, {"status": status})
        self._left -= 1
        self.admitted.append(now)
        request["left"] = int(self._left)
        return await super().handle(request)

    def _rate(self, now: float) -> float:
        return self.rate(now - self._began) if callable(self.rate) else self.rate

    async def _deliver(self, request, status, headers, data, entry):  # type: ignore[no-untyped-def]
        if self.tell:
            limit = f"{self._rate(time.monotonic()) * 60:.0f}"
            left = str(request["left"])
            headers = {**headers, "x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": left}
        return await super()._deliver(request, status, headers, data, entry)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("port", 0), ("rate", 20.0), ("burst", 20.0), ("latency", 1.0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--tell", action="store_true")
    reported = parser.parse_args()

    async def run() -> None:
        server = Limited(
            rate=reported.rate, burst=reported.burst, latency=reported.latency, tell=reported.tell, keep_bodies=False
        )
        await _listen(server, reported.port)
        print(json.dumps(server.url), flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
