"""What tests are given: rows written in a test as a workspace's views (rolloutops/golden), and real data."""

from __future__ import annotations

from pathlib import Path

from rolloutops.build.golden_rows import dump, table, workspace

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
"""Real data beside the checkout; tests that read it are skipped where it is absent."""

__all__ = ["SHARED", "dump", "table", "workspace"]
