"""What a command has to do, as read from recipe, flags and plug-ins."""

from __future__ import annotations

from collections.abc import Mapping

from rolloutops.config.settings import Collect

CollectPlan = Mapping[tuple[str, str], Collect]
"""(dataset, policy) -> how it is collected."""
