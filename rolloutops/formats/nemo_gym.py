"""NeMo Gym's rows: the one place that knows the shape of what its servers take and give, and of what it writes.

A task row, flat: `responses_create_params` (the prompt in `input`, tools, parameters), `agent_ref`, and whatever its
verifier needs. `POST /run` takes it with `_ng_task_index` and `_ng_rollout_index`, and answers with the rollout:
`responses_create_params`, `response`, `reward`, `mask_sample`, `failure_kind`, `failure_reason`, and any other field.
The rollout file has the same row, with the two indexes and `agent_ref` again. (nemo_gym: base_resources_server.py,
failure_kinds.py, episode_types.py, rollout_collection.py.)
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rolloutops.errors import FAILURES, AttemptFailed
from rolloutops.formats.columns import HOW_SENT
from rolloutops.formats.finish_reasons import finish_of_response
from rolloutops.formats.media import to_openai, without_digests
from rolloutops.formats.openai_replies import count_of, failed_with, failure
from rolloutops.formats.strict_json import dump
from rolloutops.formats.task_rows import from_responses, prompt_of_row, to_responses, to_responses_tools
from rolloutops.types import ModelCall, RolloutAnswer

TASK_INDEX, ROLLOUT_INDEX, ATTEMPT_INDEX = "_ng_task_index", "_ng_rollout_index", "_ng_attempt_index"
FAILURE_CLASS = "_ng_failure_class"

TASK_FIELDS = "rolloutops_task_fields"
"""In rows that `export` puts together: the names of the fields that are the task's own row."""

NOT_RETURNED = ("responses_create_params", "response", "agent_ref", TASK_FIELDS)
"""Keys of a rollout row that are not what the verifier returned; nor is anything that begins with `_ng_`."""

KINDS = {
    "transport_timeout": "timeout",
    "agent_timeout": "timeout",
    "timeout_exceeded": "timeout",
    "transport_unreachable": "unreachable",
    "transport_peer_drop": "connection",
    "transport_local_resource": "connection",
    "provider_quota_exhausted": "rate_limited",
    "agent_command_not_allowed": "bad_request",
    "protocol_violation": "bad_response",
}
"""NeMo Gym's failure kinds as rolloutops' own. Any other of the rollout's is `server_error`."""

OF_THE_VERDICT = ("judge_failed", "judge_unparseable", "verifier_error")
"""Failure kinds that leave the rollout as good as it was: its verdict failed."""


COMPANION = re.compile(r"^(?P<stem>.+?)_(?P<kind>materialized_inputs|failures)(?P<suffix>\.jsonl(?:\.gz|\.zst)?)$")
"""The files that NeMo Gym writes beside a rollout file."""
REPORTS = re.compile(r"(_reward_profiling|_agent_metrics|_repeat_level_metrics|^rollout_verdicts)\.jsonl(\.gz|\.zst)?$")
"""Files that it makes of one, which hold no rollouts."""


def agent_of(row: Mapping[str, Any]) -> str | None:
    """The name in `agent_ref`."""
    agent = row.get("agent_ref")
    name = agent.get("name") if isinstance(agent, Mapping) else None
    return name if isinstance(name, str) and name else None


def index_of(row: Mapping[str, Any], key: str) -> int | None:
    """A row's `_ng_task_index` or `_ng_rollout_index`, where it is a whole number."""
    value = row.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def read_rollout(row: Mapping[str, Any], raw: str, token_ids: bool = True) -> RolloutAnswer:
    """A reply of `/run`, or a row of a rollout file. raw: the row as it came. Never raises: a row that holds no
    `response` is a rollout in which nothing was said."""
    response = row.get("response")
    response = response if isinstance(response, Mapping) else {}
    items = _items(response)
    completion = from_responses(items)
    usage = _object(response.get("usage"))
    model = response.get("model")
    return RolloutAnswer(
        completion=completion,
        finish_reason=_finish_reason(response, completion),
        model=model if isinstance(model, str) and model else None,
        returned=returned(row),
        verifier=agent_of(row) or "gym",
        raw=raw,
        turns=sum(said["role"] == "assistant" for said in completion),
        tool_names=[call["function"]["name"] for said in completion for call in said.get("tool_calls", ())],
        # Some agents leave the names of the chat endpoint.
        input_tokens=count_of(usage.get("input_tokens", usage.get("prompt_tokens"))),
        output_tokens=count_of(usage.get("output_tokens", usage.get("completion_tokens"))),
        reasoning_tokens=count_of(_object(usage.get("output_tokens_details")).get("reasoning_tokens")),
        cached_tokens=count_of(_object(usage.get("input_tokens_details")).get("cached_tokens")),
        token_turns=_token_turns(items) if token_ids and items is not None else None,
        service_tier=tier if isinstance(tier := response.get("service_tier"), str) else None,
    )


def _items(response: Mapping[str, Any]) -> list[Any] | None:
    """The items of a response's output; its text is one message, also where only `output_text` has it."""
    output = response.get("output")
    text = output if output else response.get("output_text")
    if isinstance(text, str) and text:
        return [{"type": "message", "role": "assistant", "content": text}]
    return output if isinstance(output, list) else None


def returned(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the verifier returned, as a verify of ours would; None where the row has no reward. Fields that are known to
    be the task's are not among it."""
    if "reward" not in row:
        return None
    own = row.get(TASK_FIELDS)
    others = {*NOT_RETURNED, *(name for name in own if name != "reward")} if isinstance(own, list) else NOT_RETURNED
    return {key: value for key, value in row.items() if key not in others and not key.startswith("_ng_")}


def run_request(call: ModelCall) -> dict[str, Any]:
    """The body of `POST /run`: the task's row with the prompt and the parameters of this call, and its indexes.

    A task set's row (`task_id` and `task_input`) goes out as an episode.
    """
    rollout_index = int(call.key.rpartition("/")[2] or 0)
    if isinstance(call.row.get("task_id"), Mapping) and "task_input" in call.row:
        name = f"{_number(call.key):08x}-r{rollout_index}"
        return {
            "episode_id": {"rollout_id": name, "attempt": call.attempt - 1},
            "task": {"task_id": call.row["task_id"], "task_input": call.row["task_input"]},
        }
    task_index = index_of(call.row, TASK_INDEX)
    if task_index is None:
        task_index = _number(call.key.rpartition("/")[0])
    again = {ATTEMPT_INDEX: call.attempt - 1} if call.attempt > 1 else {}
    params = create_params(call.row, call.messages, call.tools, call.params)
    return {
        **call.row,
        "responses_create_params": params,
        TASK_INDEX: task_index,
        ROLLOUT_INDEX: rollout_index,
        **again,
    }


def create_params(
    row: Mapping[str, Any],
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """`responses_create_params` for a task: the row's own with the parameters over them. The row's own input stays as
    it is written, where the messages to send are those that it holds."""
    own = row.get("responses_create_params")
    if isinstance(own, Mapping):
        own = {name: value for name, value in own.items() if name not in HOW_SENT}
    params = _in_metadata(own, params)
    if isinstance(own, Mapping) and own.get("input") is not None and _asks(row, messages, tools):
        return {**own, **params}
    kept = {key: value for key, value in own.items() if key != "instructions"} if isinstance(own, Mapping) else {}
    flat = to_responses_tools(tools)
    return {**kept, "input": to_responses(to_openai(messages)), **({"tools": flat} if flat else {}), **params}


def _in_metadata(own: Any, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters with `extra_body` where NeMo Gym's servers look for it: as JSON text in `metadata`."""
    if "extra_body" not in params:
        return params
    rest = {name: value for name, value in params.items() if name != "extra_body"}
    metadata = rest.get("metadata") or (own.get("metadata") if isinstance(own, Mapping) else None) or {}
    return {**rest, "metadata": {**metadata, "extra_body": dump(params["extra_body"])}}


def _asks(row: Mapping[str, Any], messages: Sequence[Any], tools: Sequence[Any] | None) -> bool:
    """Whether a row holds these messages and tools: not one whose prompt cannot be read, nor one of a table that pads
    its tools with nulls."""
    try:
        prompt = prompt_of_row(row)
    except ValueError:
        return not messages
    return prompt.messages == without_digests(messages) and (prompt.tools or []) == list(tools or ())


def refused(reply: Mapping[str, Any]) -> AttemptFailed | None:
    """The failure that a reply with status 200, or a row of a failures file, holds; None where it is a rollout.

    A masked reply whose `failure_kind` is the infrastructure's is a failure too: trying again may measure something.
    """
    episode = _object(reply.get("failure"))
    if episode and "reward" not in reply:
        said = str(episode.get("failure_reason") or "the environment failed")
        return _failed(str(episode.get("failure_kind") or ""), said, bool(episode.get("terminal")) or None)
    named = reply.get(FAILURE_CLASS)
    if named is None and reply.get("mask_sample") is True:
        named = reply.get("failure_kind")
    if not isinstance(named, str) or (named in OF_THE_VERDICT and "response" in reply):
        return None
    said = str(
        reply.get("_ng_failure_message") or reply.get("failure_reason") or reply.get("error") or "no reason given"
    )
    body, status = reply.get("_ng_failure_response_body"), reply.get("_ng_failure_http_status")
    final = True if reply.get("_ng_failure_terminal") is True else None
    if isinstance(status, int) and status >= 400:
        refused = failure(status, {}, str(body or said).encode())
        return AttemptFailed(
            refused.kind,
            f"{named}: {refused.message}",
            final=refused.final if final is None else final,
        )
    return _failed(named, said, final)


def failed_response(row: Mapping[str, Any]) -> AttemptFailed | None:
    """The failure of a reply in whose response an error stands in place of an output, or which is nothing but an error:
    a reward beside it measures nothing. None where the model said something."""
    response = _object(row.get("response"))
    if response.get("error") and not response.get("output") and not response.get("output_text"):
        return failed_with(response["error"])
    return failed_with(row["error"]) if row.get("error") and not {"reward", "response"} & row.keys() else None


def rollout_files(paths: Sequence[Path]) -> tuple[list[tuple[Path, str, str]], list[Path]]:
    """(file, what it is, the rollout file that it belongs to) with companions found and failures last, and the files
    that are none of these."""
    skipped = [path for path in paths if REPORTS.search(path.name)]
    wanted: dict[Path, tuple[str, str]] = {}
    for path in paths:
        match = COMPANION.match(path.name)
        if path in skipped:
            continue
        if match:
            wanted[path] = (match["kind"], str(path.with_name(match["stem"])))
            continue
        stem, _, suffix = path.name.partition(".jsonl")
        wanted[path] = ("rollouts", str(path.with_name(stem)))
        for kind in ("materialized_inputs", "failures"):
            for packed in ("", ".gz", ".zst"):
                beside = path.with_name(f"{stem}_{kind}.jsonl{packed}")
                if suffix in ("", ".gz", ".zst") and beside.is_file() and beside.stat().st_size:
                    wanted.setdefault(beside, (kind, str(path.with_name(stem))))
    order = ("materialized_inputs", "rollouts", "failures")
    listed = [(path, kind, source) for path, (kind, source) in wanted.items()]
    return sorted(listed, key=lambda item: order.index(item[1])), skipped


def class_of(kind: str) -> str:
    """The `_ng_failure_class` that stands for a failure of ours."""
    if kind == "timeout":
        return "timeout_exceeded"
    return "agent_request_failed" if kind in ("unreachable", "connection", "rate_limited") else "agent_run_error"


def _failed(name: str, text: str, final: bool | None) -> AttemptFailed:
    kind = name if name in FAILURES else KINDS.get(name, "server_error")
    return AttemptFailed(kind, f"{name}: {text}" if name else text, final=final)


def _finish_reason(response: Mapping[str, Any], completion: Sequence[Mapping[str, Any]]) -> str | None:
    """Why it ended; None where it ended without the model having the last word, and nobody says why."""
    reason = finish_of_response(response, bool(completion) and bool(completion[-1].get("tool_calls")))
    if reason == "stop" and (not completion or completion[-1]["role"] != "assistant"):
        return None
    return reason


def _token_turns(items: Sequence[Any]) -> list[dict[str, Any]] | None:
    """The token lists of each model call: they are on the call's last item. Empty lists are absent ones."""
    turns = []
    for item in items:
        if not isinstance(item, Mapping) or not item.get("generation_token_ids"):
            continue
        turn = {
            "prompt_token_ids": item.get("prompt_token_ids") or [],
            "generation_token_ids": item["generation_token_ids"],
            "generation_log_probs": item.get("generation_log_probs") or [],
        }
        try:
            for name, kind in zip(turn, "iif", strict=True):
                turn[name] = array(kind, turn[name]).tolist()
        except (TypeError, OverflowError):
            return None
        turns.append(turn)
    return turns or None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(name: str) -> int:
    """A number that stands for a name: a task's index where its row has none."""
    return zlib.crc32(name.encode())
