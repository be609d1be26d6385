"""What one line of an imported file says, as columns of the two staged tables below: a task that was asked, and what
became of its rollouts. `formats/rollouts/` knows the formats."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from rolloutops.config.settings import Dataset
from rolloutops.environments.verdict import verdict_of
from rolloutops.errors import AttemptFailed
from rolloutops.formats.content import unknown_parts
from rolloutops.formats.media import MediaError
from rolloutops.formats.nemo_gym import ATTEMPT_INDEX, ROLLOUT_INDEX, TASK_FIELDS, TASK_INDEX, agent_of, index_of
from rolloutops.formats.rollouts import gym, prompt_answer
from rolloutops.formats.rollouts.recognize import Format, format_of, read_row
from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.rollouts.session import session_row
from rolloutops.formats.rollouts.task_keys import verified_by
from rolloutops.formats.sessions.session import Session
from rolloutops.formats.strict_json import digest, dump
from rolloutops.formats.struct_nulls import without_struct_nulls
from rolloutops.formats.task_rows import PROMPT_COLUMNS, answer_of_row, text_of
from rolloutops.ingest.media import MediaFolder, media_folder
from rolloutops.ingest.task_columns import own_id_of, task_columns
from rolloutops.store import schema
from rolloutops.types import RolloutAnswer

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
        *(("empty", pa.bool_()), ("params", pa.string()), ("twin", pa.string()), ("request_model", pa.string())),
        *(("own_id", pa.string()), ("verified", pa.string()), ("ordinal", pa.int64())),
        *_fields(schema.TASKS, TASK_COLUMNS),
    ]
)
"""Tasks as the files ask them. ident: equal for rows that ask the same. input_key: what a rollout names it by. place:
which of several rows with one ident is the task's. empty: it has no prompt. Of a batch's requests: params, what it was
asked with; twin, equal for files of one batch by their names; request_model.
own_id: what the id field says. verified: what of the row a verifier reads, as JSON. ordinal: the row that it is of."""

ENDED = pa.schema(
    [
        *(("ordinal", pa.int64()), ("origin", pa.string()), ("line", pa.int64()), ("digest", pa.string())),
        *(("source", pa.string()), ("ident", pa.string()), ("input_key", pa.string()), ("needs_input", pa.bool_())),
        *(("policy", pa.string()), ("prompt_hash", pa.string()), ("twin", pa.string()), ("session", pa.string())),
        *(("ng_task", pa.int64()), ("ng_rollout", pa.int64()), ("ng_attempt", pa.int64())),
        *_fields(schema.ATTEMPTS, ATTEMPT_COLUMNS),
        *_fields(schema.VERDICTS, VERDICT_COLUMNS),
        *(("verdict_error", pa.string()), ("verdict_error_message", pa.string())),
    ]
)
"""Rollouts as they ended. digest: equal for equal rows. ident and input_key: its task, see ASKED. source: the rollout
file that it belongs to. needs_input: its task is in another row, or it is rejected. session: the id of the session that
it is, in which it may have grown since it was imported."""

FILE_WORDS = re.compile(
    r"(?<![a-z])(input|request|output|response|result|answer|error|prediction|question|in|out)s?(?![a-z])[._-]?"
)
"""Words that tell the files of one batch apart."""

TURNS = (*PROMPT_COLUMNS, *prompt_answer.ANSWERS, "tool_defs", "body", "request", "response", "result", "params")
"""Columns that hold what was asked or answered."""

TASKS, LONG_TASK = 1000, 100_000
"""Tasks whose columns are remembered, as rollouts of one task often follow each other; none longer than this many
characters."""

BY_RULE = Dataset(needs_prompt=False)

Record = dict[str, Any]


class Read(NamedTuple):
    """What a row says: its task, its rollouts, and the name of its shape. left_out: fields that no reader knows. parts:
    types of content parts that none knows. nulls: how many nulls of struct columns were left out."""

    task: Record | None
    ended: Sequence[Record]
    shape: str
    left_out: Sequence[str] = ()
    parts: Sequence[str] = ()
    nulls: int = 0


class Reader:
    """Reads the rows of one import. policy: the policy's name, where it is not each row's own model. id: the field that
    holds a task's own id, None where a task is named by its content. dataset_field: names the dataset.
    settings: say where media are."""

    def __init__(
        self,
        policy: str | None = None,
        id: str | None = None,
        dataset_field: str | None = None,
        settings: Dataset = BY_RULE,
    ) -> None:
        self.policy, self.id = policy, id
        self.media_folder = cache(partial(media_folder, settings, places=(Path(),)))
        self._tasks: dict[tuple[str, Path], Record] = {}
        self.known = {field.partition(".")[0] for field in (id, dataset_field) if field is not None}

    def read(
        self,
        row: Mapping[str, Any],
        raw: str,
        path: Path,
        source: str,
        is_input: bool,
        structs: Collection[str] = (),
    ) -> Read:
        """The task that a row asks and the rollouts that it holds, either of which may be missing.

        source: the rollout file that path belongs to. is_input: the file holds materialized inputs. structs: columns
        whose objects have nulls that no author wrote. Raises ValueError that says what is wrong with the row.
        """
        if is_input:
            return Read(self._input(row, source, path), (), "NeMo Gym input")
        held, nulls = without_struct_nulls(row, structs, TURNS) if structs else (row, 0)
        format_ = format_of(held)
        found = read_row(format_, held, raw)
        task = self._task_columns(found.task, row, path) if found.task is not None else None
        known = self._known(format_, row, path, source, task, found.request_id)
        if found.request_id is None and found.params is not None:
            known |= {"request": dump(found.params)}
        ended = []
        for number, answer in enumerate(found.answers):
            whole = [row] if found.request_id is None or _has_id(row) else [row, Path(batch_of(path)).name]
            several = [number] if len(found.answers) > 1 else []
            name = digest(row) if len(whole + several) == 1 else digest(whole + several)
            own: Record = {"digest": name, "engine": format_.ENGINE}
            if found.started_at is not None:
                own |= {"started_at": found.started_at}
            ended.append({**known, **self._ended(answer, raw), **own})
        if found.request_id is not None:
            twin = {"twin": batch_of(path)}
            ended = [one | twin for one in ended]
            if task is not None:
                asked = {"params": dump(found.params or {}), "request_model": found.model}
                task |= twin | asked | {"input_key": _input_key(format_, found.request_id)}
        left_out = [key for key in found.left_out if key not in self.known]
        return Read(task, ended, found.shape or format_.LABEL, left_out, list(_unknown_parts(found)), nulls)

    def session(self, session: Session, raw: str, source: str, session_id: str | None) -> Read:
        """The task and the rollout of a session's file. raw: the file as one JSON value. source: its folder."""
        found = session_row(session, raw)
        task = self._task_columns(found.task or {}, None, Path(source))
        own: Record = {"digest": digest(raw), "engine": f"import:{session.agent}", "source": source}
        own |= {"ident": task["ident"], "started_at": found.started_at, "session": session_id}
        return Read(
            task, [self._ended(answer, raw) | own for answer in found.answers], found.shape or "", found.left_out
        )

    def _input(self, row: Mapping[str, Any], source: str, path: Path) -> Record:
        task = {key: value for key, value in row.items() if key not in gym.PER_ROLLOUT}
        number, rollout = index_of(row, TASK_INDEX), index_of(row, ROLLOUT_INDEX) or 0
        requested = self._task_columns(task, row, path)
        if number is None:
            return requested
        return requested | {
            "ident": digest(["input", source, number]),
            "input_key": f"{source}/{number}/{rollout}",
            "place": rollout,
        }

    def _known(
        self,
        format_: Format,
        row: Mapping[str, Any],
        path: Path,
        source: str,
        task: Record | None,
        request_id: str | None,
    ) -> Record:
        """The staged columns that all rollouts of a row share: whose they are."""
        if format_ is gym:
            return _gym_columns(row, source, task, self.media_folder(path))
        if request_id is not None:
            return {"input_key": _input_key(format_, request_id), "needs_input": True}
        return {"ident": task["ident"] if task else None}

    def _task_columns(self, task: Mapping[str, Any], row: Mapping[str, Any] | None, path: Path) -> Record:
        """The staged columns of a task's row. Rollouts of rows with one `ident` are of one task. row: the whole one, in
        which its own id stands; a session has none."""
        text = dump(task)
        key = text, path.parent  # below which its media are
        if key not in self._tasks:
            if len(self._tasks) >= TASKS:
                self._tasks.clear()
            self._tasks[key] = _task_record(task, text, self.media_folder(path))
        found = self._tasks[key]
        if len(text) > LONG_TASK:
            self._tasks.clear()
        own_id = own_id_of(row, self.id) if self.id is not None and row is not None else None
        ident = found["ident"] if own_id is None or found["empty"] else digest([*_same_task(task, found), own_id])
        return {**found, "own_id": own_id, "ident": ident}

    def _ended(self, answer: RolloutAnswer | AttemptFailed, raw: str) -> Record:
        """The staged columns of a rollout that ended. Its policy is that of its file, where it names no model."""
        if isinstance(answer, AttemptFailed):
            said = {"error": answer.kind, "error_message": answer.message, "final": answer.final}
            empty = {"response": f"[{raw}]", "turns": 0, "tool_calls": 0, "tool_names": []}
            return said | empty | {"policy": self.policy}
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
            "error_message": answer.refusal,
            "turns": answer.turns,
            "tool_calls": len(answer.tool_names),
            "tool_names": list(answer.tool_names),
            **{name: getattr(answer, name) for name in reported},
            **verdict,
        }


def _task_record(task: Mapping[str, Any], text: str, media: MediaFolder) -> Record:
    """The staged columns that a task's row decides. text: the row as JSON."""
    columns = _columns_of(task, media)
    names = ("row_hash", "prompt", "tools", "prompt_hash", "answer", "agent")
    found = {"verified": dump(verified_by(task)), "ng_task": index_of(task, TASK_INDEX), "row": text}
    found |= {"empty": columns["prompt"] == "[]", **{name: columns[name] for name in names}}
    return {"ident": found["row_hash"] if found["empty"] else digest(_same_task(task, found)), **found}


def _same_task(task: Mapping[str, Any], columns: Record) -> list[Any]:
    """What rollouts of one task have in common."""
    return [columns["prompt_hash"], verified_by(task), columns["agent"], index_of(task, TASK_INDEX)]


def _columns_of(task: Mapping[str, Any], media: MediaFolder) -> Record:
    """The columns of a task's row. A Gym rollout whose prompt cannot be read has none: its result counts anyway."""
    try:
        return {**task_columns("", BY_RULE, dict(task), media)}
    except MediaError:
        raise
    except ValueError:
        if "responses_create_params" not in task:
            raise
    about = {"row_hash": digest(task), "agent": agent_of(task), "answer": answer_of_row(task)}
    return {**task_columns("", BY_RULE, {}, media), **about}


def _gym_columns(row: Mapping[str, Any], source: str, task: Record | None, media: MediaFolder) -> Record:
    """The staged columns of a Gym row's identity and of what it was asked."""
    number, rollout = index_of(row, TASK_INDEX), index_of(row, ROLLOUT_INDEX)
    params = row.get("responses_create_params")
    params = params if isinstance(params, Mapping) else {}
    response = row.get("response")
    created = response.get("created_at") if isinstance(response, Mapping) else None
    named = number is not None and rollout is not None
    return {
        "source": source,
        "ident": task["ident"] if task else None,
        "needs_input": task is None,
        "input_key": f"{source}/{number}/{rollout}" if named else None,
        "ng_task": number,
        "ng_rollout": rollout,
        "ng_attempt": index_of(row, ATTEMPT_INDEX),
        "request": dump({k: v for k, v in params.items() if v is not None and k not in ("input", "tools")}),
        "started_at": _time(created),
        **_request_of(row, params, task, media),
    }


def batch_of(path: Path) -> str:
    """What the names of a batch's files have in common: the name without `input`, `output` and the like."""
    name = path.name.partition(".jsonl")[0].lower()
    return str(path.with_name(FILE_WORDS.sub("", name).strip("._- ") or "batch"))


def _request_of(row: Mapping[str, Any], params: Mapping[str, Any], task: Record | None, media: MediaFolder) -> Record:
    """What a rollout was asked in the end: an environment may have added to its task's prompt."""
    if task is not None and TASK_FIELDS in row and params.get("input"):
        requested = {key: params[key] for key in gym.ASKED_PARAMS if params.get(key) is not None}
        task = {"empty": False, **_columns_of({"responses_create_params": requested}, media)}
    if task is None or task["empty"]:
        return {}
    return {key: task[key] for key in ("prompt", "tools", "prompt_hash")}


def _unknown_parts(row: RolloutRow) -> Iterator[str]:
    """The types of content parts that no reader knows, in what was asked and in what was answered."""
    messages = (row.task or {}).get("messages")
    if isinstance(messages, list) and all(isinstance(said, Mapping) and "content" in said for said in messages):
        yield from unknown_parts(messages)
    for answer in row.answers:
        if isinstance(answer, RolloutAnswer):
            yield from unknown_parts(answer.completion)


def _has_id(row: Mapping[str, Any]) -> bool:
    """Whether an answer of a batch has an id that no other has. Without one, two batches may have equal answers."""
    response, result = row.get("response"), row.get("result")
    message = result.get("message") if isinstance(result, Mapping) else None
    places = ((row, "id"), (message, "id"), (response, "responseId"))
    return any(isinstance(place, Mapping) and bool(place.get(name)) for place, name in places)


def _input_key(format_: Format, request_id: str) -> str:
    """What ties an answer to its request: `import:batch/ID`."""
    return f"{format_.ENGINE}/{request_id}"


def _time(seconds: Any) -> int | None:
    """Seconds since 1970 as microseconds; None where it is none (a 0 is a placeholder)."""
    return int(seconds * 1e6) if isinstance(seconds, int | float) and 0 < seconds < 1e11 else None
