"""Names of earlier versions, which programs may still read: kept in JSON for one version, beside the present ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OLD_NAMES = {
    "pending": "owed",
    "submitted": "in_flight",
    "verified": "judged",
    "unverified": "unjudged",
    "cost_pending": "cost_owed",
}


def with_old_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a row the names that its values had in earlier versions."""
    return {**row, **{old: row[name] for name, old in OLD_NAMES.items() if name in row}}
