"""Who may ask the viewer's server: the person who was shown its link, in a page of its own.

A page of another site may try to reach a server on this machine through the person's browser. So each request must name
a loopback host (a foreign name that resolves to 127.0.0.1 is refused), come from no other site, and carry a cookie that
only the printed link sets. A change comes by POST, from a page of this server, with a header that no form can send.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256

from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADER = "X-Rolloutops"
"""What a POST must carry: a form cannot send it, and another site's script may not."""

LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
"""A `Host` on this machine, at any port: behind `ssh -L` it is the port of the other end."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
"""Sent with every answer, refusals included."""


@dataclass(frozen=True)
class Access:
    """Who is let in. token: what the printed link holds. hosts: names of this machine beside the loopback ones."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    hosts: frozenset[str] = frozenset()

    @property
    def cookie(self) -> str:
        """The cookie's name, of this server alone: cookies do not tell ports apart."""
        return f"rolloutops_view_{sha256(self.token.encode()).hexdigest()[:10]}"

    def allows_host(self, host: str) -> bool:
        """Whether a request's `Host` names this server."""
        name = re.sub(r":[0-9]{1,5}$", "", host).lower()
        return LOOPBACK.fullmatch(host) is not None or name in self.hosts


def guard(access: Access) -> Middleware:
    """Make the middleware that lets in whoever `access` allows."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return _refusal(request, access) or _login(request, access) or await handler(request)
        except web.HTTPException as error:  # no such page, or another method than the page has
            return web.Response(status=error.status, text=error.reason, headers=_allow(error))

    return check


async def with_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put HEADERS on an answer before it is sent."""
    for name, text in HEADERS.items():
        response.headers.setdefault(name, text)


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


def _refusal(request: web.Request, access: Access) -> web.Response | None:
    """Say why a request is refused, whatever it carries; None where it is not."""
    host = request.headers.get("Host", "")
    if len(request.headers.getall("Host", ())) != 1 or not access.allows_host(host):
        return web.Response(status=421, text="this server only answers requests for this machine's own names")
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return web.Response(status=403, text="requests from pages of other sites are refused")
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        return web.Response(status=403, text="requests from pages of other sites are refused")
    if request.method not in ("GET", "HEAD", "POST"):
        return web.Response(status=405, text="GET and POST only", headers={"Allow": "GET, HEAD, POST"})
    if request.method == "POST" and (origin is None or request.headers.get(HEADER) != "1"):
        return web.Response(status=403, text=f"POST needs the header {HEADER} and the origin of this server")
    return None


def _login(request: web.Request, access: Access) -> web.Response | None:
    """Turn the printed link's token into the cookie; refuse who has neither; None where the cookie is there."""
    token = request.query.get("token")
    if token is not None and request.method == "GET" and not request.path.startswith("/api/"):
        if not _equal(token, access.token):
            return _unknown()
        response = web.Response(status=302, headers={"Location": str(request.rel_url.without_query_params("token"))})
        response.set_cookie(access.cookie, access.token, httponly=True, samesite="Strict", path="/")
        return response
    return None if _equal(request.cookies.get(access.cookie, ""), access.token) else _unknown()


def _equal(text: str, token: str) -> bool:
    return secrets.compare_digest(text.encode("utf-8", "surrogatepass"), token.encode())


def _unknown() -> web.Response:
    return web.Response(status=401, text="open the link that 'rolloutops view' printed: it holds the key to this page")
