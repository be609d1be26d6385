"""The wall time at which a command has to have ended: how early nothing new is started, so that little is lost."""

from __future__ import annotations

import re
import time
from collections import deque
from datetime import datetime, timedelta

from rolloutops.errors import UsageError

CLOSING = 2.0
"""Seconds before the end in which what has come is sealed and nothing runs."""
LATEST = 200
"""Attempts whose duration counts."""
SHARE = 0.9
"""Share of the attempts that would end in time, were they started as late as possible."""
UNIX = 1e9
"""A number from here on is a time (seconds since 1970), as SLURM_JOB_END_TIME is; a smaller one counts from now."""


class StopTime:
    """When a command has to have ended, and the attempts so far, which tell how long before it the last one starts.

    at: seconds since 1970.
    """

    def __init__(self, at: float) -> None:
        self.at = at
        self._began = time.time()
        self._seconds: deque[float] = deque(maxlen=LATEST)
        self._ending = False

    def count(self, seconds: float) -> None:
        """Count an attempt that took so long."""
        self._seconds.append(seconds)

    def seconds_left(self) -> float:
        """Seconds that what runs may still take."""
        return max(0.0, self.at - CLOSING - time.time())

    def last_call(self) -> str:
        """The time of day at which what still runs is ended."""
        return f"{datetime.fromtimestamp(self.at - CLOSING):%H:%M:%S}"

    def is_due(self) -> bool:
        """Whether nothing new may start. It stays so."""
        self._ending = self._ending or time.time() >= self.at - self._lead()
        return self._ending

    def _lead(self) -> float:
        """Seconds before the end at which the last attempt starts: what most attempts take, at most half of the time
        that there was."""
        taken = sorted(self._seconds)
        usual = taken[int(SHARE * (len(taken) - 1))] if taken else 0.0
        return min(CLOSING + usual, max(0.0, self.at - self._began) / 2)


def parse_stop_time(text: str, now: float | None = None) -> float:
    """`3600` (seconds from now), `1796000000` (seconds since 1970), `17:30` (the next time it is so), or an ISO date
    and time -> seconds since 1970. Raises UsageError for any other text, and for a time that is over."""
    now = time.time() if now is None else now
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        at = float(text) if float(text) >= UNIX else now + float(text)
    else:
        try:
            at = _of_clock(text, datetime.fromtimestamp(now).astimezone())
        except ValueError:
            raise UsageError(
                f"--stop_at expects seconds from now, a time as 17:30, or a date and time as 2026-11-30T17:30, "
                f"got {text!r}"
            ) from None
    if at <= now:
        raise UsageError(f"--stop_at={text} is over: it is {datetime.fromtimestamp(now):%Y-%m-%d %H:%M:%S}")
    return at


def _of_clock(text: str, now: datetime) -> float:
    if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text):
        hour, minute, second = (*map(int, text.split(":")), 0)[:3]
        at = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
        return (at if at > now else at + timedelta(days=1)).timestamp()
    return datetime.fromisoformat(text).astimezone().timestamp()
