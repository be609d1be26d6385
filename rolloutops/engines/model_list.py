"""An endpoint's list of models, `GET /models`, for `check`: whether it has the one that is asked for."""

from __future__ import annotations

from rolloutops.errors import EngineError, did_you_mean
from rolloutops.formats.strict_json import parse

SHOWN = 5
"""Models that are named in the message."""


def refuse_unlisted(model: str, body: bytes, label: str) -> None:
    """Raise EngineError where a list of models is whole, and a model is not in it. Anything else is not a list.

    A name counts also without what stands before its last slash (`models/gemini-2.5-pro`), and without a variant after
    a colon (`deepseek/deepseek-r1:nitro`), which routers do not list.
    """
    try:
        reply = parse(body)
    except ValueError:
        return
    if not isinstance(reply, dict) or not isinstance(reply.get("data"), list) or reply.get("has_more"):
        return
    names = [entry["id"] for entry in reply["data"] if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    wanted = {model, model.partition(":")[0]}
    if not names or any(name in wanted or name.rpartition("/")[2] in wanted for name in names):
        return
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise EngineError(
        f"{label} has no model {model!r}{did_you_mean(model, names)}; it has: {', '.join(names[:SHOWN])}{more}"
    )
