"""Random `kill -9` against a server that knows what it delivered. Small here; ROLLOUTOPS_FULL=1 makes it 20 kills in
5,000 rollouts, and `python -m tests.reliability.storm` prints the figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.storm import KINDS, storm

WANTED, KILLS = (5000, 20) if os.environ.get("ROLLOUTOPS_FULL") else (300, 3)


@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS)
def test_kills_cost_what_was_in_flight(tmp_path: Path, how: dict[str, Any]) -> None:
    found = storm(tmp_path, WANTED, KILLS, **how)
    assert (found.rollouts, found.twice) == (found.wanted, 0)
    assert found.kills == KILLS
    assert found.unexcused == 0, "what a collector that lives asked for is not asked for again"
    # In the full size, on a machine that lets a process run, nothing is older than 0.2 s; a test waits for no machine.
    assert found.oldest < 5, f"an answer {found.oldest:.1f} s old was lost"
    assert found.again - found.lost <= found.in_flight
