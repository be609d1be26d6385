"""What one process did of a collection, and what several did together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rolloutops.limits.progress import Progress


@dataclass(frozen=True)
class Share:
    """What one process did: rollouts done, verdicts on rollouts of earlier runs, and rows of journals saved.

    failures, unrewarded, refused: counts by kind. refusals: the first words of each kind of `refused`. spent: of each
    spend limit that ended a part of it, the sentence that names the key to raise."""

    done: int = 0
    verified: int = 0
    saved: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    unrewarded: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    spent: Sequence[str] = ()

    @classmethod
    def of(cls, meter: Progress, saved: int, verified: int, spent: Sequence[str]) -> Share:
        """What a meter has counted, and what else was done."""
        counted = (dict(meter.failures), dict(meter.unrewarded), dict(meter.refused), dict(meter.refusals))
        return cls(meter.done, verified, saved, *counted, list(spent))


def together(shares: Iterable[Mapping[str, Any]]) -> Share:
    """Add up the shares of several processes, each as the mapping that `asdict` makes of it. Of the sentences about a
    limit, which differ by what was in flight, the first one stands."""
    failures, unrewarded, refused = Counter[str](), Counter[str](), Counter[str]()
    done = verified = saved = 0
    refusals: dict[str, str] = {}
    spent: dict[str, str] = {}
    for share in shares:
        done, verified, saved = done + share["done"], verified + share["verified"], saved + share["saved"]
        failures.update(share["failures"])
        unrewarded.update(share["unrewarded"])
        refused.update(share["refused"])
        refusals = {**share["refusals"], **refusals}
        spent = {**{why.rpartition(": raise ")[2]: why for why in share["spent"]}, **spent}
    return Share(done, verified, saved, failures, unrewarded, refused, refusals, list(spent.values()))
