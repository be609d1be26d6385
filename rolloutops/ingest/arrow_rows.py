"""Rows of Parquet and Arrow files as lines of JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from rolloutops.errors import InputError
from rolloutops.formats.strict_json import parse

Form = Callable[[Any], Any]
"""Brings a Python value of one Arrow type to what orjson writes. None stands for: it is that already."""

ROWS, BYTES = 256, 16 << 20
"""What is in memory at once: at most so many rows, and about so many bytes."""


def table_lines(path: Path) -> Iterator[tuple[int, bytes, str | None]]:
    """(row number from 1, the row as a line of JSON, why it cannot be used) of a Parquet or Arrow file.

    JSON columns are spliced in as JSON, decimals as numbers with all their digits, dates and times as text, binary
    values as base64, maps with text keys as objects. Raises InputError where the file cannot be read, or a column has
    a type without a JSON form.
    """
    number = 0
    forms: dict[str, Form] | None = None
    try:
        for batch in _parquet(path) if path.suffix.lower() == ".parquet" else _arrow(path):
            forms = _forms(path, batch.schema) if forms is None else forms
            for row in _rows(batch):
                number += 1
                if isinstance(row, str):
                    yield number, b"", row
                else:
                    yield (number, *_line(row, forms))
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:
        what = f"is damaged after row {number}" if number else f"is damaged, or not a {path.suffix} file"
        raise InputError(f"{path} {what}: {str(error).splitlines()[0]}") from None


def struct_columns(path: Path) -> frozenset[str]:
    """The columns of a Parquet or Arrow file whose objects are stored field by field, so that each has all rows' keys.

    Empty for any other file, and for one that cannot be read.
    """
    try:
        if path.name.lower().endswith(".parquet"):
            schema = pq.read_schema(path)
        elif path.name.lower().endswith((".arrow", ".feather")):
            with pa.memory_map(str(path)) as file:
                magic = file.read(6)
                file.seek(0)
                schema = (pa.ipc.open_file if magic == b"ARROW1" else pa.ipc.open_stream)(file).schema
        else:
            return frozenset()
    except (pa.ArrowException, OSError):
        return frozenset()
    return frozenset(column.name for column in schema if _has_struct(column.type))


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    # Row group by row group, unbuffered between them: by default the reader keeps what it has read.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group)
            rows = _rows_at_once(size.num_rows, size.total_byte_size)
            yield from file.iter_batches(batch_size=rows, row_groups=[group])


def _arrow(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"FEA1"):
            raise InputError(f"{path} is Feather version 1: write it again as version 2, or as Parquet")
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = pa.ipc.open_stream(file)
        for batch in batches:
            rows = _rows_at_once(batch.num_rows, batch.nbytes)
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)


def _rows_at_once(rows: int, size: int) -> int:
    return max(1, min(ROWS, rows * BYTES // max(size, 1)))


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; for one with text that is not UTF-8, the reason."""
    columns = [
        column.cast(_without_time(column.type)) if _has_time(column.type) else column for column in batch.columns
    ]
    batch = pa.RecordBatch.from_arrays(columns, batch.schema.names)
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "invalid UTF-8"


def _line(row: dict[str, Any], forms: dict[str, Form]) -> tuple[bytes, str | None]:
    for name, form in forms.items():
        if row[name] is not None:
            try:
                row[name] = form(row[name])
            except ValueError as error:
                return orjson.dumps(row, default=str), f"column {name}: {error}"
    return orjson.dumps(row), None


def _forms(path: Path, schema: pa.Schema) -> dict[str, Form]:
    """What is to be done to the columns, by name; the others are fit as they are."""
    double = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{path}: two columns have the name {double!r}; rename one")
    forms = {}
    for column in schema:
        try:
            form = _form(column.type)
        except TypeError:
            what = f"column {column.name} has the type {column.type}, which has no JSON form"
            raise InputError(f"{path}: {what}; convert it first") from None
        if form is not None:
            forms[column.name] = form
    return forms


def _form(kind: pa.DataType) -> Form | None:
    """What brings values of this type to JSON. Raises TypeError where nothing does."""
    is_ = pa.types
    if isinstance(kind, pa.JsonType):
        return _json
    if isinstance(kind, pa.BaseExtensionType):
        return str if isinstance(kind, pa.UuidType) else _form(kind.storage_type)
    if is_.is_dictionary(kind):
        return _form(kind.value_type)
    if _is_text(kind) or _is_time(kind) or is_.is_integer(kind) or is_.is_boolean(kind) or is_.is_null(kind):
        return None
    if is_.is_floating(kind):
        return _finite
    if is_.is_decimal(kind):
        return lambda value: orjson.Fragment(format(value, "f"))
    if _is_binary(kind):
        return lambda value: base64.b64encode(value).decode()
    if _is_list(kind):
        return _each(_form(kind.value_type))
    if is_.is_struct(kind):
        return _fields({field.name: form for field in kind if (form := _form(field.type)) is not None})
    if is_.is_map(kind) and _is_text(kind.key_type):
        return _pairs(_form(kind.item_type))
    raise TypeError(kind)


def _json(value: str) -> Any:
    parse(value)  # so that what is spliced is one value
    return orjson.Fragment(value.replace("\n", " ").replace("\r", " "))  # line breaks stand between values only


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    return value


def _each(form: Form | None) -> Form | None:
    return form and (lambda values: [value if value is None else form(value) for value in values])


def _fields(forms: dict[str, Form]) -> Form | None:
    def applied(value: dict[str, Any]) -> dict[str, Any]:
        return value | {name: form(value[name]) for name, form in forms.items() if value[name] is not None}

    return applied if forms else None


def _pairs(form: Form | None) -> Form:
    def applied(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = {key: form(value) if form and value is not None else value for key, value in pairs}
        if len(found) < len(pairs):
            raise ValueError("a key is given twice")
        return found

    return applied


def _without_time(kind: pa.DataType) -> pa.DataType:
    """The type with text for dates and times, which Python's own types would cut to microseconds."""
    if _is_time(kind):
        return pa.string()
    if not _has_time(kind):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_time(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, _without_time(kind.item_type))
    return pa.list_(_without_time(kind.value_type))


def _has_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) or (_is_list(kind) and _has_struct(kind.value_type))


def _has_time(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _has_time(kind.value_type)
    if pa.types.is_map(kind):
        return _has_time(kind.item_type)
    return _is_time(kind) or (pa.types.is_struct(kind) and any(_has_time(field.type) for field in kind))


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    is_ = pa.types
    return (
        is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind) or is_.is_binary_view(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )
