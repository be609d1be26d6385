"""What one line of an imported file says: a task that was asked, or what became of a rollout.

Understood are NeMo Gym's rollout, materialized-inputs and failures rows, chat logs (`messages` or `conversations`, the
last turn being the rollout), and the two files of an OpenAI batch. Each becomes columns of the two staged tables below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from rolloutops.config.settings import Dataset
from rolloutops.environments.verdict import verdict_of
from rolloutops.errors import AttemptFailed
from rolloutops.formats.finish_reasons import known
from rolloutops.formats.media import with_media
from rolloutops.formats.nemo_gym import (
    ATTEMPT_INDEX,
    FAILURE_CLASS,
    ROLLOUT_INDEX,
    TASK_INDEX,
    index_of,
    read_rollout,
    refused,
)
from rolloutops.formats.openai_replies import failure, read_chat, read_responses
from rolloutops.formats.strict_json import digest, dump, parse
from rolloutops.formats.task_rows import from_chat, prompt_of_row, text_of
from rolloutops.ingest.chunk import task_columns
from rolloutops.ingest.media import MediaFolder
from rolloutops.store import schema
from rolloutops.types import ModelAnswer, RolloutAnswer

TASK_COLUMNS = ("row_hash", "row", "prompt", "tools", "prompt_hash", "answer", "agent", "origin", "line")
ATTEMPT_COLUMNS = (
    *("engine", "model", "error", "error_message", "final", "request", "response", "prompt", "tools", "completion"),
    *("text", "finish_reason", "turns", "tool_calls", "tool_names", "input_tokens", "output_tokens"),
    *("reasoning_tokens", "cached_tokens", "token_turns", "service_tier", "started_at"),
)
VERDICT_COLUMNS = ("verifier", "reward", "metrics", "details")


def _fields(table: pa.Schema, names: Sequence[str]) -> list[pa.Field]:
    return [table.field(name) for name in names]


ASKED = pa.schema(
    [
        *(("ident", pa.string()), ("input_key", pa.string()), ("place", pa.int64()), ("ng_task", pa.int64())),
        *(("empty", pa.bool_()), ("params", pa.string())),
        *_fields(schema.TASKS, TASK_COLUMNS),
    ]
)
"""Tasks as the files ask them. ident: equal for rows that ask the same. input_key: what a rollout names it by. place:
which of several rows with one ident is the task's. empty: it has no prompt. params: what it was asked with."""

ENDED = pa.schema(
    [
        *(("ordinal", pa.int64()), ("origin", pa.string()), ("line", pa.int64()), ("digest", pa.string())),
        *(("source", pa.string()), ("ident", pa.string()), ("input_key", pa.string()), ("needs_input", pa.bool_())),
        *(("policy", pa.string()), ("prompt_hash", pa.string())),
        *(("ng_task", pa.int64()), ("ng_rollout", pa.int64()), ("ng_attempt", pa.int64())),
        *_fields(schema.ATTEMPTS, ATTEMPT_COLUMNS),
        *_fields(schema.VERDICTS, VERDICT_COLUMNS),
        *(("verdict_error", pa.string()), ("verdict_error_message", pa.string())),
    ]
)
"""Rollouts as they ended. digest: equal for equal rows. ident and input_key: its task, see ASKED. source: the rollout
file that it belongs to. needs_input: its task is in another row, or it is rejected."""

ASKED_PARAMS = ("input", "tools", "instructions", "tool_choice", "parallel_tool_calls")
"""What of `responses_create_params` is the task's; the rest is how one run asked it."""

INPUT_KEYS = (
    *("agent_ref", "task_source", "skills_ref", "task_id", "task_input", "uuid", "id", TASK_INDEX),
    *("expected_answer", "ground_truth", "question", "problem", "options"),
)
"""Keys of a rollout row that are known to come from its task. What else does, only the materialized inputs tell."""

PER_ROLLOUT = (ROLLOUT_INDEX, ATTEMPT_INDEX, "_ng_rollout_id")
"""Keys of a materialized input that are not the task's."""

CHAT_KEYS = ("messages", "conversations")
UNNAMED = "imported"
"""The verifier of chat logs that hold a reward."""

BY_RULE = Dataset(needs_prompt=False)

Record = dict[str, Any]


class Reader:
    """Reads the rows of one file. policy: the policy's name, where it is not each row's own model. media: where the
    media that the rows name are."""

    def __init__(self, dataset: str, policy: str | None, media: MediaFolder) -> None:
        self.dataset, self.policy, self.media = dataset, policy, media

    def read(
        self, row: Mapping[str, Any], raw: str, source: str, is_input: bool
    ) -> tuple[Record | None, Record | None]:
        """The task that a row asks and the rollout that it holds, either of which may be missing.

        source: the rollout file it belongs to. is_input: the file holds materialized inputs.
        Raises ValueError that says what is wrong with it.
        """
        if is_input:
            return self._input(row, source), None
        if "custom_id" in row and "body" in row:
            return self._batch_request(row), None
        if "custom_id" in row and ("response" in row or "error" in row):
            return None, self._batch_answer(row, raw)
        if FAILURE_CLASS in row and (failed := refused(row)) is not None:
            return self._failure(row, raw, source, failed)
        key = next((key for key in CHAT_KEYS if row.get(key) is not None), None)
        if key is not None and "response" not in row and "responses_create_params" not in row:
            return self._chat_log(row, raw, key)
        return self._rollout(row, raw, source)

    def _input(self, row: Mapping[str, Any], source: str) -> Record:
        task = {key: value for key, value in row.items() if key not in PER_ROLLOUT}
        number, rollout = index_of(row, TASK_INDEX), index_of(row, ROLLOUT_INDEX) or 0
        requested = self._request_columns(task)
        if number is None:
            return requested
        return requested | {
            "ident": digest(["input", source, number]),
            "input_key": f"{source}/{number}/{rollout}",
            "place": rollout,
        }

    def _rollout(self, row: Mapping[str, Any], raw: str, source: str) -> tuple[Record, Record]:
        requested = self._request_columns(_own_task(row))
        answer = read_rollout(row, raw)
        ended = self._gym(row, source, requested) | self._answered(answer) | {"engine": "import:gym"}
        response = row.get("response")
        created = response.get("created_at") if isinstance(response, Mapping) else None
        return requested, ended | {"digest": digest(row), "started_at": _time(created)}

    def _failure(
        self, row: Mapping[str, Any], raw: str, source: str, failed: AttemptFailed
    ) -> tuple[Record | None, Record]:
        known = isinstance(row.get("responses_create_params"), Mapping)
        requested = self._request_columns(_own_task(row)) if known else None
        ended = self._gym(row, source, requested) | _failed(failed, raw) | {"engine": "import:gym"}
        return requested, ended | {"digest": digest(row), "policy": self.policy, "needs_input": not known}

    def _chat_log(self, row: Mapping[str, Any], raw: str, key: str) -> tuple[Record, Record]:
        given = parse(row[key]) if isinstance(row[key], str) else row[key]
        if not isinstance(given, list):
            raise ValueError(f"{key} is not a list of messages")
        messages = self.media.with_digests(with_media(from_chat(given), row))
        end = max((n for n, said in enumerate(messages, 1) if said["role"] not in ("assistant", "tool")), default=0)
        completion = messages[end:]
        if not any(said["role"] == "assistant" for said in completion):
            raise ValueError("the conversation does not end with an answer")
        task = {k: row[k] for k in (*INPUT_KEYS, "tools", "answer") if row.get(k) is not None}
        requested = self._request_columns({"messages": messages[:end], **task})
        model = row.get("model")
        last, said = completion[-1], row.get("finish_reason")
        answer = RolloutAnswer(
            completion=completion,
            finish_reason=(known(said) or said) if isinstance(said, str) else _end_of(last),
            model=model if isinstance(model, str) else None,
            returned={k: v for k, v in row.items() if k not in (*CHAT_KEYS, "tools")} if "reward" in row else None,
            verifier=UNNAMED,
            raw=raw,
            turns=sum(said["role"] == "assistant" for said in completion),
            tool_names=[call["function"]["name"] for said in completion for call in said.get("tool_calls", ())],
        )
        ended = self._answered(answer)
        return requested, ended | {"engine": "import:chat", "digest": digest(row), "ident": requested["ident"]}

    def _batch_request(self, row: Mapping[str, Any]) -> Record:
        body = row["body"]
        if not isinstance(body, Mapping):
            raise ValueError("body is not an object")
        if "messages" in body:
            task: Record = {"messages": body["messages"]} | ({"tools": body["tools"]} if body.get("tools") else {})
        else:
            task = {"responses_create_params": {key: body[key] for key in ASKED_PARAMS if body.get(key) is not None}}
        prompt_of_row(task)  # raises where there is none
        params = {key: value for key, value in body.items() if key != "messages" and key not in ASKED_PARAMS}
        return self._request_columns(task) | {"input_key": f"batch/{row['custom_id']}", "params": dump(params)}

    def _batch_answer(self, row: Mapping[str, Any], raw: str) -> Record:
        reported: Record = {"engine": "import:batch", "digest": digest(row), "input_key": f"batch/{row['custom_id']}"}
        reported |= {"needs_input": True}
        response = row.get("response")
        try:
            if row.get("error") or not isinstance(response, Mapping):
                raise failure(500, {}, dump({"error": row.get("error") or "no response"}).encode())
            body, status = dump(response.get("body")).encode(), response.get("status_code", 200)
            if not (isinstance(status, int) and 200 <= status < 300):
                raise failure(status if isinstance(status, int) else 500, {}, body)
            chat = isinstance(response.get("body"), Mapping) and "choices" in response["body"]
            answer = (read_chat if chat else read_responses)(body, token_ids=True)
        except AttemptFailed as failed:
            return reported | _failed(failed, raw) | {"policy": self.policy}
        return reported | self._answered(_one_turn(answer, raw))

    def _request_columns(self, task: Mapping[str, Any]) -> Record:
        """The staged columns of a task's row."""
        columns = task_columns(self.dataset, BY_RULE, dict(task), self.media)
        empty = columns["prompt"] == "[]"
        expected = next((task[k] for k in ("expected_answer", "ground_truth") if task.get(k) is not None), None)
        same = [columns["prompt_hash"], expected, columns["agent"], index_of(task, TASK_INDEX)]
        return {
            "ident": columns["row_hash"] if empty else digest(same),
            "ng_task": index_of(task, TASK_INDEX),
            "empty": empty,
            "row": dump(task),
            **{name: columns[name] for name in ("row_hash", "prompt", "tools", "prompt_hash", "answer", "agent")},
        }

    def _gym(self, row: Mapping[str, Any], source: str, request: Record | None) -> Record:
        """The staged columns of a Gym row's identity and of what it was asked."""
        number, rollout = index_of(row, TASK_INDEX), index_of(row, ROLLOUT_INDEX)
        params = row.get("responses_create_params")
        params = params if isinstance(params, Mapping) else {}
        named = number is not None and rollout is not None
        return {
            "source": source,
            "ident": request["ident"] if request else None,
            "input_key": f"{source}/{number}/{rollout}" if named else None,
            "ng_task": number,
            "ng_rollout": rollout,
            "ng_attempt": index_of(row, ATTEMPT_INDEX),
            "request": dump({k: v for k, v in params.items() if v is not None and k not in ("input", "tools")}),
            **({k: request[k] for k in ("prompt", "tools", "prompt_hash")} if request and not request["empty"] else {}),
        }

    def _answered(self, answer: RolloutAnswer) -> Record:
        """The staged columns of a rollout that succeeded. Its policy is that of its file, where it names no model."""
        verdict: Record = {}
        if answer.returned is not None:
            made = verdict_of(answer.returned, 0.0)
            verdict = {"verifier": answer.verifier, "reward": made.reward, "metrics": list(made.metrics.items())}
            verdict |= {"details": dump(made.details or answer.returned)}
            verdict |= {"verdict_error": made.error, "verdict_error_message": made.error_message}
        reported = ("input_tokens", "output_tokens", "reasoning_tokens", "cached_tokens", "token_turns", "service_tier")
        return {
            "policy": self.policy or (answer.model.rstrip("/").rpartition("/")[2] if answer.model else None),
            "model": answer.model,
            "final": True,
            "response": f"[{answer.raw}]",
            "completion": dump(answer.completion),
            "text": text_of(answer.completion),
            "finish_reason": answer.finish_reason,
            "turns": answer.turns,
            "tool_calls": len(answer.tool_names),
            "tool_names": list(answer.tool_names),
            **{name: getattr(answer, name) for name in reported},
            **verdict,
        }


def _own_task(row: Mapping[str, Any]) -> Record:
    """The task's row, as far as a rollout row tells it. Where it has neither prompt nor index, all that is not the
    rollout's own is the task: rather two tasks too many than two that are taken for one."""
    params = row.get("responses_create_params")
    task: Record = {key: row[key] for key in INPUT_KEYS if row.get(key) is not None}
    if isinstance(params, Mapping):
        requested = {key: params[key] for key in ASKED_PARAMS if params.get(key) is not None and params[key] != []}
        if requested.get("input") or TASK_INDEX in row:
            return {"responses_create_params": {"input": params.get("input"), **requested}, **task}
    return {key: value for key, value in row.items() if key not in ("response", "reward", *PER_ROLLOUT)}


def _failed(failed: AttemptFailed, raw: str) -> Record:
    said = {"error": failed.kind, "error_message": failed.message, "final": failed.final}
    return said | {"response": f"[{raw}]", "turns": 0, "tool_calls": 0, "tool_names": []}


def _one_turn(answer: ModelAnswer, raw: str) -> RolloutAnswer:
    """A model's answer as a rollout of one turn."""
    turn = {
        "prompt_token_ids": list(answer.prompt_token_ids or ()),
        "generation_token_ids": list(answer.generation_token_ids or ()),
        "generation_log_probs": list(answer.generation_log_probs or ()),
    }
    return RolloutAnswer(
        completion=[answer.message],
        finish_reason=answer.finish_reason,
        model=answer.model or None,
        returned=None,
        verifier=UNNAMED,
        raw=raw,
        tool_names=[call["function"]["name"] for call in answer.message.get("tool_calls", ())],
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        reasoning_tokens=answer.reasoning_tokens,
        cached_tokens=answer.cached_tokens,
        token_turns=[turn] if answer.generation_token_ids else None,
        service_tier=answer.service_tier,
    )


def _end_of(last: Mapping[str, Any]) -> str | None:
    if last["role"] != "assistant":
        return None
    return "tool_calls" if last.get("tool_calls") else "stop"


def _time(seconds: Any) -> int | None:
    """Seconds since 1970 as microseconds; None where it is none (a 0 is a placeholder)."""
    return int(seconds * 1e6) if isinstance(seconds, int | float) and 0 < seconds < 1e11 else None
