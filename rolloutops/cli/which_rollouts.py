"""The rollouts that a command line names: by KEY, attempt_id or part of a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rolloutops.errors import UsageError
from rolloutops.layout import count

CANDIDATES = 8
"""Rollouts that the sentence about an ambiguous key lists."""


def only(key: str, candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the one rollout that a key names; raise UsageError if it names none, or several."""
    from rolloutops.store.find_rollouts import key_of

    if not candidates:
        raise UsageError(
            f"no rollout is named {key!r}: a key is dataset/task_id/policy/rollout_index, a part of it, or an "
            'attempt_id; rolloutops sql "SELECT dataset, task_id, policy, rollout_index FROM rollouts" lists them'
        )
    if len(candidates) > 1:
        error = UsageError(f"{key!r} fits {count(len(candidates), 'rollout')}; name one of them:")
        for one in candidates[:CANDIDATES]:
            error.add_note(f"  {key_of(one)}")
        if len(candidates) > CANDIDATES:
            error.add_note(f"  and {len(candidates) - CANDIDATES:,} more")
        raise error
    return candidates[0]
