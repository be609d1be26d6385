"""The `batch` engine: OpenAI's Batch API through the `openai` package. It uploads a file of requests and downloads a
file of answers within a day, at half the price.

`collect` submits pending rollouts as batch jobs, and stores their answers when the jobs have ended. Rollouts are
single-turn: if tools are offered, a rollout ends with the model's tool calls (finish_reason `tool_calls`), because
tools cannot run in a batch. A file holds at most 50,000 requests and 200 MB, for one model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal, cast
from urllib.parse import parse_qsl, urlsplit

import orjson
from yarl import URL

from rolloutops.config.redact import redacted_text, without_keys
from rolloutops.engines.openai import OpenAIEngine
from rolloutops.engines.schemes import SchemeCheck
from rolloutops.errors import AttemptFailed, EngineError, RolloutopsError, UsageError
from rolloutops.formats.failed_generations import failed_answer
from rolloutops.formats.openai_replies import body_in, failure, read_chat, read_responses
from rolloutops.formats.refusals import OUT_OF_MONEY
from rolloutops.types import Batch, ModelAnswer, Refusal

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
"""What one file of requests may hold."""

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""The states that a batch does not leave. `failed` is one that was refused as a whole: none of it ran."""

NO_ROOM = frozenset({"token_limit_exceeded", "request_limit_exceeded", "rate_limit_exceeded"})
"""Why a batch is refused for now: too much of the account's is enqueued already."""

STATUS = {"batch_expired": 408, "request_timeout": 408, "batch_cancelled": 409}
"""The status that stands for the code of a request that got no answer; 500 for any other code."""

TRANSFERS = 3
"""How often a file is downloaded that breaks off."""

JOB = "rolloutops_job"
"""The metadata key that says which job a batch is."""


class Unanswered(EngineError):
    """A batch was asked for, and it is not known whether the provider made it."""


class NotThere(EngineError):
    """The provider has no such file or batch."""


class NotNow(EngineError):
    """The provider refuses to make a batch for now; it made none."""


class OpenAIBatches:
    """A client that asks in batches.

    model, base_url, endpoint, api_key_env, api_key_header, api_key_required, headers, extra_body: as for the `openai`
    engine.
    wait: wait until all batches have ended; false: submit, store the answers of ended batches, and exit.
    poll_seconds: seconds between two requests for the status of a batch, with wait.
    requests_per_batch: maximum requests per batch; use less if your account's queue is small. bytes_per_batch: maximum
        bytes per batch.
    settle_seconds: if the provider did not confirm a new batch, seconds until its list of batches must show it.
    timeout: timeout of one HTTP request, transfer of a file included, in seconds.
    """

    operational: ClassVar[frozenset[str]] = frozenset(
        (
            *("base_url", "api_key_env", "api_key_header", "api_key_required", "headers"),
            *("wait", "poll_seconds", "requests_per_batch", "bytes_per_batch", "settle_seconds", "timeout"),
        )
    )

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        endpoint: Literal["responses", "chat"] = "responses",
        api_key_env: str = "OPENAI_API_KEY",
        api_key_header: str | None = None,
        api_key_required: bool | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        wait: bool = False,
        poll_seconds: float = 30.0,
        requests_per_batch: int = MOST_REQUESTS,
        bytes_per_batch: int = MOST_BYTES,
        settle_seconds: float = 60.0,
        timeout: float = 600.0,
    ) -> None:
        for name, value, most in (
            ("requests_per_batch", requests_per_batch, MOST_REQUESTS),
            ("bytes_per_batch", bytes_per_batch, MOST_BYTES),
        ):
            if not 0 < value <= most:
                raise UsageError(f"{name} must be from 1 to {most:,}, not {value!r}")
        if poll_seconds <= 0:
            raise UsageError(f"poll_seconds must be more than 0, not {poll_seconds!r}")
        # The engine that single requests would go to, never started: it knows the key and writes the bodies.
        self._single = OpenAIEngine(
            model,
            base_url=base_url,
            endpoint=endpoint,
            api_key_env=api_key_env,
            api_key_header=api_key_header,
            api_key_required=api_key_required,
            headers=headers,
            extra_body=extra_body,
        )
        self.model, self.body = model, self._single.body
        self.wait, self.poll_seconds, self.settle_seconds = wait, poll_seconds, settle_seconds
        self.requests_per_batch, self.bytes_per_batch = requests_per_batch, bytes_per_batch
        self._extra_headers, self._timeout = dict(headers or {}), timeout
        self._client: AsyncOpenAI | None = None

    @property
    def url(self) -> str:
        """The provider's address, without its query, which may hold a key."""
        return self._single.url.partition("?")[0].removesuffix("/responses").removesuffix("/chat/completions")

    @property
    def endpoint(self) -> str:
        """What each request of a batch is sent to."""
        return "/v1/responses" if self._single.endpoint == "responses" else "/v1/chat/completions"

    @property
    def client(self) -> AsyncOpenAI:
        """The open client."""
        if self._client is None:
            raise EngineError("the batch client was not started")
        return self._client

    async def start(self) -> None:
        """Open the client. Nothing is sent yet."""
        from openai import AsyncOpenAI, Omit

        scheme, _, key = self._single.headers.get("Authorization", "").partition(" ")
        own: dict[str, Any] = {**self._extra_headers}
        if header := self._single.key_header:
            own = {"Authorization": Omit(), header: self._single.headers[header], **own}
        self._client = AsyncOpenAI(
            api_key=key if scheme == "Bearer" else "none",
            base_url=self.url,
            default_headers=own,
            default_query=dict(parse_qsl(urlsplit(self._single.url).query)),
            timeout=self._timeout,
            max_retries=5,
        )

    async def stop(self) -> None:
        """Close the client and its connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ready(self) -> str:
        """Whether the provider can be reached with this key, and has the model."""
        await self.start()
        try:
            async with self._explained("list batches"):
                await self.client.batches.list(limit=1)
            await self._single.ready()
        finally:
            await self.stop()
        return f"{self.url} lists its batches"

    def line(self, custom_id: str, body: bytes) -> bytes:
        """One line of a file of requests. body: as `OpenAIEngine.body` makes it."""
        head = {"custom_id": custom_id, "method": "POST", "url": self.endpoint}
        return orjson.dumps(head)[:-1] + b',"body":' + body + b"}\n"

    async def upload(self, file: IO[bytes], name: str) -> str:
        """Send a file of requests; returns its id. Nothing is paid for it."""
        async with self._explained(f"upload {name}"):
            return (await self.client.files.create(file=(name, file), purpose="batch")).id

    async def submit(self, job_id: str, file_id: str, endpoint: str) -> Batch:
        """Ask for a batch of an uploaded file: from here on it is paid. Asked once, never again by itself.

        Raises Unanswered, NotNow, NotThere (the file), or EngineError where it is refused for good.
        """
        from openai import APIConnectionError, APIStatusError

        async with self._explained(f"create a batch of {file_id}"):
            try:
                made = await self.client.with_options(max_retries=0).batches.create(
                    input_file_id=file_id,
                    endpoint=cast(Any, endpoint),
                    completion_window="24h",
                    metadata={JOB: job_id},
                    extra_headers={"Idempotency-Key": job_id},
                )
            except APIConnectionError as error:  # also what timed out
                raise Unanswered(self._error_text(error)) from None
            except APIStatusError as error:
                if error.status_code == 429 and not OUT_OF_MONEY.search(str(error.code)):
                    raise NotNow(self._error_text(error)) from None
                if error.status_code in (408, 409) or error.status_code >= 500:
                    raise Unanswered(self._error_text(error)) from None
                raise
        return _batch(made)

    async def find(self, job_id: str, file_id: str) -> Batch | None:
        """The batch of a job, among all that the provider lists: by its metadata, or by its file of requests."""
        async with self._explained("list batches"):
            async for batch in self.client.batches.list(limit=100):
                if (batch.metadata or {}).get(JOB) == job_id or batch.input_file_id == file_id:
                    return _batch(batch)
        return None

    async def look(self, batch_id: str) -> Batch:
        """How a batch stands."""
        async with self._explained(f"return the status of batch {batch_id}"):
            return _batch(await self.client.batches.retrieve(batch_id))

    async def download(self, file_id: str, into: IO[bytes]) -> None:
        """A file of answers, appended to an open file. A transfer that breaks off is begun again."""
        start, why = into.tell(), ""
        for _ in range(TRANSFERS):
            into.seek(start)
            into.truncate()
            try:
                async with (
                    self._explained(f"return file {file_id}"),
                    self.client.files.with_streaming_response.content(file_id) as reply,
                ):
                    async for chunk in reply.iter_bytes(2**20):
                        into.write(chunk)
                return
            except RolloutopsError:
                raise
            except Exception as error:  # the client raises what its HTTP library raises in mid-body
                why = self._error_text(error)
        raise EngineError(f"{self.url}: the download of {file_id} broke off ({why}); run the command again")

    def read(self, line: bytes, endpoint: str) -> ModelAnswer:
        """Read one line of an output or error file. endpoint: where its request was sent to. Raises AttemptFailed."""
        line = without_keys(line)
        try:
            reply = orjson.loads(line)
            if reply.get("error"):
                body = orjson.dumps({"error": reply["error"]})
                raise failure(STATUS.get(str(reply["error"].get("code")), 500), {}, body)
            status, body = int(reply["response"]["status_code"]), body_in(line, reply["response"]["body"])
            if not 200 <= status < 300:
                if (answer := failed_answer(body, self.model)) is not None:
                    return answer
                raise failure(status, {}, body)
            read = read_responses if endpoint == "/v1/responses" else read_chat
            return read(body, model=self.model)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            what = f"the line does not have the structure of an answer: {type(error).__name__}: {error}"
            raise AttemptFailed("bad_response", what, raw=line[:2048].decode(errors="replace")) from error

    @asynccontextmanager
    async def _explained(self, doing: str) -> AsyncIterator[None]:
        """Turn what the client raises into one sentence."""
        from openai import APIStatusError, OpenAIError

        try:
            yield
        except APIStatusError as error:
            said = f"{self.url} refuses to {doing}: {error.status_code}: {self._error_text(error)}"
            if error.status_code in (401, 403):
                said += "; fix the key and run the command again"
            raise (NotThere if error.status_code == 404 else EngineError)(said) from None
        except OpenAIError as error:
            await SchemeCheck(URL(self.url), self.url).look(AttemptFailed("unreachable", ""))
            said = f"{self.url} did not {doing} ({self._error_text(error)}); run the command again"
            raise EngineError(said) from None

    def _error_text(self, error: Exception) -> str:
        """What an error says, without the key."""
        body = getattr(error, "body", None)
        said = redacted_text(str(body["message"]) if isinstance(body, dict) and body.get("message") else str(error))
        return (said or type(error).__name__)[:2048]


def _batch(reply: Any) -> Batch:
    """The client's Batch as ours."""
    counts = reply.request_counts
    ended = reply.completed_at or reply.expired_at or reply.cancelled_at or reply.failed_at
    errors = (reply.errors.data if reply.errors else None) or ()
    return Batch(
        batch_id=reply.id,
        status=reply.status,
        created_at=reply.created_at,
        ended_at=ended or reply.created_at,
        completed=counts.completed if counts else 0,
        failed=counts.failed if counts else 0,
        files=tuple(name for name in (reply.output_file_id, reply.error_file_id) if name),
        refusals=tuple(Refusal(e.code or "", e.message or e.code or "no reason given", e.line) for e in errors),
    )
