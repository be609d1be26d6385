"""A limit that an endpoint advertises in its headers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class AdvertisedLimit:
    """A limit that the endpoint's headers tell: so much per second, and what is left of it, carried forward."""

    per_second: float = 0.0
    left: float = 0.0
    most: float = 0.0
    stamp: float = 0.0
    heard: float = -1.0

    def hear(self, per_minute: float | None, left: float | None, sent_at: float, now: float, since: float) -> None:
        """Take in the headers of an answer to a request of `sent_at`; `since` has been sent after it."""
        if per_minute is None or left is None or sent_at < self.heard:
            return
        self.wait(now, 0)  # brings `left` to now
        first, self.per_second, self.heard, self.stamp = not self.per_second, per_minute / 60, sent_at, now
        self.most = max(self.most, left + 1)
        least, most = left - since, min(self.most, left + self.per_second * (now - sent_at) - since)
        if first or self.left > most:
            self.left = most
        elif self.left < least:  # or this request overtook others on its way: believed only bit by bit
            self.left += (least - self.left) / 16

    def wait(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be sent. One more is kept in hand: requests overtake each other on their way."""
        if not self.per_second:
            return 0.0
        self.left = min(self.most, self.left + self.per_second * (now - self.stamp))
        self.stamp = now
        return max(0.0, (min(amount + 1, self.most) - self.left) / self.per_second)
