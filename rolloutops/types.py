"""The types that travel through the whole product: tasks, rollouts, what a model is asked and what it answers.

The protocols of engines and environments are here too; each page of the docs that adds one says how it is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal, Protocol

Message = dict[str, Any]
"""One canonical chat message (`formats/chat.py`)."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What a policy is asked: the conversation so far and the effective parameters.

    params: OpenAI Responses names (temperature, top_p, max_output_tokens, seed, ...), as merged for this task.
    key: `dataset/task_id/rollout_index`, for engines that answer by rule. turn: model call of this rollout, from 0.
    server: which of an engine's several servers is to answer; None where the engine may choose.
    returned: positions in messages -> what a ModelAnswer of this conversation had as `returned`.
    """

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None
    params: Mapping[str, Any]
    key: str = ""
    turn: int = 0
    attempt: int = 1
    row: Mapping[str, Any] = field(default_factory=dict)
    server: int | None = None
    returned: Mapping[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an endpoint's headers say of its rate limits: so many a minute, and what was left of them."""

    requests: float | None = None
    requests_left: float | None = None
    tokens: float | None = None
    tokens_left: float | None = None


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One assistant message, canonical, and what it cost.

    finish_reason: stop, length, tool_calls, content_filter, or as received where it is none of these. raw: the answer
    as received, as JSON text.
    The three token lists are what the engine sampled from and sampled; None where they were not asked for.
    limits: the endpoint's rate limits, where it tells them. service_tier: what it was billed as, where that is told.
    returned: the message as its endpoint returned it, which the next call hands back: Chat's message, or the items of
    Responses; None where the engine has only the canonical one. refusal: what the endpoint said of the answer where
    finish_reason is generation_refused.
    """

    message: Message
    finish_reason: str
    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    raw: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    generation_token_ids: Sequence[int] | None = None
    generation_log_probs: Sequence[float] | None = None
    limits: Limits | None = None
    service_tier: str | None = None
    returned: Any = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class RolloutAnswer:
    """A whole rollout: what followed the prompt, what it cost, and what its environment made of it.

    completion: canonical messages. finish_reason: as of ModelAnswer, None where it is not known. model: as it calls
    itself. returned: what the environment's verify returned, with "reward"; None where it did not judge. verifier: its
    name. raw: the reply as received, as JSON text. turns: model calls. token_turns: the token lists of each model call
    that has them, as the column of `attempts`. prompt: what was asked in the end, where the environment may have added
    to it. limits, service_tier, refusal: as of ModelAnswer.
    """

    completion: Sequence[Message]
    finish_reason: str | None
    model: str | None
    returned: Mapping[str, Any] | None
    verifier: str
    raw: str
    turns: int = 1
    tool_names: Sequence[str] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    token_turns: Sequence[Mapping[str, Any]] | None = None
    prompt: Sequence[Message] | None = None
    limits: Limits | None = None
    service_tier: str | None = None
    refusal: str | None = None


class Answers(Protocol):
    """What answers model calls: all that the agent loop needs of an engine. `answer` is called concurrently."""

    async def answer(self, call: ModelCall) -> ModelAnswer: ...


class Engine(Answers, Protocol):
    """A policy engine. `start` is called once before the first call (load the model, open the session), `stop` once
    after the last.

    It is made by its class, or a function, from its settings by name. A class attribute `operational` names the
    settings that say where and how fast it answers, not what: they are no part of a policy.
    """

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class RolloutEngine(Protocol):
    """A rollout engine: the agent loop runs behind it, and with it the tools and, mostly, the verifier.

    `rollout` is called concurrently, with turn 0 of the conversation: the prompt, the tools and the task's row.
    """

    async def start(self) -> None: ...

    async def rollout(self, call: ModelCall) -> RolloutAnswer: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True)
class Refusal:
    """Why a batch was refused. line: of the file of requests, from 1, where one line is to blame."""

    code: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.code else self.message


@dataclass(frozen=True)
class Batch:
    """A batch as the provider describes it. Times are seconds since 1970."""

    batch_id: str
    status: str
    created_at: float
    ended_at: float
    completed: int = 0
    failed: int = 0
    files: Sequence[str] = ()
    refusals: Sequence[Refusal] = ()


class BatchClient(Protocol):
    """A provider that answers a file of requests within a day. It is no engine: nobody waits for one answer.

    url, endpoint: the provider, and what each request is sent to. wait: stay until all batches ended, looking each
    `poll_seconds`. settle_seconds: when the provider's list shows a batch for sure. requests_per_batch,
    bytes_per_batch: what one file may hold. `line` writes a request of such a file, `read` reads what became of it;
    `submit` is what is paid for.
    """

    model: str
    wait: bool
    poll_seconds: float
    settle_seconds: float
    requests_per_batch: int
    bytes_per_batch: int

    @property
    def url(self) -> str: ...

    @property
    def endpoint(self) -> str: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def ready(self) -> str: ...

    def body(self, call: ModelCall) -> bytes: ...

    def line(self, custom_id: str, body: bytes) -> bytes: ...

    async def upload(self, file: IO[bytes], name: str) -> str: ...

    async def submit(self, job_id: str, file_id: str, endpoint: str) -> Batch: ...

    async def find(self, job_id: str, file_id: str) -> Batch | None: ...

    async def look(self, batch_id: str) -> Batch: ...

    async def download(self, file_id: str, into: IO[bytes]) -> None: ...

    def read(self, line: bytes, endpoint: str) -> ModelAnswer: ...


@dataclass(frozen=True, slots=True)
class Task:
    """One task. row: the input line as parsed. prompt, tools: canonical. answer: the expected answer, as text."""

    dataset: str
    task_id: str
    row: Mapping[str, Any]
    prompt: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One finished rollout. completion: canonical messages after the prompt. text: the last assistant's text."""

    completion: Sequence[dict[str, Any]]
    text: str
    finish_reason: str | None = None


Runs = Literal["inline", "process", "async"]
"""How a verify runs: in the process that collects, in worker processes, or awaited where it is collected."""


class Environment(Protocol):
    """What verifies rollouts. `verify` is all that it needs; what else it may have is in `environments/__init__.py`.

    An attribute `runs` declares how verify runs:

    inline    in the process that collects, in threads once it is slow: for what no other process can make again
    process   in worker processes, which are stopped at a time or memory limit: for what computes
    async     awaited in the process that collects, many at once, with a time limit: for what waits

    It may also be a method of the task that returns one of them. An environment that declares nothing runs in place (a
    coroutine function is awaited), and moves to worker processes as soon as it is slow.
    """

    def verify(self, task: Task, rollout: Rollout) -> Any: ...
