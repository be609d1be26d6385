"""Trajectories of SWE-agent: `NAME.traj`, one document a run.

Source: SWE-agent/SWE-agent 05ff843 (sweagent/types.py) and docs/usage/trajectories of 1.1. `history` has the messages,
with demonstrations (`is_demo`) before the task; `trajectory` has the same steps once more, with the state after each;
`info` has the exit status and the tokens of all calls; `replay_config` is JSON text with the model and the instance.
The tools are not in the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rolloutops.formats.chat import as_text, from_chat
from rolloutops.formats.sessions.session import INTERRUPTED, Session, Tokens, count_of, halves, objects
from rolloutops.formats.tool_calls import object_in

AGENT = "swe_agent"

Entry = dict[str, Any]


def recognizes(document: Any) -> bool:
    """Whether a document is a trajectory of SWE-agent."""
    if not isinstance(document, dict) or not isinstance(document.get("info"), dict):
        return False
    return all(isinstance(document.get(key), list) for key in ("trajectory", "history"))


def read(document: Mapping[str, Any]) -> Session:
    """The run that a document is. Raises ValueError where it has no prompt or no answer."""
    aside: Counter[str] = Counter()
    entries = objects(document["history"], aside)
    own = [entry for entry in entries if entry.get("agent") in (None, entries[0].get("agent"))]
    aside["message of another agent"] += len(entries) - len(own)
    aside.update(key for key, value in document.items() if key != "history" and value)
    first = max((number for number, entry in enumerate(own, 1) if entry.get("is_demo")), default=0)
    messages = from_chat([_message(entry) for entry in own])
    # Demonstrations are part of the prompt, also where they are turns of a model.
    shown = len(from_chat([_message(entry) for entry in own[:first]]))
    prompt, completion, unanswered = halves(messages[shown:])
    aside["user without an answer"] += len(unanswered)
    info, config = document["info"], object_in(document.get("replay_config"))
    stats = info["model_stats"] if isinstance(info.get("model_stats"), dict) else {}
    instance = _inside(config, "problem_statement", "id")
    return Session(
        AGENT,
        [*messages[:shown], *prompt],
        completion,
        _finish_reason(info),
        model=_inside(config, "agent", "model", "name") or None,
        tokens=Tokens(count_of(stats.get("tokens_sent")), count_of(stats.get("tokens_received"))),
        task={"instance_id": instance} if instance else {},
        left_aside=+aside,
    )


def _message(entry: Entry) -> Entry:
    """A message of the history as one of chat: an output names its call in `tool_call_ids`."""
    ids = entry.get("tool_call_ids")
    if entry.get("role") != "tool" or not isinstance(ids, list) or not ids:
        return entry
    return {**entry, "tool_call_id": ids[0]}


def _finish_reason(info: Mapping[str, Any]) -> str:
    """`info.exit_status`: `submitted` is the model's own end, any other word stays, as `exit_cost`. A run without one
    was killed."""
    status = as_text(info.get("exit_status"))
    return "stop" if status == "submitted" else status or INTERRUPTED


def _inside(value: Any, *keys: str) -> str:
    """The text at a path; empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""
