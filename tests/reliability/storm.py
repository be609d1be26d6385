"""Random `kill -9` of collectors that ask a loopback server, which knows what it delivered in full, to whom, and when.

    python -m tests.reliability.storm [--runs=3] [--tasks=5000] [--kills=20]

prints one line for each kind of storm. The tests run a small one.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolloutops.config.resources import shipped
from rolloutops.store import sql
from tests.helpers import command, environ, query, rolloutops, write_jsonl
from tests.loopback import Exchange, serving

WIDTH = 64
RECENT = 0.2
"""Seconds before a kill within which an answer that was delivered may be lost."""

KINDS = {
    "one collector": {},
    "the input reversed half-way": {"change": "reversed"},
    "a tenth inserted half-way": {"change": "inserted"},
    "two collectors, kills of either": {"collectors": 2},
}

RECIPE = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[chunk]
rows_per_part = {part}
[collect]
engine = "openai"
endpoint = "chat"
model = "m"
base_url = "{url}"
num_samples_in_parallel = {width}
retry_seconds = 0.1
"""


@dataclass(frozen=True)
class Storm:
    """How a storm ended. wanted: rollouts asked for. twice: keys with two rollouts or two good attempts. lost: answers
    delivered more than RECENT before a kill that were asked for again. again: requests sent again. in_flight: requests
    in flight at the kills. unexcused: requests sent again that were not in flight at a kill. oldest: seconds before a
    kill of the oldest answer asked for again."""

    wanted: int
    rollouts: int
    twice: int
    kills: int
    again: int
    in_flight: int
    lost: int
    unexcused: int
    oldest: float
    seconds: float


def tasks(numbers: range) -> list[dict[str, Any]]:
    """Tasks whose prompts are all different, so that a prompt is a key."""
    return [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in numbers]


def storm(
    folder: Path,
    wanted: int,
    kills: int,
    collectors: int = 1,
    change: str = "",
    seed: int = 1,
) -> Storm:
    """Collect, kill at random, go on, until `kills` collectors were killed; then let one finish, and count."""
    began, rng = time.monotonic(), random.Random(seed)
    requested = tasks(range(wanted))
    write_jsonl(folder / "tasks.jsonl", requested)
    killed: dict[str, float] = {}
    with serving(latency=0.15, spread=0.3, keep_bodies=False) as server:
        (folder / "recipe.toml").write_text(RECIPE.format(url=server.url, width=WIDTH, part=max(50, wanted // 20)))
        rolloutops("chunk", "recipe.toml", cwd=folder)
        lives = [_begin(folder, n) for n in range(collectors)]
        began_lives = collectors
        points = sorted(rng.sample(range(1, round(wanted * 0.9)), kills))
        for number, point in enumerate(points):
            while len({exchange.key for exchange in server.exchanges if exchange.status}) < point:
                ended = [life.communicate()[1] for _, life in lives if life.poll() is not None]
                assert len(ended) < collectors, ended
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            at = rng.randrange(collectors)
            name, victim = lives[at]
            victim.send_signal(signal.SIGKILL)
            killed[f"Bearer {name}"] = time.monotonic()
            victim.communicate()
            if change and number == kills // 2:
                requested = _changed(requested, change, rng)
                write_jsonl(folder / "tasks.jsonl", requested)
                rolloutops("chunk", "recipe.toml", cwd=folder)
            lives[at] = _begin(folder, began_lives)
            began_lives += 1
        for _, life in lives:
            _, err = life.communicate(timeout=1800)
            assert life.returncode == 0, err
        rolloutops("collect", "recipe.toml", cwd=folder)
    return _counted(folder, len(requested), killed, server.exchanges, time.monotonic() - began)


def _begin(folder: Path, number: int) -> tuple[str, subprocess.Popen[str]]:
    """A collector, and the key by which the server knows it."""
    name = f"life-{number}"
    words = command("collect", "recipe.toml")
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=environ(OPENAI_API_KEY=name),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    return name, process


def _changed(requested: list[dict[str, Any]], change: str, rng: random.Random) -> list[dict[str, Any]]:
    if change == "reversed":
        return requested[::-1]
    changed = list(requested)
    for row in tasks(range(10**6, 10**6 + len(requested) // 10)):
        changed.insert(rng.randrange(len(changed)), row)
    return changed


def _counted(folder: Path, wanted: int, killed: dict[str, float], exchanges: list[Exchange], seconds: float) -> Storm:
    data = folder / "w"
    (rollouts, keys), *_ = query(data, "SELECT count(*), count(DISTINCT task_id) FROM rollouts")
    (good, good_keys), *_ = query(data, "SELECT count(*), count(DISTINCT task_id) FROM attempts WHERE error IS NULL")
    assert query(data, sql.read(shipped("sql") / "checks" / "invariant.sql").rstrip().rstrip(";")) == []
    assert not [*data.rglob("*.tmp"), *data.glob("journals/*")], "no half-written file is left"
    rolloutops("status", "recipe.toml", cwd=folder)

    by_key: dict[str, list[Exchange]] = defaultdict(list)
    for exchange in exchanges:
        by_key[exchange.key].append(exchange)
    repeated = [exchange for requested in by_key.values() for exchange in sorted(requested, key=lambda e: e.asked)[:-1]]
    ages = [killed[e.who] - e.over for e in repeated if e.status == 200 and e.who in killed]
    return Storm(
        wanted=wanted,
        rollouts=keys,
        twice=rollouts - keys + good - good_keys,
        kills=len(killed),
        again=len(repeated),
        in_flight=sum(e.who in killed and (e.status is None or killed[e.who] - e.over < RECENT) for e in exchanges),
        lost=sum(age > RECENT for age in ages),
        unexcused=sum(e.who not in killed for e in repeated),
        oldest=max([0.0, *ages]),
        seconds=seconds,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=20)
    reported = parser.parse_args()
    print("| storm | rollouts | twice | lost | sent again, of those in flight | oldest answer lost | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, how in KINDS.items():
        for run in range(reported.runs):
            with tempfile.TemporaryDirectory() as folder:
                found = storm(Path(folder), reported.tasks, reported.kills, **how, seed=run)  # type: ignore[arg-type]
            print(
                f"| {name} | {found.rollouts:,} of {found.wanted:,} | {found.twice} | {found.lost} "
                f"| {found.again} of {found.in_flight} | {found.oldest * 1000:.0f} ms | {found.seconds:.0f} |",
                flush=True,
            )
            assert found.rollouts == found.wanted, json.dumps(found.__dict__)
            assert found.twice == found.unexcused == 0, json.dumps(found.__dict__)


if __name__ == "__main__":
    main()
