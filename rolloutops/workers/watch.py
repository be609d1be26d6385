"""The line of a command with workers: what they show, added up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from rolloutops.collect.live import running
from rolloutops.limits.progress import Progress
from rolloutops.store.workspace import Workspace
from rolloutops.workers.supervisor import WorkerEnd


class Watch:
    """Sets the counts of a meter to what the workers of a group show, from when it is made until `finish`.

    say: takes a line for each worker that was started again, None where whoever started it says so."""

    def __init__(
        self, workspace: Workspace, group: str, meter: Progress, say: Callable[[str], None] | None = None
    ) -> None:
        self._say, self._runs = say, dict[int, str]()
        self._workspace, self._group, self._meter = workspace, group, meter
        self._shown: dict[str, dict[str, Any]] = {}  # run -> what it showed last: one that died did that
        self._done_before, self._pending = meter.done_before, meter.pending
        meter.publish = self.look

    def look(self, meter: Progress) -> None:
        """Read what the workers show now."""
        facts = [
            one
            for one in running(self._workspace)
            if one["noun"] == meter.noun and (one.get("worker") or {}).get("group") == self._group
        ]
        self._shown.update((one["run_id"], one) for one in facts)
        for one in facts:
            number, of = one["worker"]["number"], one["worker"]["of"]
            started_again = self._runs.setdefault(number, one["run_id"]) != one["run_id"]
            self._runs[number] = one["run_id"]
            if started_again and self._say is not None:
                self._say(f"worker {number} of {of} was started again, on {one['host']} (process {one['pid']})")
        in_flight = sum(one["in_flight"] for one in facts)
        meter.in_flight = lambda: in_flight
        self._add_up()

    def finish(self, ends: Iterable[WorkerEnd]) -> None:
        """Set the counts to what the workers say of themselves at their end; of those that died, to the last shown."""
        self._meter.publish = lambda _: None
        for end in ends:
            if end.result and end.result["run_id"] in self._shown:
                self._shown[end.result["run_id"]].update(end.result)
        self._meter.in_flight = lambda: 0
        self._add_up()

    def _add_up(self) -> None:
        meter, shown = self._meter, list(self._shown.values())
        if shown:
            meter.began = time.monotonic() - (time.time() - min(one["began"] for one in shown))
        meter.done = sum(one["done"] for one in shown)
        meter.tokens = sum(one["tokens"] for one in shown)
        meter.reward_sum = sum(one["reward_sum"] for one in shown)
        meter.rewarded = sum(one["rewarded"] for one in shown)
        for counter, name in ((meter.failures, "failures"), (meter.unrewarded, "unrewarded")):
            counter.clear()
            counter.update(sum((Counter(one[name]) for one in shown), Counter()))
