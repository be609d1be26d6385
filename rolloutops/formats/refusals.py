"""Why an endpoint refused: the reason, the codes and the pause in the body of its reply, whatever its shape, and the
failure that they mean.

Providers nest the reason that helps. OpenRouter puts the body of the server behind it, as text, into
`error.metadata.raw`; Gemini answers with a list and has `details`; FastAPI (vLLM, SGLang) has `detail: [{loc, msg}]`;
Mistral has an object for a message; a firewall sends a page. So the reason is looked for under the names that hold one,
at any depth.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from rolloutops.errors import AttemptFailed
from rolloutops.formats.event_stream import is_stream, read_stream

KEPT = 2048
"""Characters of a reply that are kept beside its reason."""
DEPTH = 8
"""Levels below which no reason is looked for."""

REASONS = (
    *("message", "msg", "detail", "details", "error", "errors", "error_message", "error_description", "description"),
    *("raw", "metadata", "innererror", "inner_error", "cause", "reason", "reasons", "fieldViolations", "failure"),
    *("promptFeedback", "prompt_feedback", "blockReasonMessage", "title", "failure_reason"),
)
"""Keys under which a reason stands, or something that holds one."""
CODES = (
    *("code", "type", "status", "reason", "error_code", "errorCode", "blockReason", "block_reason", "reasons"),
    *("finish_reason", "finishReason", "failure_kind", "limit_source"),
)
"""Keys under which a code stands, that of the first being shown."""
FLAGGED = ("flagged_input", "content_filter_result", "content_filter_results", "moderation")
"""Keys that only a content filter writes."""

OUT_OF_MONEY = re.compile(
    r"(insufficient|exceeded).{0,9}(quota|balance|credit|funds)|balance.{0,9}insufficient"
    r"|(spend|budget|credit|balance).{0,9}(limit|exhaust|exceed|deplet)|^billing|payment.?required|arrear"
    r"|^organization_usage_limit|^blocked_api_access$|^openrouter_(credits|key_limit|\w+_budget)$|^1113$",
    re.IGNORECASE,
)
"""Codes of an account without money, or at a limit of spending that somebody set: waiting does not heal it, whatever
the status. OpenAI, Anthropic, OpenRouter, Groq, LiteLLM, DeepSeek, Moonshot, DashScope, Zhipu, One API."""
NO_MONEY = re.compile(
    r"insufficient (account )?(balance|credits?|funds)|(credit )?balance is too low|out of credits"
    r"|used all (of your )?available credits|not enough credits|requires more credits|negative credit balance"
    r"|credits (are|have been) (depleted|exhausted)|key limit exceeded|(spend|spending|billing) (limit|cap)\b"
    r"|(reached|hit|exceeded) (your|the) (\w+ ){0,4}usage limit|budget (limit |has been |was )*exceeded",
    re.IGNORECASE,
)
"""The same in words: Anthropic, xAI, OpenRouter, DeepSeek, Gemini, Groq, LiteLLM."""
IN_FLIGHT = re.compile(r"in.?flight", re.IGNORECASE)
"""Codes of OpenRouter where requests that still run hold the balance: it is free again when they end."""

BAD_KEY = re.compile(
    r"^(api_key_(invalid|expired)|invalid_api_key|unsupported_country|organization_restricted|account_deactivated"
    r"|consumer_(suspended|invalid))",
    re.IGNORECASE,
)
"""Codes of a key or an account that is refused with another status than 401, whatever it asks: Gemini's 400, OpenAI's
403 of a country, Groq's 400 of an organization."""
KEY_WORDS = re.compile(
    r"api.?key\b.{0,30}\b(leaked|revoked|disabled|expired|suspended)|user location is not supported", re.IGNORECASE
)
"""The same in words: Gemini."""
THROTTLED = re.compile(
    r"rate.?limit|throttl|capacity.?exceeded|too.?many.?requests|slow.?down|overloaded", re.IGNORECASE
)
"""Codes of what passes, with another status than 429: Groq's 498, Bedrock's 400."""

FILTERED = re.compile(
    r"content.?(filter|policy|moderation|blocked|violation|safety)|moderation|responsible.?ai|prohibited.?content"
    r"|^(image.?)?safety|^blocklist$|^spii$|^recitation$|data.?inspection|guardrail|policy.?violation|^(bio|cyber).?policy"
    r"|^(new.?)?sensitive|unsafe|jailbreak|^invalid_prompt$|error.?toxic|flagged|^refusal$|^1301$",
    re.IGNORECASE,
)
"""Codes of content filters: OpenAI, Azure, Gemini, Mistral, Groq, DashScope, Zhipu, MiniMax, Bedrock."""
FILTERED_WORDS = re.compile(
    r"content (management )?polic|content.?filter|moderation"
    r"|(input|prompt|request|content|message|text|output)s?\b.{0,40}\bflagged|flagged (as|for)\b"
    r"|content exists risk|safety (system|filter|setting|polic)|usage polic|acceptable use|prohibited content"
    r"|responsible ai|\bguardrails?\b|sensitive (content|words)|inappropriate content|data inspection"
    r"|violat\w+ (of )?(our|the|your|openai|azure|google|usage|content|safety)\b.{0,60}polic",
    re.IGNORECASE,
)
"""The same in words, where the status is a refusal of this request."""
OF_THE_ACCOUNT = re.compile(r"\b(account|organi[sz]ation|api key|project)\b", re.IGNORECASE)
"""Where a filter's words are about these, it is not the prompt that was refused."""

TOO_LONG = re.compile(
    r"context.?(length|window|size|limit)|max_model_len|maximum (model|prompt|input|allowed input) length"
    r"|(prompt|input|request|string)s? (is |are )?too (long|large)|\bkv.?cache\b|range of input length"
    r"|(input|prompt).{0,20}\b(tokens?( count)?|length)\b.{0,40}exceed|exceed\w* (the )?(model|maximum) token"
    r"|too many (input |prompt )?tokens|reduce the (length of|number of tokens)"
    r"|`inputs` (tokens \+ `max_new_tokens` )?must",
    re.IGNORECASE,
)
"""How servers say that a prompt does not fit: OpenAI, Azure and vLLM, SGLang, llama.cpp, Ollama, LM Studio, Anthropic,
Gemini, Groq, Mistral, xAI, Moonshot, DashScope, Copilot, TGI."""
LONG_CODES = re.compile(
    r"context.?(length|window|size)|^request_too_large$|^string_(too_long|above_max_length)$|^tokens_limit_reached$",
    re.IGNORECASE,
)
"""Their codes, whatever the status: llama.cpp says 500, or 200."""
NEVER_FITS = re.compile(r"request too large|\blimit:? ?([\d,]+), requested:? ?([\d,]+)", re.IGNORECASE)
"""How OpenAI (429) and Groq (413) refuse a request that alone is more than a minute's tokens: it never gets through."""

DELAYS = {"retrydelay": 1.0, "retry_after": 1.0, "retryafter": 1.0, "retry_after_seconds": 1.0, "estimated_time": 1.0}
DELAYS |= {"retry_after_ms": 0.001, "retryafterms": 0.001, "retryafterseconds": 1.0, "retry_after_secs": 1.0}
"""Keys, in lower case, whose value is a pause; the seconds that its unit is."""
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SPAN = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)(?![a-z])"
)
PAUSE = re.compile(
    r"(?:try(?:ing)? again|retry(?:ing)?|wait|available(?: again)?)\W+"
    r"(?:(?:in|after|for|at least|about|another)\W+){0,2}"
    r"((?:[0-9.]+\s*[a-z]+[\s,]*(?:and\s+)?){1,4})",
    re.IGNORECASE,
)
"""`Please try again in 6m0s`, `retry after 10 seconds`, `Please retry in 34.07s`."""


@dataclass
class Refusal:
    """What a body says: reasons in the order in which they stand, codes, and the pause that it asks for."""

    reasons: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    pause: float | None = None
    flagged: bool = False

    @property
    def text(self) -> str:
        """The reasons as one: what is part of another one is not repeated."""
        kept: list[str] = []
        for reason in self.reasons:
            if not any(reason in other for other in kept):
                kept = [other for other in kept if other not in reason] + [reason]
        return "; ".join(kept)

    @property
    def code(self) -> str:
        """The code that is shown."""
        return self.codes[0] if self.codes else ""

    def has(self, pattern: re.Pattern[str]) -> bool:
        """Whether a code is of that form."""
        return any(pattern.search(code) for code in self.codes)

    @property
    def filtered(self) -> bool:
        """Whether a code says that a content filter refused."""
        return self.flagged or self.has(FILTERED)


def read_body(body: bytes) -> Refusal:
    """What the body of a refusal says: JSON of any shape, a page, or text."""
    try:
        return read_error(read_stream(body)) if is_stream(body) else read_error(orjson.loads(body))
    except AttemptFailed:
        return Refusal([body[:KEPT].decode(errors="replace")])
    except orjson.JSONDecodeError:
        text = body[: 16 * KEPT].decode(errors="replace").strip()
        shown = _page(text) if re.match(r"(?s)\s*(<!--.*?-->\s*)?<(!doctype|html|head)", text, re.IGNORECASE) else text
        return Refusal([shown[:KEPT]] if shown else [], pause=_pause_in(shown))


def read_error(error: Any) -> Refusal:
    """What an error says, as parsed from JSON: an object, a list, a text."""
    found = Refusal()
    if isinstance(error, Mapping) and isinstance(error.get("error"), Mapping | list | str) and error["error"]:
        _read(error["error"], found, 0)  # what is next to it comes after it
    _read(error, found, 0)
    if not found.reasons and error not in (None, {}, []):
        found.reasons.append(error if isinstance(error, str) else orjson.dumps(error, default=str).decode()[:KEPT])
    if found.pause is None:
        found.pause = _pause_in(found.text)
    return found


def refused(
    status: int, refusal: Refusal, *, raw: str | None = None, final: bool | None = None, pause: float | None = None
) -> AttemptFailed:
    """The failure that a refusal means. status: as HTTP has it; 200 for an error inside an answer whose code says
    nothing. pause: the one in its headers, which is exact. final: what its headers say."""
    wait = refusal.pause if pause is None else pause
    kind = _kind(status, refusal, waits=wait is not None)
    if kind in ("unauthorized", "content_filter", "forbidden"):
        final = None
    text, code = refusal.text, refusal.code
    shown = f"{status} {code}: {text}" if code and code != str(status) else f"{status}: {text}"
    return AttemptFailed(kind, shown, final=final, retry_after=wait, raw=raw)


def _kind(status: int, refusal: Refusal, waits: bool) -> str:
    """waits: it says how long to wait."""
    text = refusal.text
    if status == 402 and (waits or refusal.has(IN_FLIGHT)):
        return "rate_limited"
    if status in (401, 402) or refusal.has(OUT_OF_MONEY):
        return "unauthorized"
    if status in (400, 403, 429) and NO_MONEY.search(text):
        return "unauthorized"
    if status in (400, 403) and (refusal.has(BAD_KEY) or KEY_WORDS.search(text)):
        return "unauthorized"
    if refusal.has(LONG_CODES) or status == 413 or (status == 429 and _never_fits(text)):
        return "context_length"
    if status in (429, 498) or (status in (400, 403) and refusal.has(THROTTLED)):
        return "rate_limited"
    if refusal.filtered:
        return "content_filter"
    if status in (400, 403, 422, 451) and FILTERED_WORDS.search(text) and not OF_THE_ACCOUNT.search(text):
        return "content_filter"
    if status == 403:
        return "forbidden"
    if status == 408:
        return "timeout"
    if status in (409, 424, 425) or status >= 500:
        return "server_error"
    if TOO_LONG.search(text):
        return "context_length"
    return "bad_request" if status >= 400 else "bad_response"


def _never_fits(text: str) -> bool:
    """Whether a rate limit's words say that the request alone is more than the limit."""
    said = NEVER_FITS.search(text)
    if said is None or said[1] is None:
        return said is not None
    limit, requested = (int(number.replace(",", "") or 0) for number in said.groups())
    return requested > limit


def _read(value: Any, refusal: Refusal, depth: int) -> None:
    """Take in what a value says. Each is read once, where it stands first."""
    if depth > DEPTH:
        return
    if isinstance(value, str):
        _read_text(value, refusal, depth)
    elif isinstance(value, list):
        for each in value[:20]:
            _read(each, refusal, depth + 1)
    elif isinstance(value, Mapping):
        for key in CODES:
            inner = value.get(key)
            for code in inner if isinstance(inner, list) else [inner]:
                if isinstance(code, str | int) and not isinstance(code, bool) and code != "":
                    _add(refusal.codes, str(code))
        for key, inner in value.items():
            refusal.flagged |= key in FLAGGED and bool(inner)
            if refusal.pause is None and key.lower() in DELAYS:
                refusal.pause = _seconds(inner, DELAYS[key.lower()])
        if "msg" in value and "loc" in value:  # FastAPI
            place = ".".join(map(str, value["loc"])) if isinstance(value["loc"], list) else str(value["loc"])
            _add(refusal.reasons, f"{place}: {value['msg']}")
            return
        for key in REASONS:
            if key in value:
                _read(value[key], refusal, depth + 1)


def _read_text(text: str, refusal: Refusal, depth: int) -> None:
    """A reason; or JSON as text, which holds one."""
    text = text.strip()
    if text[:1] in ("{", "["):
        try:
            inner = orjson.loads(text)
        except orjson.JSONDecodeError:
            inner = None
        if inner:
            _read(inner, refusal, depth + 1)
            return
    if text:
        _add(refusal.reasons, _page(text) if text[:1] == "<" else text[:KEPT])


def _add(to: list[str], text: str) -> None:
    if text not in to:
        to.append(text)


def _page(text: str) -> str:
    """A page's title, and the beginning of what else it says."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    rest = re.sub(r"(?is)<(script|style|title|head)\b.*?</\1>|<!--.*?-->|<[^>]*>", " ", text)
    said = [html.unescape(" ".join(part.split())) for part in (title[1] if title else "", rest)]
    return ": ".join(dict.fromkeys(part[:500] for part in said if part))


def _pause_in(text: str) -> float | None:
    """The pause that a sentence asks for, in seconds."""
    found = PAUSE.search(text)
    return _span(found[1]) if found else None


def _seconds(value: Any, unit: float) -> float | None:
    """A pause as a number, as `34s`, or as Google's {seconds, nanos}."""
    if isinstance(value, Mapping):
        value = f"{value.get('seconds', 0)}.{int(value.get('nanos', 0) or 0):09d}"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value) * unit
    except ValueError:
        return _span(str(value))
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _span(text: str) -> float | None:
    """`6m0s`, `20ms`, `1 hour and 2 minutes`; a number alone is seconds."""
    found = list(_spans(text.lower()))
    if found:
        return sum(found)
    return None


def _spans(text: str) -> Iterator[float]:
    for number, unit in SPAN.findall(text):
        short = "ms" if unit.startswith(("ms", "milli")) else unit[0]
        yield float(number) * UNITS[short]
