"""What a model wrote, where its server refuses the answer that it made of it, or cannot read it.

The request was fine and the sample is the policy's own: to ask again would draw until a sample can be read, and raise
the pass rate. Groq answers 400 with the text in `failed_generation` (groq-typescript issues 28 and 103), OpenRouter
and others hand that on as text. llama.cpp answers 500 with what it could not parse (issues 20532, 23838), later
versions without it (`does not match the expected peg-native format`); Ollama with `raw='…'` (issues 12884, 17638) or
an XML error; TGI with the text quoted (router/src/server.rs, ToolError); vLLM with pydantic's error of a required tool
call. Where the text is not shown the sample is an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from rolloutops.formats.finish_reasons import GENERATION_REFUSED
from rolloutops.formats.refusals import DEPTH, read_error
from rolloutops.formats.tool_calls import as_text
from rolloutops.types import Limits, ModelAnswer

CODES = frozenset({"tool_use_failed", "json_validate_failed", "output_parse_failed"})
"""Codes of Groq for an answer that it does not hand out."""
KEY = "failed_generation"
"""Where it has the answer's text."""
SHOWN = (
    re.compile(r"failed to parse input at pos \d+: ?(.*)", re.IGNORECASE | re.DOTALL),
    re.compile(r"error parsing tool call: raw='(.*)', err=", re.DOTALL),
    re.compile(r'failed to parse generated text: .*? (?="\S|"")(".*")\s*$', re.IGNORECASE | re.DOTALL),
)
"""How llama.cpp, Ollama and TGI show the text."""
HIDDEN = re.compile(
    r"model produced output that does not match the expected|error parsing tool call|^XML syntax error on line"
    r"|failed to parse input at pos|validation error for list\[function-wrap",
    re.IGNORECASE,
)
"""How llama.cpp, Ollama and vLLM refuse an answer without its text."""


def failed_answer(body: bytes, model: str, limits: Limits | None = None) -> ModelAnswer | None:
    """The answer that a refusal's body is about; None where it is about something else."""
    try:
        error = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    said = read_error(error)
    text = _text(error, said.text)
    if text is None and CODES.isdisjoint(said.codes) and not HIDDEN.search(said.text):
        return None
    return ModelAnswer(
        message={"role": "assistant", "content": text or ""},
        finish_reason=GENERATION_REFUSED,
        model=model,
        raw=body.decode(errors="replace"),
        limits=limits,
        refusal=said.text[:2048],
    )


def _text(error: Any, reason: str) -> str | None:
    """The text of the answer, under its key at any depth or in the reason."""
    for place in _objects(error, 0):
        if place.get(KEY) is not None:
            return as_text(place[KEY])
    for shown in SHOWN:
        if found := shown.search(reason):
            return _unquoted(found[1])
    return None


def _objects(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """The objects in a body, also in JSON that stands there as text."""
    if depth > DEPTH:
        return
    if isinstance(value, str) and KEY in value and value.lstrip()[:1] in ("{", "["):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _objects(each, depth + 1)


def _unquoted(text: str) -> str:
    """Text without the quotes and escapes around it, where it has them."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return found if isinstance(found, str) else text
