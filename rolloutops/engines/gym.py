"""The `gym` engine: a NeMo Gym environment or agent server generates the whole rollout, reward included.

It sends one `POST /run` per rollout, with the task's row as NeMo Gym materializes it. The server runs the model, the
tools and the verifier; its own configuration chooses the model. The engine does not retry: it raises each failure as an
`AttemptFailed`, and `collect` decides whether to retry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from rolloutops import __version__
from rolloutops.config.redact import redacted, redacted_text, without_keys
from rolloutops.config.secrets import keep_out_settings, without_keys_in_addresses
from rolloutops.engines.aiohttp_session import Timeouts, open_session, sendable, unreached
from rolloutops.engines.open_files import allow_many
from rolloutops.engines.schemes import SchemeCheck
from rolloutops.errors import AttemptFailed, EngineError, UsageError
from rolloutops.formats.event_stream import is_stream, last_event
from rolloutops.formats.failed_generations import failed_answer
from rolloutops.formats.nemo_gym import agent_of, failed_response, read_rollout, refused, run_request
from rolloutops.formats.openai_replies import failure
from rolloutops.formats.refusals import KEPT
from rolloutops.formats.strict_json import dump, parse
from rolloutops.formats.task_rows import prompt_of_row
from rolloutops.types import Message, ModelCall, RolloutAnswer

DEFAULT = "_default"
"""The name in `agents` that stands for all other agents."""
READY = 30.0
"""Seconds in which a server must answer `check`."""


class GymEngine:
    """An engine that asks NeMo Gym's servers for rollouts.

    model: a name for the policy; the server's own configuration chooses the model.
    base_url: the URL of an environment server, e.g. http://localhost:8000; the server finds the agent of each row.
    agents: agent -> URL, to send rollouts to agent servers directly; `_default` for agents that are not listed.
    head_server: the URL of NeMo Gym's head server; if neither model nor policy is set, the policy is named after the
        model that it reports (default: port 11000 of the same host).
    agent: the agent for rows that name none. agent_name: the agent for all rows, whatever they name, like NeMo Gym's
        `+agent_name`.
    request_timeout: timeout of a whole rollout, in seconds. connect_timeout: timeout of connecting, in seconds.
    headers: further headers of each request. token_ids: keep the token ids and log-probs of replies.
    """

    connects: ClassVar[bool] = True
    operational: ClassVar[frozenset[str]] = frozenset(
        ("base_url", "agents", "head_server", "headers", "request_timeout", "connect_timeout")
    )

    def __init__(
        self,
        model: str = "",
        *,
        base_url: str | None = None,
        agents: Mapping[str, str] | None = None,
        head_server: str | None = None,
        agent: str | None = None,
        agent_name: str | None = None,
        request_timeout: float = 3600.0,
        connect_timeout: float = 10.0,
        headers: Mapping[str, str] | None = None,
        token_ids: bool = False,
    ) -> None:
        self.model, self.agent, self.agent_name, self.token_ids = model, agent, agent_name, token_ids
        self.places = _places(base_url, agents)
        keep_out_settings(headers=headers, base_url=base_url, agents=agents, head_server=head_server)
        sent = {"Content-Type": "application/json", "Accept": "application/json"}
        self.headers = {**sent, "User-Agent": f"rolloutops/{__version__}", **(headers or {})}
        self.request_timeout, self.connect_timeout = float(request_timeout), float(connect_timeout)
        self._session: aiohttp.ClientSession | None = None
        self._schemes: dict[str, SchemeCheck] = {}
        self._cookies: dict[str, dict[str, str]] = {}

    async def start(self) -> None:
        """Open the session. Nothing is sent yet."""
        allow_many()
        self._session = open_session(self.headers, self._timeouts())

    async def stop(self) -> None:
        """Close the session and its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ready(self) -> str:
        """Whether each server answers at all, for `check`; what, to a request that is not a rollout, does not matter.
        Raises EngineError."""
        timeouts = Timeouts(min(self.request_timeout, READY), self.connect_timeout)
        for url in dict.fromkeys(self.places.values()):
            try:
                async with (
                    open_session(self.headers, timeouts) as session,
                    session.get(url, allow_redirects=False) as got,
                ):
                    await got.read()
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                raise EngineError(str(unreached(error, url, timeouts))) from None
        return f"{', '.join(dict.fromkeys(self.places.values()))} answers"

    async def rollout(self, call: ModelCall) -> RolloutAnswer:
        """One rollout, else AttemptFailed.

        The cookies that a server sets belong to the rollout: they go with its next try, and with no other rollout.
        """
        if self._session is None:
            raise EngineError("the gym engine was not started")
        body = run_request(call)
        agent = self.agent_name or (self.agent if agent_of(body) is None else None)
        if agent is not None and "task" not in body:
            body["agent_ref"] = {"type": "responses_api_agents", "name": agent}
        url = self._place(agent_of(body))
        scheme = self._schemes.setdefault(url, SchemeCheck(URL(url), _shown(url)))
        sent = dump(body).encode()
        try:
            # A redirect would carry tasks to an address that nobody named.
            async with self._session.post(
                url,
                data=sendable(sent),
                allow_redirects=False,
                cookies=self._cookies.pop(call.key, None),
            ) as reply:
                if reply.cookies:
                    self._cookies[call.key] = {name: cookie.value for name, cookie in reply.cookies.items()}
                got = await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failed = unreached(error, _shown(url), self._timeouts(), redacted_text(str(error)))
            await scheme.look(failed)
            raise failed from None
        if reply.status == 400:
            await scheme.look(AttemptFailed("bad_request", "400"))
        scheme.answered()
        if reply.status >= 400 and (sample := _failed_sample(without_keys(got), agent_of(body))) is not None:
            self._cookies.pop(call.key, None)
            return sample
        if not 200 <= reply.status < 300:
            raise _refused(reply.status, reply.headers, redacted(got), _shown(url))
        answer = _read(without_keys(got), self.token_ids)
        self._cookies.pop(call.key, None)
        return answer

    def _place(self, agent: str | None) -> str:
        url = self.places.get(agent or DEFAULT) or self.places.get(DEFAULT)
        if url is None:
            known = ", ".join(self.places)
            what = f"agent {agent!r}" if agent else "a row without agent_ref"
            raise AttemptFailed("bad_request", f"no URL for {what}: agents has {known}; add it, or {DEFAULT}")
        return url

    def _timeouts(self) -> Timeouts:
        return Timeouts(self.request_timeout, self.connect_timeout)


_shown = without_keys_in_addresses


def _places(base_url: str | None, agents: Mapping[str, str] | None) -> dict[str, str]:
    """Return the address of each agent's rollouts. Raises UsageError where there is none."""
    places = {**({DEFAULT: base_url} if base_url else {}), **(agents or {})}
    if not places:
        raise UsageError(
            "the gym engine needs base_url = 'http://…' of an environment server, or agents = {name = URL}"
        )
    for name, url in places.items():
        parts, shown = urlsplit(url if isinstance(url, str) else ""), without_keys_in_addresses(str(url))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"the gym engine's URL for {name} must be like http://localhost:8000, not {shown!r}")
    return {name: f"{url.rstrip('/').removesuffix('/run')}/run" for name, url in places.items()}


def _refused(status: int, headers: Mapping[str, str], body: bytes, url: str) -> AttemptFailed:
    if status < 400:
        where = redacted_text(_shown(headers.get("Location", "another address")))
        return AttemptFailed("bad_request", f"{status}: {url} moved to {where}: change base_url")
    failed = failure(status, headers, body)
    if status in (404, 405):
        hint = f"{failed.message} (POST {url}: is base_url that of an environment or agent server?)"
        return AttemptFailed(failed.kind, hint, final=failed.final, raw=failed.raw)
    return failed


def _failed_sample(body: bytes, agent: str | None) -> RolloutAnswer | None:
    """The rollout of a refusal that is about what the model wrote, with its reason and no reward."""
    answer = failed_answer(body, "")
    if answer is None:
        return None
    return RolloutAnswer(
        completion=[answer.message],
        finish_reason=answer.finish_reason,
        model=None,
        returned=None,
        verifier=agent or "gym",
        raw=answer.raw or "",
        refusal=answer.refusal,
    )


def _read(body: bytes, token_ids: bool) -> RolloutAnswer:
    """The rollout in a reply with status 200, or the failure."""
    if is_stream(body):
        body = dump(last_event(body)).encode()
    raw = body.decode(errors="replace")
    try:
        reply: Any = parse(body)
    except ValueError:
        try:  # servers may write NaN, or a key twice: dump makes null and U+FFFD of what JSON does not have
            raw = dump(json.loads(body))
            reply = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise AttemptFailed("bad_response", f"the reply is not JSON: {error}", raw=raw[:KEPT]) from None
    if not isinstance(reply, dict):
        raise AttemptFailed("bad_response", "the reply is not a JSON object", raw=raw[:KEPT])
    if failed := refused(reply) or failed_response(reply):
        failed.raw = raw[:KEPT]
        raise failed
    if "episode_id" in reply and isinstance(reply.get("result"), dict):
        reply = reply["result"]
        raw = dump(reply)
    if "reward" not in reply and "response" not in reply:
        raise AttemptFailed("bad_response", "the reply holds neither a reward nor a response", raw=raw[:KEPT])
    answer = read_rollout(reply, raw, token_ids)
    if answer.finish_reason == "content_filter" and not any(_says(message) for message in answer.completion):
        raise AttemptFailed("content_filter", "a content filter removed the whole answer", raw=raw[:KEPT])
    return replace(answer, prompt=_prompt(reply))


def _says(message: Message) -> bool:
    """Whether a message is something that the model said or did."""
    return message["role"] == "assistant" and bool(message.get("content") or message.get("tool_calls"))


def _prompt(reply: Mapping[str, Any]) -> Sequence[Message] | None:
    """What was asked in the end: an environment may add to the prompt, as a game its board."""
    try:
        return prompt_of_row({"responses_create_params": reply.get("responses_create_params")}).messages or None
    except ValueError:
        return None
