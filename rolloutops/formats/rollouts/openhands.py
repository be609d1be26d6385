"""Rows of OpenHands' evaluations (`output.jsonl`), whose `history` is a session (`formats/sessions/openhands.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rolloutops.formats.rollouts.row import RolloutRow
from rolloutops.formats.rollouts.session import session_row
from rolloutops.formats.sessions import openhands

LABEL, ENGINE = "OpenHands evaluation", "import:openhands"
READ = (
    *("instance_id", "instance", "instruction", "metadata", "metrics", "error"),
    *("test_result", "report", "resolved", *openhands.LISTS),
)


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row is one instance of an evaluation."""
    return openhands.recognizes_row(row)


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """The instance's session, with its reward. Raises ValueError where it has no prompt or no answer."""
    found = session_row(openhands.read_row(row), raw)
    return replace(found, left_out=[*found.left_out, *(key for key in row if key not in READ)])
