"""Pictures, videos and sounds of a conversation: the columns and marks of rows, and chat parts in their one form.

A medium is a chat part, whatever dialect it came in:

    {"type": "image_url", "image_url": {"url": reference, "sha256"?: text, "detail"?: text}}
    {"type": "video_url", "video_url": {"url": reference, "sha256"?: text}}
    {"type": "audio_url", "audio_url": {"url": reference, "sha256"?: text}}
    {"type": "file", "file": {"url": reference, "sha256"?: text}}         # other forms of `file` stay as they are

A reference is an http(s) URL, which is handed on; a data URL, which holds the bytes; or the path of a local file, as
the row has it. `ingest/media.py` opens local files, and gives those parts the sha256 of their bytes.

Read are the forms of LLaMA-Factory 0.9.3 (data/README.md: `images`, `videos`, `audios` beside `<image>` marks),
ms-swift 3.5 (docs, custom dataset), TRL 0.19 (`images`, and `{"type": "image"}` in place of a mark), verl 0.5
(rl_dataset.py: `{"image": path}`, `{"bytes": ...}`), Hugging Face datasets 3.6 (Image, Audio, Video: `bytes`, `path`),
Qwen-VL's parts (`{"type": "image", "image": ...}`), transformers 4.52 (`url`, `path`, `base64` in a part), OpenAI's
and Anthropic's parts.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rolloutops.formats.columns import MEDIA_COLUMNS
from rolloutops.formats.media_types import AUDIO_FORMATS, holds, media_type
from rolloutops.formats.strict_json import parse
from rolloutops.layout import count
from rolloutops.types import Message

Part = dict[str, Any]
"""One chat part."""

MEDIA = ("image", "video", "audio")
"""The kinds of media that columns and marks can name: `images` or `image`, and `<image>`."""

FORMS = {"image_url": "image", "video_url": "video", "audio_url": "audio"}
"""The types of parts in the one form -> what they hold."""

KINDS = {**FORMS, **{medium: medium for medium in MEDIA}, "input_image": "image", "input_audio": "audio"}
KINDS |= {"input_video": "video", "file": "file", "input_file": "file"}
"""Types of parts that hold a medium, in any dialect -> what they hold."""

REFERENCES = ("url", "path", "file_path", "file_url", "image_url", "video_url", "audio_url", *MEDIA, "source", "value")
"""Keys under which an object holds a reference, or another object that does."""

BYTES = ("bytes", "base64", "data", "file_data")
"""Keys under which an object holds the bytes themselves, as base64."""

SCHEME = re.compile(r"\s*(?:([A-Za-z][A-Za-z0-9+.-]*)://|(data|file):)", re.IGNORECASE)
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".svg"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".wmv"),
    *(".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".amr"),
)
"""How the name of a picture, a video or a sound ends."""


class MediaError(ValueError):
    """A row whose media cannot be used."""


def scheme_of(reference: str) -> str | None:
    """The scheme of a URL, in lower case; None for a path."""
    match = SCHEME.match(reference)
    return (match[1] or match[2]).lower() if match else None


def is_local(reference: str) -> bool:
    """Whether a reference is neither handed on (http, https) nor holds its bytes (data)."""
    return scheme_of(reference) not in ("http", "https", "data")


def with_media(messages: Sequence[Message], row: Mapping[str, Any], *, marks_only: bool = False) -> list[Message]:
    """The messages of a row with its media as parts in the one form.

    Media of a column stand where the marks are, in order. Where there are no marks they stand before the first user's
    text, as TRL and ms-swift put them; marks_only: there the column is not the prompt's.
    Raises MediaError where marks and media differ in number, or a medium has a form that is not known.
    """
    texts_only = not any(isinstance(message.get("content"), list) for message in messages)
    if texts_only and all(row.get(name) is None for name in MEDIA_COLUMNS):
        return list(messages)  # a mark in it is text
    found = [_in_one_form(message) for message in messages]
    media = {}
    for medium in MEDIA:
        column = _column(row, medium, found)
        name, references = column or (f"{medium}s", [])
        marks, parts = _marks(found, medium), [ref for kind, ref in _references(found) if kind == medium]
        if marks != len(references) and (marks if column else _has_empty_part(found, medium)):
            what = f"{count(marks, 'mark')} <{medium}> but {len(references)} in {name}"
            raise MediaError(f"{what}: write one mark for each")
        if marks == len(references):
            media[medium] = references
        elif references and not marks_only and parts != references:  # else the row has them a second time
            if parts:
                raise MediaError(f"{name} and the parts of the messages name different media: remove one of them")
            media[medium] = references
    return _placed(found, {medium: references for medium, references in media.items() if references})


def media_columns(messages: Sequence[Message], row: Mapping[str, Any]) -> list[str]:
    """The columns that hold media of a row's messages, which `with_media` made."""
    held = {medium for medium, _ in _references(messages)}
    names = [
        [name for name in (f"{medium}s", medium) if row.get(name) is not None] for medium in MEDIA if medium in held
    ]
    return [several[0] for several in names if several]


def map_media(messages: Sequence[Message], change: Callable[[str, Part], Part]) -> list[Message]:
    """The messages, their media changed. change: takes what a part holds (image, video, audio, file) and the object
    with its `url`, and returns the whole new part."""
    changed = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = [change(*inner) if (inner := _as_medium(part)) else part for part in content]
            message = {**message, "content": parts}
        changed.append(message)
    return changed


def part_of(medium: str, inner: Part) -> Part:
    """A part in the one form."""
    name = "file" if medium == "file" else f"{medium}_url"
    return {"type": name, name: inner}


def to_openai(messages: Sequence[Message]) -> list[Message]:
    """The messages, their media as parts of OpenAI's Chat API: sounds are `input_audio`, files bring `file_data`.
    Videos, which it has no part for, are `video_url`, as vLLM and SGLang take them."""

    def sent(medium: str, inner: Part) -> Part:
        place = inner["url"]
        if medium == "file" and scheme_of(place) == "data":
            return part_of(medium, {"filename": inner.get("filename", "file"), "file_data": place})
        if medium == "file":
            return part_of(medium, {"file_url": place})
        if medium == "audio" and scheme_of(place) == "data":
            kind, _, data = place.partition(",")
            name = kind.strip()[len("data:") :].partition(";")[0].rpartition("/")[2]
            return {"type": "input_audio", "input_audio": {"data": data, "format": AUDIO_FORMATS.get(name, name)}}
        return part_of(medium, inner)

    return map_media(without_digests(messages), sent)


def without_digests(messages: Sequence[Message]) -> list[Message]:
    """The messages as the row says them: without the sha256 of local media."""
    return map_media(messages, lambda medium, inner: part_of(medium, {k: v for k, v in inner.items() if k != "sha256"}))


def has_local_media(messages: Sequence[Message]) -> bool:
    """Whether a part is a local file."""
    return any(is_local(reference) for _, reference in _references(messages))


def digests_of(messages: Sequence[Message]) -> list[str]:
    """The sha256 of each medium that has one, in order."""
    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    media = [inner[1] for content in contents for part in content if (inner := _as_medium(part))]
    return [inner["sha256"] for inner in media if "sha256" in inner]


def _as_medium(part: Any) -> tuple[str, Part] | None:
    """What a part in the one form holds, and the object with its url."""
    kind = part.get("type") if isinstance(part, dict) else None
    inner = part.get(kind) if isinstance(kind, str) and (kind in FORMS or kind == "file") else None
    if kind is None or not isinstance(inner, dict) or not isinstance(inner.get("url"), str):
        return None
    return FORMS.get(kind, "file"), inner


def _references(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """(what it is, reference) of all media, in order."""
    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    return [(inner[0], inner[1]["url"]) for content in contents for part in content if (inner := _as_medium(part))]


def _in_one_form(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part_in_one_form(part) for part in content]}


def _part_in_one_form(part: Part) -> Part:
    """A part of any dialect in the one form; one without a reference, which is a mark, as `{"type": "image"}`. What is
    neither stays as it is."""
    kind = part.get("type") or next((name for name in (*MEDIA, *FORMS) if name in part), None)
    medium, rest = KINDS.get(str(kind)), {name: value for name, value in part.items() if name != "type"}
    inner = rest.get(str(kind))
    inner = inner if isinstance(inner, dict) else rest
    if medium is None or inner.get("file_id"):
        return part
    if kind == "input_audio" and _from_base64(inner.get("data"), "audio"):
        return part
    if medium == "file":
        return _file(part, inner)
    try:
        reference = reference_of(rest, medium)
    except ValueError as error:
        raise MediaError(f"a part of the type {kind}: {error}") from None
    if reference is not None:
        detail = inner.get("detail")
        return part_of(medium, {"url": reference, **({"detail": detail} if isinstance(detail, str) else {})})
    mark = {name: value for name, value in rest.items() if name == "index" or _holds_something(value)}
    return {"type": medium, **mark} if mark.keys() <= {"index"} else part


def _file(part: Part, inner: Part) -> Part:
    """A part with a file: as it is where it brings its bytes or a URL, else with the path as its url."""
    data, place = inner.get("file_data"), inner.get("file_url")
    if isinstance(data, str) and (scheme_of(data) == "data" or _is_base64(data)):
        return part
    if isinstance(place, str) and not is_local(place):
        return part
    named = {name: value for name, value in inner.items() if name not in (*BYTES, "filename")}
    reference = data or reference_of(named, "file") or inner.get("filename")
    return part_of("file", {"url": reference}) if isinstance(reference, str) else part


def _holds_something(value: Any) -> bool:
    """Whether a value is more than nulls."""
    return any(map(_holds_something, value.values())) if isinstance(value, dict) else value is not None


def reference_of(value: Any, medium: str) -> str | None:
    """The reference that a value of any form is; None where it has none.

    Raises ValueError for bytes that are not those of such a medium.
    """
    if isinstance(value, str):
        return _from_base64(value, medium) or value or None
    if not isinstance(value, Mapping):
        return None
    for key in BYTES:
        if (data := value.get(key)) is not None:
            if isinstance(data, str) and scheme_of(data) == "data":
                return data
            if found := _from_base64(data, medium):
                return found
            raise ValueError(f"{key} does not hold base64 of a {medium}, by its first bytes")
    return next((found for key in REFERENCES if (found := reference_of(value.get(key), medium))), None)


def _from_base64(text: Any, medium: str) -> str | None:
    """Base64 of a picture, a video or a sound as a data URL; None for anything else."""
    if not isinstance(text, str) or len(text) < 24:
        return None
    try:
        kind = media_type(base64.b64decode(text[:88], validate=True))
    except (binascii.Error, ValueError):
        return None
    if kind is None or not holds(kind, medium) or not _is_base64(text):
        return None
    return f"data:{kind};base64,{text}"


def _is_base64(text: str) -> bool:
    """Whether text is base64 of some length, and not a name."""
    try:
        return len(text) >= 24 and bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


def _column(row: Mapping[str, Any], medium: str, messages: Sequence[Message]) -> tuple[str, list[str]] | None:
    """The name of the column that holds a row's pictures, videos or sounds, and the references in it.

    `images` always does. A column `image`, `image_url` or `image_path` may be something else, as the name of a
    container: it does where a message has a mark, or where its value is a path, a URL, or has bytes.
    """
    names = (f"{medium}s", medium, f"{medium}_url", f"{medium}_path")
    found = ((name, _in_column(name, row[name], medium, messages)) for name in names if row.get(name) is not None)
    return next(((name, listed) for name, listed in found if listed is not None), None)


def _in_column(name: str, value: Any, medium: str, messages: Sequence[Message]) -> list[str] | None:
    """The references in a column; None where it holds something else."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = parse(value)
        except ValueError as error:
            raise MediaError(f"{name} cannot be read: {error}") from None
    items = [item for item in (value if isinstance(value, list) else [value]) if item is not None]
    if (
        name != f"{medium}s"
        and not _marks(messages, medium)
        and not all(_looks_like_media(item, medium) for item in items)
    ):
        return None
    references = []
    for number, item in enumerate(items):
        try:
            reference = reference_of(item, medium)
        except ValueError as error:
            raise MediaError(f"{name}[{number}]: {error}") from None
        if reference is None:
            raise MediaError(f"{name}[{number}] is neither a path or URL nor an object with path, url or bytes")
        references.append(reference)
    return references


def _looks_like_media(value: Any, medium: str) -> bool:
    if not isinstance(value, str):
        return isinstance(value, Mapping) and not value.keys().isdisjoint((*REFERENCES, *BYTES))
    text = value.strip()
    is_path = text.startswith(("/", "~", "./", "../")) or text.lower().endswith(SUFFIXES)
    return is_path or scheme_of(text) is not None or _from_base64(text, medium) is not None


def _is_mark(part: Part, medium: str) -> bool:
    return part.get("type") == medium and part.keys() <= {"type", "index"}


def _has_empty_part(messages: Sequence[Message], medium: str) -> bool:
    """Whether a part says that a medium belongs there and has none."""
    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    return any(_is_mark(part, medium) for content in contents for part in content)


def _marks(messages: Sequence[Message], medium: str) -> int:
    """How often the messages say that a medium belongs there."""
    mark, number = f"<{medium}>", 0
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else [{"type": "text", "text": content or ""}]:
            number += part["text"].count(mark) if part.get("type") == "text" else _is_mark(part, medium)
    return number


def _placed(messages: Sequence[Message], media: Mapping[str, list[str]]) -> list[Message]:
    """The messages with each medium where its mark is, or before the first user's text."""
    if not media:
        return list(messages)
    waiting = {medium: iter(references) for medium, references in media.items() if _marks(messages, medium)}
    unmarked = [
        part_of(medium, {"url": reference})
        for medium, references in media.items()
        if medium not in waiting
        for reference in references
    ]
    marks = re.compile(f"<({'|'.join(waiting)})>") if waiting else re.compile("(?!)")
    placed = []
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        new = [made for part in parts for made in _replaced(part, marks, waiting)]
        if unmarked and message["role"] == "user":
            new, unmarked = [*unmarked, *new], []
        placed.append({**message, "content": new} if new != parts else message)
    if unmarked:
        raise MediaError("the row has media and no user message to put them into: write marks such as <image>")
    return placed


def _replaced(part: Part, marks: re.Pattern[str], waiting: Mapping[str, Any]) -> list[Part]:
    """A part with the media that its marks stand for."""
    medium = str(part.get("type"))
    if medium in waiting and _is_mark(part, medium):
        return [part_of(medium, {"url": next(waiting[medium])})]
    if part.get("type") != "text" or not marks.search(part["text"]):
        return [part]
    made: list[Part] = []
    start = 0
    for match in marks.finditer(part["text"]):
        medium = match[1]
        made += [{"type": "text", "text": part["text"][start : match.start()]}] if match.start() > start else []
        made.append(part_of(medium, {"url": next(waiting[medium])}))
        start = match.end()
    return made + ([{"type": "text", "text": part["text"][start:]}] if start < len(part["text"]) else [])
