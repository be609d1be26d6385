"""Logs of an OpenAI-compatible API: each row has a request's body and the reply to it.

`request` (or `body`, `kwargs`) + `response`, as proxies and tracing tools write them: chat, Responses, and text
completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.errors import AttemptFailed
from rolloutops.formats.rollouts.openai_batch import answers_in, params_of, task_of
from rolloutops.formats.rollouts.rewards import left_out
from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.rollouts.task_keys import task_fields
from rolloutops.types import RolloutAnswer

LABEL, ENGINE = "request and reply", "import:api_log"
REQUESTS = ("request", "body", "kwargs")


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row has a request with a prompt, and a reply with choices or output."""
    return _request(row) is not None and _is_reply(row.get("response"))


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """The task and its rollouts. Raises ValueError where the request has no prompt."""
    key = str(_request(row))
    body = row[key]
    answers: list[RolloutAnswer | AttemptFailed]
    try:
        answers = answers_in(row["response"], row, raw)
    except AttemptFailed as failed:
        answers = [failed]
    task = {**task_of(body), **task_fields(row)}
    return RolloutRow(task, answers, params=params_of(body), left_out=left_out(row, (key, "response")))


def _request(row: Mapping[str, Any]) -> str | None:
    return next((key for key in REQUESTS if isinstance(row.get(key), Mapping) and _has_prompt(row[key])), None)


def _has_prompt(body: Mapping[str, Any]) -> bool:
    return any(body.get(key) for key in ("messages", "input", "prompt"))


def _is_reply(reply: Any) -> bool:
    return isinstance(reply, Mapping) and any(isinstance(reply.get(key), list) for key in ("choices", "output"))
