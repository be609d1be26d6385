"""Which dataset each imported file, or each of its rows, belongs to.

Files are datasets of their own, by their names; what belongs together is one: a Gym run with what lies beside it, the
requests and answers of a batch, the shards of a table. A field of the rows may name their datasets instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.config.recipe import checked_name
from rolloutops.config.settings import Dataset
from rolloutops.errors import InputError, UsageError
from rolloutops.formats.nemo_gym import ROLLOUT_INDEX, TASK_INDEX, index_of, rollout_files
from rolloutops.formats.rollouts.recognize import format_of
from rolloutops.ingest.inputs import find_inputs, open_rows
from rolloutops.ingest.rollout_rows import batch_of
from rolloutops.ingest.session_files import SESSION, folder_name, take_sessions

SHARD = re.compile(r"-\d{5}-of-\d{5}$")
"""The end of a shard's name, as `datasets` writes it."""

SAMPLE = 1000
"""Rows of a batch's answers that are looked up in the files of requests."""


class InputFile(NamedTuple):
    """A file of an import. kind: rollouts, materialized_inputs, failures or session. source: the rollout file that it
    belongs to, of a session its folder."""

    path: Path
    kind: str
    source: str


class ImportChoices(NamedTuple):
    """How an import is done. dataset: the one of all files; dataset_field: the field of rows that names it; else each
    file is a dataset. policy: its name (default: the model that each row names). id: the field of a task's own id.
    media_root, max_media_bytes: as in a dataset's table."""

    dataset: str | None = None
    dataset_field: str | None = None
    policy: str | None = None
    id: str | None = None
    media_root: str | None = None
    max_media_bytes: int | None = None

    def settings(self) -> Dataset:
        """The table of a dataset that is made so."""
        table = Dataset(id=self.id, media_root=self.media_root)
        return table if self.max_media_bytes is None else replace(table, max_media_bytes=self.max_media_bytes)


def find_files(paths: Sequence[str], *bases: Path) -> tuple[list[InputFile], list[Path]]:
    """Find the files to read, sessions first, and those that hold no rollouts."""
    sessions, patterns, beside = take_sessions(paths, *bases)
    # NeMo Gym leaves a failures file also without a failure.
    found = find_inputs(patterns, *bases, empty_too=True) if patterns or not sessions else []
    rows, skipped = rollout_files(found)
    files = [*(InputFile(path, SESSION, str(path.parent)) for path in sessions), *(InputFile(*row) for row in rows)]
    if not files:
        raise InputError(f"there is no rollout in {', '.join(map(str, found))}")
    return files, [*beside, *skipped]


def datasets_of(
    paths: Sequence[str], files: list[InputFile], choices: ImportChoices
) -> tuple[dict[str, list[InputFile]], ByField | None]:
    """dataset -> its files; with a dataset field, all files of each dataset, and which row is of which."""
    if choices.dataset is not None and choices.dataset_field is not None:
        raise UsageError("--dataset puts all rows into one dataset, --dataset_field into several: pass only one")
    if choices.dataset is not None:
        return {choices.dataset: files}, None
    sessions = [file for file in files if file.kind == SESSION]
    if choices.dataset_field is None:
        groups = by_file([file for file in files if file.kind != SESSION])
        return ({folder_name(paths): sessions} if sessions else {}) | groups, None
    if sessions:
        raise UsageError(f"{sessions[0].path} is a session, which has no field {choices.dataset_field}: pass --dataset")
    found = ByField(choices.dataset_field, files)
    return dict.fromkeys(found.values, files), found


def by_file(files: Sequence[InputFile]) -> dict[str, list[InputFile]]:
    """dataset -> its files. Raises UsageError where two files that do not belong together have one name."""
    groups = _joined(files)
    stems = [name_of(group[0]) for group in groups]
    names = [_longer(group[0]) if stems.count(stem) > 1 else stem for group, stem in zip(groups, stems, strict=True)]
    named: dict[str, list[InputFile]] = {}
    for name, group in zip(names, groups, strict=True):
        if name in named:
            raise UsageError(
                f"{named[name][0].path} and {group[0].path} would both be dataset {name}: name one with --dataset"
            )
        named[name] = group
    return named


def name_of(file: InputFile) -> str:
    """A dataset's name from that of a file."""
    return checked_name(_plain(SHARD.sub("", Path(file.source).name.partition(".")[0])) or "tasks", str(file.path))


class ByField:
    """Datasets by a field of the rows, found before anything is written. field: a name, or a path with dots."""

    def __init__(self, field: str, files: Iterable[InputFile]) -> None:
        self.field = field
        self.values: dict[str, str] = {}
        self._homes: dict[str, str] = {}  # of rows that do not have the field, by what ties them to one that has
        for file in files:
            for row in open_rows(file.path):
                if row.value is not None and (name := self._name(row.value)) is not None:
                    self._homes.update(dict.fromkeys(_ties(file, row.value), name))
        if not self.values:
            raise InputError(f"no row has a field {field!r} that can name a dataset: choose another --dataset_field")

    def dataset_of(self, file: InputFile, row: Mapping[str, Any]) -> str:
        """The dataset of a row. Raises ValueError where neither it nor its request has the field."""
        name = self._name(row) or next((self._homes[tie] for tie in _ties(file, row) if tie in self._homes), None)
        if name is None:
            raise ValueError(f"the dataset field {self.field!r} is missing, or is neither text nor a whole number")
        return name

    def _name(self, row: Mapping[str, Any]) -> str | None:
        value: Any = row
        for step in self.field.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        name = _plain(str(value))
        if not name:
            return None
        if self.values.setdefault(name, str(value)) != str(value):
            raise InputError(
                f"the dataset field {self.field!r} has the values {self.values[name]!r} and {value!r}, which would "
                f"both be dataset {name}: rename one"
            )
        return name


class _Batch(NamedTuple):
    """What a file holds of a batch, by its first row. format: by its label; answers: answers, and not requests."""

    format: str
    answers: bool


def _joined(files: Sequence[InputFile]) -> list[list[InputFile]]:
    """Files that are of one dataset, in the order of their first."""
    home = {file: _home(file) for file in files}
    batches = {file: batch for file in files if (batch := _batch(file)) is not None}
    for file, batch in batches.items():
        requests = [each for each, other in batches.items() if other == _Batch(batch.format, answers=False)]
        if batch.answers:
            answers = [each for each, other in batches.items() if other == batch]
            for request in _requests_of(file, requests, answers):
                old, new = home[request], home[file]
                home = {each: new if at == old else at for each, at in home.items()}
    groups: dict[str, list[InputFile]] = {}
    for file in files:
        groups.setdefault(home[file], []).append(file)
    return list(groups.values())


def _batch(file: InputFile) -> _Batch | None:
    """What a file holds of a batch; None where its first row is none."""
    row = next(open_values(file.path), None)
    try:
        format_ = format_of(row) if row is not None else None
        found = format_.read(row, "") if format_ is not None and row is not None else None
    except ValueError:
        return None
    if format_ is None or found is None or found.request_id is None:
        return None
    return _Batch(format_.LABEL, found.task is None)


def _home(file: InputFile) -> str:
    source = Path(file.source)
    return str(source.with_name(SHARD.sub("", source.name.partition(".")[0])))


def _requests_of(file: InputFile, requests: Sequence[InputFile], answers: Sequence[InputFile]) -> Sequence[InputFile]:
    """The files of requests that a file of answers may belong to: those named alike; else those that have its ids,
    are not named like another file of answers, and of these the ones with its models, if any."""
    name, others = batch_of(file.path), {batch_of(each.path) for each in answers}
    alike = [request for request in requests if batch_of(request.path) == name]
    if alike or len(requests) <= 1:
        return alike or requests
    wanted = {_id(row) for row in islice(open_values(file.path), SAMPLE)}
    models = {model for row in islice(open_values(file.path), SAMPLE) if (model := _model(row))}
    found = {
        request: {_model(row) for row in open_values(request.path) if _id(row) in wanted}
        for request in requests
        if batch_of(request.path) not in others
    }
    same = [each for each, own in found.items() if any(_is_model(model, of) for model in models for of in own if of)]
    return same or [each for each, own in found.items() if own]


def _is_model(answered: str, requested: str) -> bool:
    """Whether a model is the one that was requested: the same, or a dated version of it."""
    answered, requested = (name.rpartition("/")[2].lower() for name in (answered, requested))
    return answered == requested or answered.startswith(f"{requested}-")


def _model(row: Mapping[str, Any]) -> str | None:
    """The model of a batch's row; None where it has none, or cannot be read."""
    try:
        return format_of(row).read(row, "").model
    except ValueError:
        return None


def _id(row: Mapping[str, Any]) -> str:
    return str(row["custom_id"]) if "custom_id" in row else str(row.get("key"))


def open_values(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that are objects."""
    return (row.value for row in open_rows(path) if row.value is not None)


def _ties(file: InputFile, row: Mapping[str, Any]) -> list[str]:
    """What ties rows of one task together: a batch's id, NeMo Gym's indexes."""
    if "custom_id" in row or ("key" in row and ("request" in row or "response" in row)):
        return [f"batch/{batch_of(file.path)}/{_id(row)}", f"batch/{_id(row)}"]
    number, rollout = index_of(row, TASK_INDEX), index_of(row, ROLLOUT_INDEX)
    return [] if number is None else [f"{file.source}/{number}/{rollout}", f"{file.source}/{number}"]


def _longer(file: InputFile) -> str:
    """A file's name with that of its folder."""
    return checked_name(_plain(f"{file.path.resolve().parent.name}_{name_of(file)}"), str(file.path))


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")
