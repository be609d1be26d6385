"""Real rollouts for the tests of formulas."""

from __future__ import annotations

import pytest

from rolloutops.store import sql
from tests import gsm8k as data


@pytest.fixture(scope="module")
def gsm8k() -> sql.Connection:
    """1,319 problems and the answers of four models, taken as four rollouts of each."""
    return data.workspace()
