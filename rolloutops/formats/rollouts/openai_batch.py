"""The two files of an OpenAI batch: requests, and outputs or errors (openai 2.x, types/batch.py; guides/batch).

Chat, Responses and text completions. Of an answer with several choices each is a rollout; its tokens were counted for
all of them: output tokens are shared out evenly, input tokens are those of the first choice, as they were paid once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.errors import AttemptFailed
from rolloutops.formats.failed_generations import failed_answer
from rolloutops.formats.openai_replies import failure, read_chat, read_responses
from rolloutops.formats.rollouts.conversation import with_calls
from rolloutops.formats.rollouts.gym import ASKED_PARAMS
from rolloutops.formats.rollouts.row import RolloutRow, one_turn, share
from rolloutops.formats.strict_json import dump
from rolloutops.formats.task_rows import prompt_of_row
from rolloutops.types import RolloutAnswer

LABEL, ENGINE = "OpenAI batch", "import:batch"


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row is a request or an answer of a batch."""
    return "custom_id" in row and any(key in row for key in ("body", "response", "error")) and "result" not in row


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """A request with its task, or an answer with its rollouts."""
    return _request(row) if "body" in row else _answer(row, raw)


def _request(row: Mapping[str, Any]) -> RolloutRow:
    body = row["body"]
    if not isinstance(body, Mapping):
        raise ValueError("body is not an object")
    model = body.get("model")
    return RolloutRow(
        task_of(body),
        request_id=str(row["custom_id"]),
        model=model if isinstance(model, str) else None,
        params=params_of(body),
        shape="OpenAI batch request",
    )


def task_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The task's row of a request's body: chat, Responses, or text completions. Raises ValueError where it has no
    prompt."""
    if "messages" in body:
        task: dict[str, Any] = {"messages": with_calls(body["messages"])}
        task |= {"tools": body["tools"]} if body.get("tools") else {}
    elif isinstance(body.get("prompt"), str):
        task = {"messages": [{"role": "user", "content": body["prompt"]}]}
    else:
        task = {"responses_create_params": {key: body[key] for key in ASKED_PARAMS if body.get(key) is not None}}
    prompt_of_row(task)
    return task


def params_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What of a request's body is how it was asked."""
    return {key: value for key, value in body.items() if key not in ("messages", "prompt", *ASKED_PARAMS)}


def _answer(row: Mapping[str, Any], raw: str) -> RolloutRow:
    response = row.get("response")
    answers: list[RolloutAnswer | AttemptFailed]
    try:
        if row.get("error") or not isinstance(response, Mapping):
            raise failure(500, {}, dump({"error": row.get("error") or "no response"}).encode())
        # Some providers leave out the object around the body.
        body, status = response.get("body", response), response.get("status_code", 200)
        if not (isinstance(status, int) and 200 <= status < 300):
            # What the model wrote and the endpoint refused is its answer, as where it is collected.
            sample = failed_answer(dump(body).encode(), "")
            if sample is None:
                raise failure(status if isinstance(status, int) else 500, {}, dump(body).encode())
            answers = [one_turn(sample, raw)]
        else:
            answers = answers_in(body, row, raw)
    except AttemptFailed as failed:
        answers = [failed]
    models = [answer.model for answer in answers if isinstance(answer, RolloutAnswer)]
    return RolloutRow(
        None,
        answers,
        request_id=str(row["custom_id"]),
        model=next(iter(models), None),
        shape="OpenAI batch answer",
    )


def answers_in(body: Any, row: Mapping[str, Any], raw: str) -> list[RolloutAnswer | AttemptFailed]:
    """The rollouts in a reply's body: each choice is one. Raises AttemptFailed where it is not a reply."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if isinstance(body, Mapping) and isinstance(choices, list):
        choices = [_as_chat(choice) for choice in choices]
        if len(choices) > 1:
            return _choices(row, body, choices)
        body = {**body, "choices": choices}
    read_body = read_responses if choices is None else read_chat
    return [one_turn(read_body(dump(body).encode(), token_ids=True), raw)]


def _as_chat(choice: Any) -> Any:
    """A choice of a text completion as one of chat; tool calls that are JSON texts as objects."""
    if not isinstance(choice, Mapping):
        return choice
    if choice.get("message") is None and isinstance(choice.get("text"), str):
        return {**choice, "message": {"role": "assistant", "content": choice["text"]}}
    return {**choice, "message": with_calls([choice["message"]])[0]} if "message" in choice else choice


def _choices(
    row: Mapping[str, Any], body: Mapping[str, Any], choices: list[Any]
) -> list[RolloutAnswer | AttemptFailed]:
    """Each choice as an answer of its own, with its share of the tokens."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    spent = usage.get("completion_tokens")
    details = usage.get("completion_tokens_details")
    thought = details.get("reasoning_tokens") if isinstance(details, Mapping) else None
    counts = [share(n if isinstance(n, int) and n >= 0 else None, len(choices)) for n in (spent, thought)]
    found: list[RolloutAnswer | AttemptFailed] = []
    for number, choice in enumerate(choices):
        tokens: dict[str, Any] = {"completion_tokens": counts[0][number]}
        tokens |= {"completion_tokens_details": {"reasoning_tokens": counts[1][number]}}
        if number == 0:
            tokens = {**usage, **tokens}
        own = {**body, "choices": [choice], "usage": tokens}
        try:
            answer = read_chat(dump(own).encode(), token_ids=True)
        except AttemptFailed as failed:
            found.append(failed)
            continue
        found.append(one_turn(answer, dump({**row, "response": {**body, "choices": [choice]}})))
    return found
