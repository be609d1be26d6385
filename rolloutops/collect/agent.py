"""The agent loop: call the model, run the tools that it asks for, go on until it stops. One piece of code for all
engines; what becomes of an attempt is a row of `attempts`, whether it succeeded or failed."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

from rolloutops.collect.attempt import Attempt, PendingRollout, Trace
from rolloutops.config.sampling import refuse_several_answers
from rolloutops.errors import AttemptFailed, EngineError, UsageError
from rolloutops.formats.finish_reasons import REPLAY_REFUSED
from rolloutops.formats.media import MediaError
from rolloutops.formats.strict_json import dump
from rolloutops.limits.rate_limit import Permit
from rolloutops.limits.replica_rate_limit import AnyRateLimit
from rolloutops.limits.token_estimate import estimate
from rolloutops.types import Answers, Message, ModelAnswer, ModelCall, RolloutAnswer, RolloutEngine, Task

Answer = TypeVar("Answer", ModelAnswer, RolloutAnswer)

LONGEST_WAIT = 86_400.0
"""Seconds that `Retry-After` may ask for: some quotas are a day's. What is more, negative or NaN is a mistake."""
CUT_OFF = AttemptFailed("timeout", "truncated")
"""What the pace is told of a call that ended with its attempt, or with its engine."""


async def attempt(
    pending: PendingRollout,
    engine: Answers | RolloutEngine,
    environment: Any,
    pace: AnyRateLimit | None = None,
) -> Attempt:
    """Try one rollout. pace: when the endpoint may be asked; waiting for it is not part of the rollout's time.

    Raises EngineError where the engine died, and what cancels it; every other failure is in what it returns.
    """
    started, clock = time.time(), time.monotonic()
    trace = Trace(give_up_at=pending.give_up_at, failed_with=pending.failed_with)
    prompt, new_prompt = _prompt(pending)
    tools = pending.task.tools or getattr(environment, "tools", None) or None
    failure: AttemptFailed | None = None
    try:
        _refuse_several_answers(pending.params)
        async with asyncio.timeout(_time_left(pending, clock)) as limit:
            await _converse(pending, trace, await _with_media(pending, prompt), tools, engine, environment, pace, limit)
    except AttemptFailed as error:
        failure = error
    except TimeoutError:
        failure = AttemptFailed("timeout", f"not finished within {time.monotonic() - clock - trace.waited:.1f} s")
    finally:
        if (
            pending.give_up_at is None and pending.settings.deadline is not None
        ):  # to wait for a first try is not part of it
            pending.give_up_at = clock + pending.settings.deadline + trace.waited
    seconds = time.monotonic() - clock - trace.waited
    return Attempt(pending, prompt, new_prompt, tools, started, seconds, trace, failure)


def _refuse_several_answers(params: Mapping[str, Any]) -> None:
    """A task's own parameters may ask for several choices too."""
    try:
        refuse_several_answers(params, "responses_create_params")
    except UsageError as error:
        raise AttemptFailed("bad_request", str(error)) from None


def _time_left(pending: PendingRollout, now: float) -> float | None:
    """Seconds that an attempt may take: its own limit, or what is left to the rollout with all its tries."""
    limit = pending.settings.request_timeout
    if pending.give_up_at is None and pending.settings.deadline is None:
        return limit
    left = max(0.1, pending.give_up_at - now) if pending.give_up_at is not None else pending.settings.deadline or 0.1
    return left if limit is None else min(limit, left)


def _prompt(pending: PendingRollout) -> tuple[Sequence[Message], bool]:
    """The prompt to send, and whether it is another than the task's own."""
    prompt, system = pending.task.prompt, pending.settings.system_prompt
    if system is None or (prompt and prompt[0]["role"] in ("system", "developer")):
        return prompt, False
    return [{"role": "system", "content": system}, *prompt], True


async def _with_media(pending: PendingRollout, prompt: Sequence[Message]) -> Sequence[Message]:
    """The prompt as it is sent: local media are opened again, and must be what they were."""
    if pending.media is None:
        return prompt
    try:
        return await asyncio.to_thread(pending.media.with_bytes, prompt)
    except MediaError as error:
        failure = AttemptFailed("media_changed", str(error))
        failure.asked = False
        raise failure from None


async def _converse(
    pending: PendingRollout,
    trace: Trace,
    prompt: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None,
    engine: Answers | RolloutEngine,
    environment: Any,
    pace: AnyRateLimit | None,
    limit: asyncio.Timeout,
) -> None:
    whole: Callable[[ModelCall], Awaitable[RolloutAnswer]] | None = getattr(engine, "rollout", None)
    run_tool = getattr(environment, "call", None)
    state = await _begin(environment, pending.task) if whole is None else None
    spent = 0
    for turn in range(pending.settings.max_steps):
        said = [*prompt, *trace.completion]
        returned = {len(prompt) + place: each for place, each in trace.returned.items()}
        call = ModelCall(
            said, tools, pending.params, pending.key, turn, pending.attempt, pending.task.row, trace.server, returned
        )
        if whole is not None:
            trace.whole = await _ask(whole, call, trace, pace, limit)
            if pending.media is not None and trace.whole.prompt == said:  # the task's own, with the bytes of its media
                trace.whole = replace(trace.whole, prompt=None)
            trace.completion, trace.finish_reason = list(trace.whole.completion), trace.whole.finish_reason
            trace.tool_names, trace.refusal = list(trace.whole.tool_names), trace.whole.refusal
            return
        try:
            answer = await _ask(engine.answer, call, trace, pace, limit)  # type: ignore[union-attr]
        except AttemptFailed as error:
            if not turn or not error.of_conversation:
                raise
            trace.finish_reason, trace.refusal = REPLAY_REFUSED, error.message
            return
        trace.answers.append(answer)
        if answer.returned is not None:
            trace.returned[len(trace.completion)] = answer.returned
        trace.completion.append(answer.message)
        spent += estimate(answer.message) if answer.output_tokens is None else answer.output_tokens
        trace.finish_reason, trace.refusal = answer.finish_reason, answer.refusal
        wanted = answer.message.get("tool_calls")
        if not wanted or run_tool is None or answer.finish_reason not in ("tool_calls", "stop"):
            return
        for tool_call in wanted:
            trace.completion.append(await _run_tool(run_tool, tool_call, state, trace))
        if pending.settings.token_budget is not None and spent >= pending.settings.token_budget:
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


async def _ask(
    ask: Callable[[ModelCall], Awaitable[Answer]],
    call: ModelCall,
    trace: Trace,
    pace: AnyRateLimit | None,
    limit: asyncio.Timeout,
) -> Answer:
    """One model call, when the endpoint may be asked; of a fleet's server that died, it goes to another one."""
    for moved in count():
        permit = None
        if pace is not None:
            permit = pace.at_once(call) or await _stand_in_line(pace, call, trace, limit)
            if permit.server is not None:
                call, trace.server = replace(call, server=permit.server), permit.server
        clock, failed, answer = time.monotonic(), CUT_OFF, None
        try:
            answer = await ask(call)
            return answer
        except AttemptFailed as error:
            failed, error.retry_after = error, _sensible(error.retry_after)
            if failed.answer is not None:
                trace.answers.append(failed.answer)
        except (EngineError, TimeoutError):
            raise
        except Exception as error:
            failed = AttemptFailed("engine_error", f"{type(error).__name__}: {error}")
            failed.__cause__ = error
        finally:
            trace.model_seconds += time.monotonic() - clock
            if pace is not None and permit is not None:
                if answer is not None:
                    pace.answered(permit, *_tokens(call, answer), answer.limits)
                else:
                    pace.failed(permit, failed.kind, failed.retry_after, failed.limits)
                    if pace.has_another(permit):
                        failed.retry_after = None
        other = None if pace is None or permit is None else pace.another_server(permit, failed.kind, moved)
        if other is None:
            raise failed
        call = replace(call, server=other)
    raise AssertionError("it counts without end")


async def _stand_in_line(pace: AnyRateLimit, call: ModelCall, trace: Trace, limit: asyncio.Timeout) -> Permit:
    """Wait until the endpoint may be asked. The rollout's time limit moves on by as much. One that was tried before
    waits until its deadline at most."""
    if limit.expired():  # a tool caught what was to end the attempt
        raise TimeoutError
    clock, until = time.monotonic(), limit.when()
    limit.reschedule(None)
    try:
        async with asyncio.timeout(None if trace.give_up_at is None else max(0.0, trace.give_up_at - clock)):
            permit = await pace.admit(call)
    except TimeoutError:
        held = pace.note() or "the endpoint's limit"
        before = f"; before that: {trace.failed_with}" if trace.failed_with else ""
        why = f"its deadline passed while it waited ({held}){before}"
        failure = AttemptFailed(pace.hold_reason, why, final=True)
        failure.asked = False
        raise failure from None
    waited = time.monotonic() - clock
    trace.waited += waited
    limit.reschedule(None if until is None else until + waited)
    return permit


def _tokens(call: ModelCall, answer: ModelAnswer | RolloutAnswer) -> tuple[int, int]:
    """Tokens of the prompt and of the answer, estimated where the answer does not tell."""
    prompt, output = answer.input_tokens, answer.output_tokens
    if output is None:
        output = estimate(answer.message if isinstance(answer, ModelAnswer) else answer.completion)
    return estimate(call.messages) if prompt is None else prompt, output


def _sensible(retry_after: float | None) -> float | None:
    """What an endpoint asked to wait, in seconds; None where no endpoint can mean that."""
    return retry_after if retry_after is not None and 0 <= retry_after <= LONGEST_WAIT else None


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
