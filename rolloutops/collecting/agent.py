"""The agent loop: call the model, run the tools that it asks for, go on until it stops. One piece of code for all
engines; what becomes of an attempt is a row of `attempts`, whether it succeeded or failed."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple, TypeVar

from rolloutops.collecting.alarm import Alarm
from rolloutops.conversations.messages import text_of
from rolloutops.engines import Engine, Message, ModelAnswer, ModelCall, RolloutAnswer, RolloutEngine
from rolloutops.environments import Rollout, Task
from rolloutops.errors import AttemptFailed, EngineError
from rolloutops.jsontext import dump
from rolloutops.pacing.fleet import AnyPace
from rolloutops.pacing.pace import Ticket
from rolloutops.settings import Collect

COUNTS = ("input_tokens", "output_tokens", "reasoning_tokens", "cached_tokens")
"""What answers tell of tokens: columns of `attempts`."""

Answer = TypeVar("Answer", ModelAnswer, RolloutAnswer)


@dataclass(slots=True)
class Owed:
    """One rollout that is owed: the task, which repeat, which attempt, and the parameters as merged for it, with their
    JSON. tries: the attempts that counted so far. give_up_at: the time (time.monotonic) after which a failure is final;
    None until it is tried for the first time.
    """

    task: Task
    row_hash: str
    part: int
    policy: str
    rollout_index: int
    attempt: int
    asked: Collect
    params: Mapping[str, Any]
    request: str
    tries: int = 0
    give_up_at: float | None = None

    @property
    def key(self) -> str:
        return f"{self.task.dataset}/{self.task.task_id}/{self.rollout_index}"


class Attempted(NamedTuple):
    """How an attempt ended. row: its columns of `attempts` but for attempt_id and run_id. rollout: where it succeeded.
    retry_after: seconds that the endpoint asked to wait. whole: what a rollout engine gave, its verdict with it."""

    row: dict[str, Any]
    rollout: Rollout | None
    retry_after: float | None = None
    whole: RolloutAnswer | None = None


@dataclass(slots=True)
class Trace:
    """What has happened in an attempt so far; complete or not, it is what the row is made of."""

    completion: list[Message] = field(default_factory=list)
    answers: list[ModelAnswer] = field(default_factory=list)
    tool_names: list[str] = field(default_factory=list)
    tool_errors: int = 0
    finish_reason: str | None = None
    model_seconds: float = 0.0
    tool_seconds: float = 0.0
    waited: float = 0.0
    server: int | None = None
    whole: RolloutAnswer | None = None


def effective_params(row: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The task's own `responses_create_params` without its conversation, the overrides merged over it, shallowly."""
    own = row.get("responses_create_params")
    kept = {k: v for k, v in own.items() if k not in ("input", "tools")} if isinstance(own, dict) else {}
    return {k: v for k, v in {**kept, **overrides}.items() if v is not None}


async def attempt(
    owed: Owed,
    engine: Engine | RolloutEngine,
    environment: Any,
    pace: AnyPace | None = None,
    alarm: Alarm | None = None,
) -> Attempted:
    """Try one rollout. pace: when the endpoint may be asked; waiting for it is no part of the rollout's time. alarm: of
    the task that this runs in, where it tries many.

    Raises EngineError where the engine died, and what cancels it; every other failure is in the row.
    """
    started, clock, trace = time.time(), time.monotonic(), Trace()
    prompt, own_prompt = _prompt(owed)
    tools = owed.task.tools or getattr(environment, "tools", None) or None
    failure: AttemptFailed | None = None
    limit = alarm or Alarm()
    try:
        with limit.within(_time_left(owed, clock)):
            await _converse(owed, trace, prompt, tools, engine, environment, pace, limit)
    except AttemptFailed as error:
        failure = error
    except TimeoutError:
        failure = AttemptFailed("timeout", f"no end within {time.monotonic() - clock - trace.waited:.1f} s")
    finally:
        if alarm is None:
            limit.off()
    whole = trace.whole
    told: Sequence[ModelAnswer | RolloutAnswer] = trace.answers if whole is None else [whole]
    last = told[-1] if told else None
    row: dict[str, Any] = {
        "dataset": owed.task.dataset,
        "task_id": owed.task.task_id,
        "row_hash": owed.row_hash,
        "policy": owed.policy,
        "rollout_index": owed.rollout_index,
        "attempt": owed.attempt,
        "part": owed.part,
        "engine": owed.asked.engine,
        "model": (last.model if last else None) or owed.asked.model,
        "final": failure.final if failure else True,
        "request": owed.request,
        "prompt": None if own_prompt else dump(prompt),
        "tools": None if owed.task.tools or not tools else dump(tools),
        "started_at": int(started * 1e6),
        "seconds": time.monotonic() - clock - trace.waited,
        "turns": len(trace.answers) if whole is None else whole.turns,
        "tool_calls": len(trace.tool_names),
        "tool_errors": trace.tool_errors if whole is None else None,
        "tool_names": trace.tool_names,
        "model_seconds": trace.model_seconds,
        "tool_seconds": trace.tool_seconds,
        "service_tier": last.service_tier if last else None,
    }
    for name in COUNTS:
        row[name] = getattr(last, name) if len(told) == 1 else _sum(getattr(answer, name) for answer in told)
    if failure:
        row |= {"error": failure.kind, "error_message": failure.message, "response": failure.raw}
        return Attempted(row, None, failure.retry_after)
    if whole is not None and whole.prompt is not None and list(whole.prompt) != list(prompt):
        row["prompt"] = dump(whole.prompt)
    text = text_of(trace.completion)
    row |= {"completion": dump(trace.completion), "text": text, "finish_reason": trace.finish_reason}
    if owed.asked.keep_response:
        row["response"] = "[" + ",".join(answer.raw or "null" for answer in told) + "]"
    if owed.asked.token_ids:
        row["token_turns"] = _token_turns(trace.answers) if whole is None else whole.token_turns
    return Attempted(row, Rollout(trace.completion, text, trace.finish_reason), whole=whole)


def _time_left(owed: Owed, now: float) -> float | None:
    """Seconds that an attempt may take: its own limit, or what is left to the rollout with all its tries."""
    limit = owed.asked.request_timeout
    if owed.give_up_at is None:
        return limit
    left = max(0.1, owed.give_up_at - now)
    return left if limit is None else min(limit, left)


def _prompt(owed: Owed) -> tuple[Sequence[Message], bool]:
    """The prompt to send, and whether it is the task's own."""
    prompt, system = owed.task.prompt, owed.asked.system_prompt
    if system is None or (prompt and prompt[0]["role"] in ("system", "developer")):
        return prompt, True
    return [{"role": "system", "content": system}, *prompt], False


async def _converse(
    owed: Owed,
    trace: Trace,
    prompt: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    engine: Engine | RolloutEngine,
    environment: Any,
    pace: AnyPace | None,
    alarm: Alarm,
) -> None:
    whole: Callable[[ModelCall], Awaitable[RolloutAnswer]] | None = getattr(engine, "rollout", None)
    run_tool = getattr(environment, "call", None)
    state = await _begin(environment, owed.task) if whole is None else None
    spent = 0
    for turn in range(owed.asked.max_steps):
        said = [*prompt, *trace.completion]
        call = ModelCall(said, tools, owed.params, owed.key, turn, owed.attempt, owed.task.row, trace.server)
        if whole is not None:
            trace.whole = await _ask_in_turn(whole, call, trace, pace, alarm)
            trace.completion, trace.finish_reason = list(trace.whole.completion), trace.whole.finish_reason
            trace.tool_names = list(trace.whole.tool_names)
            return
        answer = await _ask_in_turn(engine.answer, call, trace, pace, alarm)  # type: ignore[union-attr]
        trace.answers.append(answer)
        trace.completion.append(answer.message)
        spent += answer.output_tokens or 0
        trace.finish_reason = answer.finish_reason
        wanted = answer.message.get("tool_calls")
        if not wanted or run_tool is None or answer.finish_reason not in ("tool_calls", "stop"):
            return
        for tool_call in wanted:
            trace.completion.append(await _run_tool(run_tool, tool_call, state, trace))
        if owed.asked.token_budget is not None and spent >= owed.asked.token_budget:
            trace.finish_reason = "token_budget"
            return
    trace.finish_reason = "max_steps"


async def _begin(environment: Any, task: Task) -> Any:
    begin = getattr(environment, "begin", None)
    if begin is None:
        return None
    try:
        state = begin(task)
        return await state if inspect.isawaitable(state) else state
    except Exception as error:
        raise AttemptFailed("environment_error", f"begin raised {type(error).__name__}: {error}") from error


async def _ask_in_turn(
    ask: Callable[[ModelCall], Awaitable[Answer]],
    call: ModelCall,
    trace: Trace,
    pace: AnyPace | None,
    alarm: Alarm,
) -> Answer:
    """One model call, when the endpoint may be asked; of a fleet's server that died, it goes to another one."""
    if pace is None:
        return await _ask(ask, call, trace, None, None)
    for moved in count():
        ticket = pace.at_once(call) or await _stand_in_line(pace, call, trace, alarm)
        if ticket.server is not None:
            call, trace.server = replace(call, server=ticket.server), ticket.server
        try:
            return await _ask(ask, call, trace, pace, ticket)
        except AttemptFailed as failed:
            other = pace.elsewhere(ticket, failed.kind, moved)
            if other is None:
                raise
            call = replace(call, server=other)
    raise AssertionError("it counts without end")


async def _stand_in_line(pace: AnyPace, call: ModelCall, trace: Trace, alarm: Alarm) -> Ticket:
    """Wait until the endpoint may be asked. The rollout's time limit moves on by as much."""
    clock, until = time.monotonic(), alarm.when
    alarm.when = None
    ticket = await pace.admit(call)
    waited = time.monotonic() - clock
    trace.waited += waited
    alarm.when = None if until is None else until + waited
    return ticket


async def _ask(
    ask: Callable[[ModelCall], Awaitable[Answer]],
    call: ModelCall,
    trace: Trace,
    pace: AnyPace | None,
    ticket: Ticket | None,
) -> Answer:
    clock, failure = time.monotonic(), AttemptFailed("timeout", "cut off")
    answer = None
    try:
        answer = await ask(call)
        return answer
    except AttemptFailed as error:
        failure = error
        raise
    except (EngineError, TimeoutError):
        raise
    except Exception as error:
        failure = AttemptFailed("engine_error", f"{type(error).__name__}: {error}")
        raise failure from error
    finally:
        trace.model_seconds += time.monotonic() - clock
        if pace is not None and ticket is not None:
            if answer is not None:
                pace.answered(ticket, answer.input_tokens or 0, answer.output_tokens or 0, answer.limits)
            else:
                pace.failed(ticket, failure.kind, failure.retry_after, failure.limits)


async def _run_tool(run_tool: Any, tool_call: Mapping[str, Any], state: Any, trace: Trace) -> Message:
    """Run one tool; whatever goes wrong is told to the model, which may do better at its next turn."""
    clock = time.monotonic()
    function = tool_call["function"]
    trace.tool_names.append(function["name"])
    try:
        arguments = json.loads(function["arguments"] or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("the arguments must be a JSON object")
        result = run_tool(function["name"], arguments, state)
        result = await result if inspect.isawaitable(result) else result
        content = result if isinstance(result, str) else dump(result)
    except Exception as error:
        trace.tool_errors += 1
        content = f"Error: {error}" if isinstance(error, ValueError) else f"Error: {type(error).__name__}: {error}"
    trace.tool_seconds += time.monotonic() - clock
    return {"role": "tool", "tool_call_id": tool_call["id"], "content": content}


def _sum(counts: Iterable[int | None]) -> int | None:
    """Tokens over several model calls; null where no call told."""
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


def _token_turns(answers: Sequence[ModelAnswer]) -> list[dict[str, Any]] | None:
    turns = [
        {
            "prompt_token_ids": list(answer.prompt_token_ids or ()),
            "generation_token_ids": list(answer.generation_token_ids),
            "generation_log_probs": list(answer.generation_log_probs or ()),
        }
        for answer in answers
        if answer.generation_token_ids
    ]
    return turns or None
