"""Places at which a test may kill the process: before and after each step that makes something durable.

`ROLLOUTOPS_FAILPOINT=name` kills at the first passage of that place, `name:3` at the third. Without the variable a
failpoint is one comparison.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("ROLLOUTOPS_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def failpoint(name: str) -> None:
    """Die here, as by `kill -9`, if a test asked for it."""
    global _left
    if name == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
