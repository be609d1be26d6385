"""A session of an agent as what a row says."""

from __future__ import annotations

from collections import Counter

from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.sessions.session import Session
from rolloutops.types import RolloutAnswer


def session_row(session: Session, raw: str) -> RolloutRow:
    """A session's task and its one rollout. raw: what it was read from, as one JSON value. Events that are left aside
    are named once each time that they occur."""
    answer = RolloutAnswer(
        completion=session.completion,
        finish_reason=session.finish_reason,
        model=session.model,
        returned=None if session.reward is None else {**session.details, "reward": session.reward},
        verifier=session.agent,
        raw=raw,
        turns=sum(said["role"] == "assistant" for said in session.completion),
        tool_names=[call["function"]["name"] for said in session.completion for call in said.get("tool_calls", ())],
        input_tokens=session.tokens.input,
        output_tokens=session.tokens.output,
        reasoning_tokens=session.tokens.reasoning,
        cached_tokens=session.tokens.cached,
    )
    tools = {"tools": session.tools} if session.tools else {}
    return RolloutRow(
        {"messages": session.prompt, **tools, **session.task},
        [answer],
        model=session.model,
        left_out=list(Counter(session.left_aside).elements()),
        shape=f"{session.agent} session",
        started_at=session.started_at,
    )
