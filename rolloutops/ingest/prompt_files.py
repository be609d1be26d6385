"""The prompt file of a dataset, read with the rows that serve as examples."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rolloutops.config.paths import as_path
from rolloutops.config.settings import Dataset
from rolloutops.config.validation import Key, check_table
from rolloutops.errors import InputError, UsageError, did_you_mean
from rolloutops.formats.prompt_template import Example, PromptTemplate, fields_of
from rolloutops.formats.strict_json import digest
from rolloutops.ingest.inputs import find_inputs, open_rows
from rolloutops.layout import count

KEYS = {
    "user": Key(str, None, "the user message, with {field} for a field of the row", required=True),
    "system": Key(str, None, "the system message"),
    "assistant": Key(str, None, "the assistant's turn of an example (default: the row's expected answer)"),
}
"""What a prompt file may say."""


def read_template(name: str, dataset: Dataset, places: Sequence[Path]) -> PromptTemplate | None:
    """Read the prompt file of a dataset and its examples; None where it has none.

    name: the dataset's. places: where a relative path starts, the first that has it. Raises UsageError or InputError
    for a file that is not there, that is no prompt file, or whose examples are too few.
    """
    if dataset.prompt is None:
        if dataset.examples or dataset.shots:
            raise UsageError(f"{name}: examples and shots need a prompt file: add prompt = …, or --prompt=FILE")
        return None
    if bool(dataset.examples) != bool(dataset.shots):
        raise UsageError(f"{name}: set both examples (files with rows) and shots (how many to show)")
    path = _find(dataset.prompt, places)
    template = _read(path)
    if not dataset.shots:
        return template
    return replace(template, shots=dataset.shots, examples=_examples(name, dataset, template, places))


def _find(name: str, places: Sequence[Path]) -> Path:
    path = next((place / as_path(name) for place in places if (place / as_path(name)).is_file()), None)
    if path is None:
        beside = [str(one.relative_to(place)) for place in places for one in place.glob("*.y*ml")]
        raise InputError(f"no prompt file {name!r}{did_you_mean(name, beside)}")
    return path


def _read(path: Path) -> PromptTemplate:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a prompt file: it needs the key user, the text of the user message")
    table = {str(key): value for key, value in found.items() if value is not None}
    table = check_table(KEYS, table, f"{path}: ", unknown=lambda key, hint: f"{path}: no key {key!r}{hint}")
    for key, text in table.items():
        try:
            unnamed = "" in fields_of(text)
        except ValueError as error:
            raise InputError(f"{path}: {key}: {error} (write {{{{ or }}}} for a brace)") from None
        if unnamed:
            raise InputError(f"{path}: {key} has {{}} without a field's name (write {{{{}}}} for braces)")
    return PromptTemplate(path.name, **table)


def _examples(name: str, dataset: Dataset, template: PromptTemplate, places: Sequence[Path]) -> list[Example]:
    """Choose the rows that are shown: those whose hash with the seed is smallest, wherever they stand."""
    chosen = heapq.nsmallest(dataset.shots + 1, _rows(dataset, places), key=lambda row: row.order)
    if len(chosen) < dataset.shots:
        raise InputError(f"{name}: shots is {dataset.shots}, but examples has only {count(len(chosen), 'row')}")
    found = []
    for one in chosen:
        try:
            found.append(template.example(one.row))
        except ValueError as error:
            raise InputError(f"{one.place}: {error}") from None
    return found


class _ExampleRow(NamedTuple):
    order: str
    place: str
    row: dict[str, Any]


def _rows(dataset: Dataset, places: Sequence[Path]) -> Iterator[_ExampleRow]:
    """The rows of the files of examples, each once."""
    seen = set()
    for path in find_inputs(dataset.examples, *places):
        for row in open_rows(path):
            if row.value is not None and (row_hash := digest(row.value)) not in seen:
                seen.add(row_hash)
                yield _ExampleRow(digest([dataset.seed, row_hash]), f"{path}:{row.line}", row.value)
