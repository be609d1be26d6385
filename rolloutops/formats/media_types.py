"""What a file is by its first bytes: a picture, a video, a sound, or none of these.

The signatures: https://mimesniff.spec.whatwg.org (July 2025), sections 6.1 and 6.2; of formats that it does not have,
their own specifications. A signature that text could begin with is not enough: of BMP and MPEG more bytes are read, and
text is none of them, whatever its first letters.
"""

from __future__ import annotations

import base64

HEAD = 64
"""Bytes from which the type of a file can be told."""


def media_type(head: bytes) -> str | None:
    """The media type that the first HEAD bytes of a file tell, e.g. image/png; None where they are not those of a
    picture, a video or a sound."""
    known = next((kind for start, kind in STARTS if head.startswith(start)), None)
    if known:
        return None if _is_text(head) else known
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12].strip(), "video/mp4")
    if head[:4] == b"\x1aE\xdf\xa3":
        return "video/webm" if b"webm" in head else "video/x-matroska"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "audio/aiff"
    if head[:2] == b"BM" and head[6:10] == bytes(4) and head[14:18] in BMP_HEADERS:
        return "image/bmp"
    if len(head) > 2 and head[0] == 0xFF and head[1] in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3) and head[2] >> 4 != 15:
        return "audio/mpeg"
    if len(head) > 2 and head[0] == 0xFF and head[1] in (0xF1, 0xF9) and head[2] >> 2 & 15 < 13:
        return "audio/aac"
    return None


def _is_text(head: bytes) -> bool:
    """Whether bytes are text, which may begin with letters that are a signature too, as in `ID3 tags are`. Headers have
    bytes that text does not have."""
    text = head.decode(errors="ignore")  # its last letter may be cut
    return len(text.encode()) > len(head) - 4 and all(letter.isprintable() or letter in "\t\n\r\f" for letter in text)


STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\1\xba", "video/mpeg"),
    (b"\0\0\1\xb3", "video/mpeg"),
    (b"FLV\1", "video/x-flv"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"#!AMR", "audio/amr"),
)
BRANDS = {b"avif": "image/avif", b"heic": "image/heic", b"heix": "image/heic", b"mif1": "image/heic"}
BRANDS |= {b"qt": "video/quicktime", b"M4A": "audio/mp4", b"M4B": "audio/mp4"}
BMP_HEADERS = [size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)]

CONTAINERS = frozenset({"video/mp4", "video/webm", "video/quicktime", "video/x-matroska", "audio/ogg", "image/gif"})
"""Types of files that may hold a video or a sound."""


AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "mp4": "m4a"}
"""Media types of sounds -> what OpenAI calls the format, where the names differ."""


def holds(kind: str, medium: str) -> bool:
    """Whether a file of this media type can be a picture, a video or a sound, whichever is wanted."""
    moving = medium in ("video", "audio") and kind in CONTAINERS and not (medium == "audio" and kind == "image/gif")
    return medium == "file" or kind.startswith(f"{medium}/") or moving


def data_url(kind: str, data: bytes) -> str:
    """Bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
