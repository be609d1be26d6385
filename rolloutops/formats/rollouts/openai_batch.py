"""The two files of an OpenAI batch: requests, and outputs or errors (openai 2.x, types/batch.py; guides/batch).

Chat and Responses. Of an answer with several choices each is a rollout; its tokens were counted for all of them: output
tokens are shared out evenly, input tokens are those of the first choice, as they were paid once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.errors import AttemptFailed
from rolloutops.formats.openai_replies import failure, read_chat, read_responses
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
    if "messages" in body:
        task: dict[str, Any] = {"messages": body["messages"]}
        task |= {"tools": body["tools"]} if body.get("tools") else {}
    else:
        task = {"responses_create_params": {key: body[key] for key in ASKED_PARAMS if body.get(key) is not None}}
    prompt_of_row(task)  # raises where there is none
    params = {key: value for key, value in body.items() if key != "messages" and key not in ASKED_PARAMS}
    model = body.get("model")
    return RolloutRow(
        task,
        request_id=str(row["custom_id"]),
        model=model if isinstance(model, str) else None,
        params=params,
        shape="OpenAI batch request",
    )


def _answer(row: Mapping[str, Any], raw: str) -> RolloutRow:
    response = row.get("response")
    answers: list[RolloutAnswer | AttemptFailed]
    try:
        if row.get("error") or not isinstance(response, Mapping):
            raise failure(500, {}, dump({"error": row.get("error") or "no response"}).encode())
        body, status = response.get("body"), response.get("status_code", 200)
        if not (isinstance(status, int) and 200 <= status < 300):
            raise failure(status if isinstance(status, int) else 500, {}, dump(body).encode())
        choices = body.get("choices") if isinstance(body, Mapping) else None
        if isinstance(body, Mapping) and isinstance(choices, list) and len(choices) > 1:
            answers = _choices(row, response, body, choices)
        else:
            read_body = read_responses if choices is None else read_chat
            answers = [one_turn(read_body(dump(body).encode(), token_ids=True), raw)]
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


def _choices(
    row: Mapping[str, Any], response: Mapping[str, Any], body: Mapping[str, Any], choices: list[Any]
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
        as_received = {**row, "response": {**response, "body": {**body, "choices": [choice]}}}
        found.append(one_turn(answer, dump(as_received)))
    return found
