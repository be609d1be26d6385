"""The `openai` engine: any endpoint that speaks OpenAI's Responses or Chat API.

It uses aiohttp and orjson, so a call takes a fraction of the CPU time that the `openai` package needs. The engine does
not retry: it raises each failure as an `AttemptFailed`, and `collect` decides whether to retry. The key comes from the
environment, is sent in one header, and is removed from replies before they are stored.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from rolloutops import __version__
from rolloutops.config.redact import keep_out, redacted, redacted_text, without_keys
from rolloutops.config.secrets import HEADER, NAME, keep_out_settings, without_keys_in_addresses
from rolloutops.engines.aiohttp_session import MAX_REPLY_BYTES, Reply, Timeouts, open_session, post, unreached
from rolloutops.engines.model_list import refuse_unlisted
from rolloutops.engines.open_files import allow_many
from rolloutops.engines.replicas import Replicas
from rolloutops.engines.schemes import SchemeCheck
from rolloutops.errors import AttemptFailed, EngineError, UsageError
from rolloutops.formats.call_ids import with_unique_ids
from rolloutops.formats.failed_generations import failed_answer
from rolloutops.formats.openai_replies import failure, rate_limits, read_chat, read_responses
from rolloutops.formats.openai_requests import chat_body, encode, responses_body
from rolloutops.formats.replay import demands, names_an_item, refused_fields, with_readable_arguments, without_fields
from rolloutops.types import Engine, ModelAnswer, ModelCall

OPENAI = "https://api.openai.com/v1"
REFUSED = (400, 422)
"""Statuses of an endpoint that does not take a field."""
UNREADABLE = re.compile(
    r"chat.?template|template.?error|jinja|roles must alternate|item pairs from a mapping|no attribute 'items'"
    r"|tool.?call arguments|value is not callable|at row \d+, column \d+|undefined.?(error|value)|raise_exception",
    re.IGNORECASE,
)
"""How servers say, with status 500, that they or the chat template cannot read a message: llama.cpp, SGLang, TGI."""


class OpenAIEngine:
    """An engine that asks an endpoint.

    model: the model's name in each request.
    base_url: the API's URL, e.g. http://localhost:8000/v1 (default: the variable OPENAI_BASE_URL, else OpenAI).
        Several, as a list or separated by commas, are servers of one model that share the work.
    endpoint: `responses`, or `chat` for servers that only have Chat completions.
    api_key_env: the environment variable that holds the key; the key itself is never a setting.
    api_key_header: the header that carries the key, e.g. `api-key` for Azure (default: `Authorization: Bearer …`).
    api_key_required: stop if the variable of the key is not set (default: true for api.openai.com, else false).
    request_timeout: timeout of a whole call, in seconds. connect_timeout: timeout of connecting, in seconds.
    first_byte_timeout: timeout of the first byte of a reply, in seconds (default: request_timeout).
    headers: further headers of each request. extra_body: further fields of each request's body; they override others.
    token_ids: keep token ids and log-probs, if the server returns them (vLLM's Chat, NeMo Gym's model servers).
    replay: how a model's own message is sent back in the conversation's next request: `verbatim`, as the endpoint
        returned it, without the fields that the endpoint refuses by name; or `canonical`, as it is stored.
    max_connections: maximum concurrent connections; 0: no limit.
    max_reply_bytes: maximum size of one reply, in bytes, decompressed; a longer reply is a bad_response.
    """

    connects: ClassVar[bool] = True
    operational: ClassVar[frozenset[str]] = frozenset(
        (
            *("base_url", "api_key_env", "api_key_header", "api_key_required", "headers"),
            *("request_timeout", "connect_timeout", "max_connections", "max_reply_bytes"),
        )
    )

    def __init__(
        self,
        model: str,
        *,
        base_url: str | Sequence[str] | None = None,
        endpoint: Literal["responses", "chat"] = "responses",
        api_key_env: str = "OPENAI_API_KEY",
        api_key_header: str | None = None,
        api_key_required: bool | None = None,
        request_timeout: float = 600.0,
        connect_timeout: float = 10.0,
        first_byte_timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        replay: Literal["verbatim", "canonical"] = "verbatim",
        max_connections: int = 0,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        if endpoint not in ("responses", "chat"):
            raise UsageError(f"endpoint must be 'responses' or 'chat', not {endpoint!r}")
        if replay not in ("verbatim", "canonical"):
            raise UsageError(f"replay must be 'verbatim' or 'canonical', not {replay!r}")
        urls = _urls(base_url)
        if len(urls) > 1:
            raise UsageError("base_url names several servers, and this engine has one: pass one base_url")
        self.model, self.endpoint = model, endpoint
        self.url, host = _address(urls[0], endpoint)
        self.openai = _is_openai(host)
        key = _key(api_key_env, self.openai if api_key_required is None else api_key_required)
        self.headers, self.key_header = _headers(key, api_key_header, headers)
        keep_out(key)
        keep_out_settings(headers=headers, extra_body=extra_body, base_url=base_url)
        # OpenAI and Azure renamed Chat's max_tokens; servers of open models all know the old name.
        self.limit = "max_completion_tokens" if self.openai or host.endswith(".azure.com") else "max_tokens"
        self.extra_body, self.token_ids, self.replay = dict(extra_body or {}), token_ids, replay
        self.request_timeout, self.connect_timeout = float(request_timeout), float(connect_timeout)
        self.first_byte_timeout = None if first_byte_timeout is None else float(first_byte_timeout)
        self.max_connections, self.max_reply_bytes = int(max_connections), int(max_reply_bytes)
        self._session: aiohttp.ClientSession | None = None
        self._permits: asyncio.Semaphore | None = None
        self._scheme: SchemeCheck | None = None
        self._without: frozenset[str] = frozenset()  # fields that the endpoint refuses

    @classmethod
    def from_settings(cls, model: str, **settings: Any) -> Engine:
        """Make the engine of one server, or the replicas of several that `base_url` names."""
        urls = _urls(settings.get("base_url"))
        if len(urls) == 1:
            return cls(model, **settings)
        return Replicas([cls(model, **{**settings, "base_url": url}) for url in urls])

    async def start(self) -> None:
        """Open the session. Nothing is sent yet."""
        allow_many()
        self._session = self._open_session()
        self._permits = asyncio.Semaphore(self.max_connections) if self.max_connections else None
        address = URL(self.url)
        if _proxy(address) is None:  # through one, what fails may be the proxy
            self._scheme = SchemeCheck(address, self._plain_url())

    async def stop(self) -> None:
        """Close the session and its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ready(self) -> str:
        """Whether the endpoint answers, takes the key and has the model, for `check`: its list of models is asked for,
        and costs nothing. An endpoint without a list is fine. Raises EngineError."""
        parts = urlsplit(self.url)
        models = f"{parts.path.removesuffix('/responses').removesuffix('/chat/completions')}/models"
        address = URL(urlunsplit((parts.scheme, parts.netloc, models, parts.query, "")))
        try:
            async with self._open_session() as session, session.get(address, allow_redirects=False) as reply:
                status, listed = reply.status, await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failed = self._unreached(error)
            await SchemeCheck(address, self._plain_url()).look(failed)
            raise EngineError(str(failed)) from None
        if status == 400:  # of a TLS port, to plain http
            await SchemeCheck(address, self._plain_url()).look(AttemptFailed("bad_request", "400"))
        if status in (401, 403):
            raise EngineError(f"{self._plain_url()} refuses the key ({status})")
        if status == 200:
            refuse_unlisted(self.model, listed, self._plain_url())
        return f"{self._plain_url()} answers"

    async def answer(self, call: ModelCall) -> ModelAnswer:
        """One request, one answer; else AttemptFailed. Raises EngineError where the address speaks the other one of
        http and https."""
        try:
            reply = await self._post(self.body(call))
            failed_sample = self._failed_answer(reply)
            if failed_sample is None and not 200 <= reply.status < 300:
                reply = await self._less(call, reply)
                failed_sample = self._failed_answer(reply)
        except AttemptFailed as failed:
            if self._scheme is not None:
                await self._scheme.look(failed)
            raise
        if self._scheme is not None:
            if reply.status == 400:
                await self._scheme.look(AttemptFailed("bad_request", "400"))
            self._scheme.answered()
        if failed_sample is not None:
            return failed_sample
        if not 200 <= reply.status < 300:
            refusal = self._refused(reply.status, reply.headers, redacted(reply.body))
            if reply.status == 404 and names_an_item(refusal.message, self._request(call)):
                refusal.of_conversation = True
            raise refusal
        read = read_responses if self.endpoint == "responses" else read_chat
        got = without_keys(reply.body)
        return read(got, model=self.model, token_ids=self.token_ids, limits=rate_limits(reply.headers))

    def _open_session(self) -> aiohttp.ClientSession:
        return open_session(self.headers, self._timeouts(), proxy=_proxy(URL(self.url)))

    def _timeouts(self) -> Timeouts:
        return Timeouts(self.request_timeout, self.connect_timeout, self.first_byte_timeout)

    async def _post(self, body: bytes) -> Reply:
        """Send one request. Raises AttemptFailed where there is no reply. Waiting for one of max_connections is no part
        of request_timeout."""
        session, url = self._session, URL(self.url)
        if session is None:
            raise EngineError("the openai engine was not started")
        try:
            if self._permits is None:
                return await post(session, url, body, self.max_reply_bytes)
            async with self._permits:
                return await post(session, url, body, self.max_reply_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._unreached(error) from None

    async def _less(self, call: ModelCall, reply: Reply) -> Reply:
        """Send a refused request again without the fields of the model's own messages that the refusal names, and hold
        for the run what the endpoint does not take. Where it names none of them, all go; a refusal then stands."""
        without = self._without
        while reply.status in REFUSED or reply.status == 404:
            failed = failure(reply.status, reply.headers, reply.body)
            body = without_fields(self._request(call), without)
            known = reply.status in REFUSED or names_an_item(failed.message, body)
            if failed.kind == "bad_request" and self._without and demands(failed.message):
                # Servers behind one address differ: what one refused another may want.
                whole = await self._post(encode(self._request(call)))
                return whole if 200 <= whole.status < 300 else reply
            if failed.kind != "bad_request" or not known or not (refused := refused_fields(failed.message, body)):
                return reply
            without = without | refused
            reply = await self._post(encode(without_fields(self._request(call), without)))
        if 200 <= reply.status < 300:
            self._without = self._without | without
        return reply

    def body(self, call: ModelCall) -> bytes:
        """The body of the request that a call makes."""
        return encode(without_fields(self._request(call), self._without))

    def _request(self, call: ModelCall) -> dict[str, Any]:
        if self.replay == "canonical":
            call = replace(call, returned={})
        if self.endpoint == "responses":
            body = responses_body(call, self.model, openai=self.openai)
        else:
            body = chat_body(call, self.model, openai=self.openai, limit=self.limit, token_ids=self.token_ids)
        body.update(self.extra_body)
        if body.get("n") not in (None, 1):  # also of a task's own extra_body or metadata
            raise AttemptFailed("bad_request", f"n must be 1, not {body['n']!r}: a rollout has one answer")
        return with_unique_ids(with_readable_arguments(body))

    def _failed_answer(self, reply: Reply) -> ModelAnswer | None:
        """What the model wrote, where a refusal is of that and not of the request."""
        if reply.status not in (*REFUSED, 500):
            return None
        return failed_answer(without_keys(reply.body), self.model, rate_limits(reply.headers))

    def _plain_url(self) -> str:
        """The address without its query, which may hold a key."""
        return self.url.partition("?")[0]

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> AttemptFailed:
        if status < 400:
            where = redacted_text(without_keys_in_addresses(headers.get("location", "another address")))
            return AttemptFailed("bad_request", f"{status}: {self._plain_url()} moved to {where}: change base_url")
        failed = failure(status, headers, body)
        failed.limits = rate_limits(headers)
        if status in REFUSED:
            failed.of_conversation = failed.kind == "bad_request"
        elif status == 500 and UNREADABLE.search(failed.message):
            failed.of_conversation = True
        if status in (404, 405):
            other = "chat" if self.endpoint == "responses" else "responses"
            hint = (
                f"{failed.message} (POST {self._plain_url()}: is base_url right, or does it need endpoint = {other!r}?)"
            )
            return AttemptFailed(failed.kind, hint, final=failed.final, raw=failed.raw)
        return failed

    def _unreached(self, error: Exception) -> AttemptFailed:
        return unreached(error, self._plain_url(), self._timeouts(), redacted_text(str(error)))


def _urls(base_url: str | Sequence[str] | None) -> list[str]:
    """The addresses that a setting names, each once, in its order."""
    urls = base_url
    if urls is None:  # an empty one, of a shell variable that is not set, must not ask OpenAI
        urls = os.environ.get("OPENAI_BASE_URL") or OPENAI
    listed = urls.split(",") if isinstance(urls, str) else urls
    return list(dict.fromkeys(url.strip().rstrip("/") for url in listed))


def _address(base_url: str, endpoint: str) -> tuple[str, str]:
    """What requests are sent to, and its host."""
    parts = urlsplit(base_url)
    if "@" in parts.netloc:
        raise UsageError("base_url holds a user name or password: put the key into an environment variable instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"base_url {without_keys_in_addresses(base_url)!r} is not the URL of an API, e.g. http://localhost:8000/v1"
        )
    path = parts.path.rstrip("/") + ("/responses" if endpoint == "responses" else "/chat/completions")
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")), parts.hostname


def _is_openai(host: str) -> bool:
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def _key(name: str, required: bool) -> str:
    """The key in an environment variable; empty where it is not set."""
    if not NAME.fullmatch(name):
        raise UsageError("api_key_env must be the name of an environment variable, not the key itself")
    key = os.environ.get(name, "").strip()
    if not key and required:
        raise UsageError(f"{name} is not set: export it, or name another variable with --api_key_env")
    if any(mark in key for mark in "\r\n\0"):
        raise UsageError(f"{name} holds more than one line: it must be the key and nothing else")
    return key


def _headers(key: str, key_header: str | None, more: Mapping[str, str] | None) -> tuple[Mapping[str, str], str]:
    """The headers of each request, and the one of the user's own that carries the key, if any."""
    if key_header is not None and not HEADER.fullmatch(key_header):
        raise UsageError(
            "api_key_header must be the name of a header, e.g. api-key; put the key into the variable of api_key_env"
        )
    sent = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": f"rolloutops/{__version__}"}
    if key and key_header and key_header.lower() != "authorization":
        sent[key_header] = key
    elif key:
        sent["Authorization"] = f"Bearer {key}"
    sent.update(more or {})
    return sent, key_header if key and key_header and key_header in sent else ""


def _proxy(address: URL) -> URL | None:
    """The HTTP proxy that the environment names for an address; none for this machine itself. Asked once: aiohttp
    would ask at every request."""
    host = address.host or ""
    proxy = getproxies().get(address.scheme, "")
    if not proxy.startswith(("http://", "https://")) or proxy_bypass(host):
        return None
    return None if host == "localhost" or host.startswith("127.") or host == "::1" else URL(proxy)
