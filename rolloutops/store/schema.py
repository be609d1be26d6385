"""The tables of a workspace: one Arrow schema each, every column with a line that says what it holds.

JSON that rolloutops does not own travels as text: a struct would take the union of all rows' keys and fill it
with nulls, which changes what trainers tokenize.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import pyarrow as pa

TEXT, INT, LONG, REAL, BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
JSON = pa.json_(pa.string())
TIME = pa.timestamp("us", tz="UTC")
TOKEN_TURN = pa.struct(
    [
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("generation_token_ids", pa.list_(pa.int32())),
        ("generation_log_probs", pa.list_(pa.float32())),
    ]
)


def _schema(*columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"about": about}) for name, kind, about in columns])


TASKS = _schema(
    ("dataset", TEXT, "the dataset, as the recipe names it"),
    ("task_id", TEXT, "the row's id if the recipe names an id field, else the hash of its canonical JSON"),
    ("row_hash", TEXT, "hash of the row's canonical JSON, plus its prompt's hash if an equal row had another prompt"),
    ("version", INT, "0 for the first row with this id, plus 1 for each edit, removal or return"),
    ("removed", BOOL, "true if the task is no longer in the input"),
    ("part", INT, "the number of the task's part"),
    ("origin", TEXT, "the input file"),
    ("line", LONG, "the line or row in the input file, from 1"),
    ("agent", TEXT, "agent_ref.name of the row"),
    ("row", JSON, "the line of the input, unchanged"),
    ("prompt", JSON, "the prompt, as canonical chat messages"),
    ("tools", JSON, "the tools that the row offers, as canonical chat tools"),
    ("prompt_hash", TEXT, "hash of prompt and tools: equal for tasks with the same prompt"),
    ("answer", TEXT, "the row's expected answer: text unchanged, other values as JSON"),
)

ATTEMPTS = _schema(
    ("dataset", TEXT, "the task's dataset"),
    ("task_id", TEXT, "the task"),
    ("row_hash", TEXT, "hash of the task's row at the time of the attempt"),
    ("policy", TEXT, "the policy"),
    ("rollout_index", INT, "number of the repeat, from 0"),
    ("attempt", INT, "number of the attempt at this rollout, from 1"),
    ("attempt_id", TEXT, "id of the attempt: the run's id and a counter"),
    ("part", INT, "the number of the task's part"),
    ("run_id", TEXT, "the run that made the attempt"),
    ("engine", TEXT, "the engine"),
    ("model", TEXT, "the model's name in the reply"),
    ("error", TEXT, "type of the failure (see Failures); null if the attempt succeeded"),
    (
        "error_message",
        TEXT,
        "message of the failure, at most 2 KB; the endpoint's message if finish_reason is replay_refused or "
        "generation_refused",
    ),
    ("final", BOOL, "true if no further attempt is made: success or permanent failure"),
    ("request", JSON, "the effective parameters"),
    ("response", TEXT, "the raw replies: a JSON array with one item per model call; for a whole rollout its one reply"),
    ("prompt", JSON, "the prompt that was sent, if it differs from the task's"),
    ("tools", JSON, "the tools that were offered, if they differ from the task's"),
    ("completion", JSON, "the messages after the prompt, as canonical chat messages"),
    ("text", TEXT, "the last assistant message's text"),
    (
        "finish_reason",
        TEXT,
        "stop, length, tool_calls, content_filter, max_steps, token_budget, replay_refused, generation_refused, or "
        "another one as received",
    ),
    ("turns", INT, "number of model calls"),
    ("tool_calls", INT, "number of tool calls"),
    ("tool_errors", INT, "number of tool calls that failed"),
    ("tool_names", pa.list_(TEXT), "the tools called, in order"),
    ("input_tokens", LONG, "prompt tokens, over all model calls"),
    ("output_tokens", LONG, "generated tokens, over all model calls"),
    ("reasoning_tokens", LONG, "generated tokens that were reasoning"),
    ("cached_tokens", LONG, "prompt tokens read from a prefix cache"),
    ("service_tier", TEXT, "the service tier in the last reply, at which it was billed"),
    ("token_turns", pa.list_(TOKEN_TURN), "token ids and log-probs of each model call, if captured"),
    ("started_at", TIME, "when the attempt began"),
    ("seconds", REAL, "duration in seconds"),
    ("model_seconds", REAL, "seconds waiting for the model"),
    ("tool_seconds", REAL, "seconds in tools"),
)

VERDICTS = _schema(
    ("verdict_id", TEXT, "id of the verdict: the verifying run's id and a counter, so that ids sort by time"),
    ("dataset", TEXT, "the task's dataset"),
    ("task_id", TEXT, "the task"),
    ("policy", TEXT, "the policy"),
    ("rollout_index", INT, "number of the repeat, from 0"),
    ("attempt_id", TEXT, "the attempt that was verified"),
    ("verifier", TEXT, "the environment that verified it"),
    (
        "verifier_version",
        TEXT,
        "the verifier version: a number and a hash of the settings; for custom verifiers a hash of code and settings",
    ),
    ("reward", REAL, "the reward; null if verification failed"),
    ("metrics", pa.map_(TEXT, REAL), "every numeric or boolean field that the verifier returned"),
    ("details", JSON, "all fields that the verifier returned"),
    ("error", TEXT, "type of the failure: verifier_error, verifier_timeout, or masked (mask_sample was true)"),
    ("error_message", TEXT, "message of the failure"),
    ("seconds", REAL, "duration in seconds"),
    ("cached", BOOL, "true if copied from an identical rollout's verdict (pure verifiers)"),
    ("run_id", TEXT, "the run that verified it"),
    ("cpu_seconds", REAL, "CPU seconds of the verification; null if not measured"),
)

RUNS = _schema(
    ("run_id", TEXT, "id of the run: its start time and random digits, so that ids sort by time"),
    ("event", TEXT, "start or end"),
    ("command", TEXT, "the command"),
    ("happened_at", TIME, "when"),
    ("argv", pa.list_(TEXT), "the command line"),
    ("recipe", JSON, "the resolved recipe, command line included"),
    ("recipe_hash", TEXT, "its hash"),
    ("fingerprints", JSON, "for collect: {dataset: {policy: engine, model and parameters}}"),
    ("versions", JSON, "versions of rolloutops, Python and relevant packages"),
    ("git_commit", TEXT, "git commit of the folder in which the command ran, if it is a repository"),
    ("host", TEXT, "the machine"),
    ("counts", JSON, "counts of the command, e.g. rollouts collected"),
    ("exit_code", INT, "exit code of the command"),
    ("outputs", JSON, "files written: path, rows, sha256"),
    ("seconds", REAL, "duration in seconds"),
)

JOB_REQUEST = pa.struct(
    [
        ("dataset", TEXT),
        ("task_id", TEXT),
        ("row_hash", TEXT),
        ("part", INT),
        ("policy", TEXT),
        ("rollout_index", INT),
        ("attempt", INT),
    ]
)

JOBS = _schema(
    ("job_id", TEXT, "id of the job: its run's id and a counter; it is in the batch's metadata and in the file's name"),
    ("event", TEXT, "intended (before anything is sent), uploaded, submitted, ended; dropped: it was never submitted"),
    ("happened_at", TIME, "when"),
    ("run_id", TEXT, "the run that wrote this row"),
    ("url", TEXT, "the provider's address"),
    ("endpoint", TEXT, "the endpoint of each request: /v1/responses or /v1/chat/completions"),
    ("model", TEXT, "the model"),
    ("file_id", TEXT, "the provider's id of the file of requests"),
    ("batch_id", TEXT, "the provider's id of the batch"),
    ("status", TEXT, "how the batch ended: completed, failed, expired or cancelled"),
    ("message", TEXT, "why it was refused or dropped"),
    ("counts", JSON, "results of its requests; for event intended: the expected tokens and cost"),
    ("asked", JSON, "for event intended: {dataset: {policy: settings of the collection, and the environment's tools}}"),
    ("requests", pa.list_(JOB_REQUEST), "for event intended: the rollouts of the job, in the order of its file"),
)

LABELS = _schema(
    ("label_id", TEXT, "names this row: the process that wrote it and a counter"),
    ("dataset", TEXT, "the task's dataset"),
    ("task_id", TEXT, "the task"),
    ("policy", TEXT, "the policy"),
    ("rollout_index", INT, "which of the repeats"),
    ("attempt_id", TEXT, "the attempt that was read; a rollout that is collected again has none of its labels"),
    ("label", TEXT, "the label, a word or a few; null where there is none"),
    ("score", REAL, "the score; the reward where the recipe says verifier = human"),
    ("note", TEXT, "what the person wrote beside it"),
    ("withdrawn", BOOL, "true: the attempt has neither label, score nor note from now on"),
    ("author", TEXT, "who wrote it"),
    ("created_at", TIME, "when; of the rows of one attempt the newest counts, whoever wrote it"),
)

TABLES: dict[str, pa.Schema] = {
    "tasks": TASKS,
    "attempts": ATTEMPTS,
    "verdicts": VERDICTS,
    "runs": RUNS,
    "jobs": JOBS,
    "labels": LABELS,
}

FLAT = ("runs", "jobs")
"""The tables without a folder for each dataset."""


def about(schema: pa.Schema, column: str) -> str:
    """The line that says what a column holds."""
    return schema.field(column).metadata[b"about"].decode()


def table_of(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table; absent keys are null, unknown keys are an error."""
    unknown = set().union(*rows) - set(schema.names)
    if unknown:
        raise KeyError(f"no such column: {sorted(unknown)}")
    maps = [field for field in schema if pa.types.is_map(field.type)]
    # As one array of structs: Arrow reads each row once, and in C.
    plain = [pa.field(f.name, pa.string() if f.type == JSON else f.type) for f in schema if f not in maps]
    made = dict(zip((f.name for f in plain), pa.array(rows, pa.struct(plain)).flatten(), strict=True))
    for field in maps:  # whose entries Arrow wants as tuples, and JSON brings back as lists
        values = [row.get(field.name) for row in rows]
        pairs = [entries and [tuple(entry) for entry in entries] for entries in values]
        made[field.name] = pa.array(pairs, field.type)
    columns = [
        pa.ExtensionArray.from_storage(JSON, made[field.name]) if field.type == JSON else made[field.name]
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def drained_table(schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows as an Arrow table, as `table_of`; their long texts leave the rows one column after another, so that those
    are not in memory twice. Bytes must be UTF-8."""
    texts = {}
    for field in schema:
        if field.name in PAYLOAD:
            column = _text_array([row.pop(field.name, None) for row in rows])
            texts[field.name] = pa.ExtensionArray.from_storage(JSON, column) if field.type == JSON else column
    rest = table_of(pa.schema([field for field in schema if field.name not in texts]), rows)
    return pa.Table.from_arrays([texts[name] if name in texts else rest[name] for name in schema.names], schema=schema)


def _text_array(values: list[str | bytes | None]) -> pa.Array:
    """Texts as an array. One that is bytes is not copied."""
    if len(values) == 1 and isinstance(values[0], bytes):
        ends = pa.array([0, len(values[0])], pa.int32()).buffers()[1]
        return pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(values[0])])
    return pa.array(values, pa.string())


PAYLOAD = ("row", "prompt", "completion", "text", "response", "details", "error_message")
"""Columns of long texts, of which few are equal."""

GROUP_ROWS, GROUP_BYTES = 8192, 64_000_000
"""Rows, and bytes, of a row group. Who reads one column of a part holds a row group of it at least."""
PAGE_ROWS, PAGE_BYTES = 1024, 1_000_000
"""Rows, and bytes, of a page, which is decompressed as a whole."""


class Encoding(TypedDict):
    """How pyarrow writes the columns of a Parquet file."""

    use_dictionary: list[str]
    write_statistics: list[str]


def encoding_of(schema: pa.Schema) -> Encoding:
    """Dictionary and statistics for all but long texts, each of which either would hold once more."""
    leaves = [leaf for field in schema if field.name not in PAYLOAD for leaf in _leaves(field.name, field.type)]
    return {"use_dictionary": leaves, "write_statistics": leaves}


def rows_of_group(rows: pa.Table) -> int:
    """How many of these rows a row group gets."""
    return max(1, min(GROUP_ROWS, GROUP_BYTES // _row_bytes(rows)))


def rows_of_page(rows: pa.Table) -> int:
    """How many of these rows are written before it is asked whether a page is full: who reads one holds a page."""
    return max(1, min(PAGE_ROWS, PAGE_BYTES // _row_bytes(rows)))


def _row_bytes(rows: pa.Table) -> int:
    return max(1, rows.nbytes // max(len(rows), 1))


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """The columns of a Parquet file that hold a column of a type, as Parquet names them."""
    if pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    elif pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    else:
        yield path
