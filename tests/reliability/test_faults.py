"""A server that fails in every way, and processes that are stopped: every key ends with one rollout or one typed final
failure, and no request outlives its deadline, by the server's own clock."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from rolloutops.config.resources import shipped
from rolloutops.errors import FAILURES
from rolloutops.store import sql
from tests.helpers import command, environ, query, rolloutops, write_jsonl
from tests.loopback import Loopback, serving
from tests.reliability import storm
from tests.reliability.storm import tasks

FAULTS = ("400", "429", "500", "truncated", "reset", "hang")
MEANT = {"400": "bad_request", "429": "rate_limited", "500": "server_error", "truncated": "bad_response"}
MEANT |= {"reset": "connection", "hang": "timeout"}
INVARIANT = sql.read(shipped("sql") / "checks" / "invariant.sql").rstrip().rstrip(";")
RECIPE = storm.RECIPE + "request_timeout = {timeout}\n"


def project(folder: Path, wanted: int, server: Loopback, timeout: float, part: int = 1000) -> None:
    """A folder with so many tasks, chunked."""
    write_jsonl(folder / "tasks.jsonl", tasks(range(wanted)))
    (folder / "recipe.toml").write_text(RECIPE.format(url=server.url, timeout=timeout, part=part, width=64))
    rolloutops("chunk", "recipe.toml", cwd=folder)


def collecting(folder: Path, who: str) -> subprocess.Popen[str]:
    """A collector that the server knows by its key."""
    words, env = command("collect", "recipe.toml"), environ(OPENAI_API_KEY=who)
    return subprocess.Popen(
        words, cwd=folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, bufsize=1
    )


def assert_settled(data: Path, wanted: int, given_up: int = 0) -> None:
    """Each key is there once, done or given up."""
    counts = "SELECT count(*), count(DISTINCT task_id), count(reward) FROM rollouts"
    assert query(data, counts) == [(wanted - given_up,) * 3]
    assert query(data, "SELECT (SELECT count(*) FROM pending), (SELECT count(*) FROM given_up)") == [(0, given_up)]
    good = "SELECT task_id FROM attempts WHERE error IS NULL GROUP BY ALL HAVING count(*) > 1"
    assert query(data, good) == [], "nothing was collected twice"
    assert query(data, INVARIANT) == []


def test_one_per_cent_of_each_fault_in_two_thousand_rollouts(tmp_path: Path) -> None:
    wanted, timeout = 2000, 3.0
    schedule = ",".join(f"{name}:0.01" for name in FAULTS)
    with serving(latency=0.02, faults=schedule, keep_bodies=False) as server:
        project(tmp_path, wanted, server, timeout)
        rolloutops("collect", "recipe.toml", cwd=tmp_path)
        exchanges = list(server.exchanges)
    planted = Counter(name for name, _ in server.failed)
    assert min(planted[name] for name in FAULTS) >= 8, planted
    data = tmp_path / "w"
    assert_settled(data, wanted, given_up=planted["400"])
    assert query(data, "SELECT DISTINCT last_error FROM given_up") == [("bad_request",)]
    failed = dict(query(data, "SELECT error, count(*) FROM failures GROUP BY error"))
    assert set(failed) <= set(FAILURES)
    for name, kind in MEANT.items():
        assert failed[kind] >= planted[name], f"{name} is {kind}: {failed}, {planted}"
    # A hang ends because the client hangs up; the server itself would hold it for an hour.
    longest = max(exchange.over - exchange.asked for exchange in exchanges)
    assert timeout * 0.9 < longest < timeout + 30, "no request outlives its deadline"
    assert len(exchanges) == query(data, "SELECT count(*) FROM attempts")[0][0], "each request is an attempt's row"


@dataclass
class Held(Loopback):
    """After so many answers, those for the first collector are held back until `open` is set."""

    free: int = 60
    open: threading.Event = field(default_factory=threading.Event)

    async def _answer(self, request: web.BaseRequest, *what: Any) -> web.StreamResponse:
        while "first" in request.headers["Authorization"] and len(self.log) >= self.free and not self.open.is_set():
            await asyncio.sleep(0.02)
        return await super()._answer(request, *what)


def until(found: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Wait until something is so, while these processes live."""
    while not found():
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_stopped_for_longer_than_the_request_timeout(tmp_path: Path) -> None:
    """Of what was in flight some is answered meanwhile, the rest is late: at most that is asked for again."""
    wanted, timeout = 400, 3.0
    with serving(Held, spread=0.1, keep_bodies=False) as server:
        project(tmp_path, wanted, server, timeout)
        process = collecting(tmp_path, "first")
        until(lambda: len(server.log) >= server.free, process)
        process.send_signal(signal.SIGSTOP)
        server.spread = 3 * timeout
        server.open.set()
        time.sleep(2 * timeout)
        server.spread = 0.1
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        again = Counter(exchange.key for exchange in server.exchanges)
    assert_settled(tmp_path / "w", wanted)
    assert max(again.values()) <= 2
    assert sum(again.values()) - wanted <= 64, "no more is asked for again than what was in flight"


def test_while_one_of_two_stands_still_the_other_goes_on_and_takes_nothing_from_it(tmp_path: Path) -> None:
    wanted = 400
    with serving(Held, free=20, keep_bodies=False) as server:
        project(tmp_path, wanted, server, timeout=600.0, part=50)
        first = collecting(tmp_path, "first")
        until(lambda: len(server.exchanges) >= 20 + 64, first)
        first.send_signal(signal.SIGSTOP)
        held = {exchange.key for exchange in server.exchanges}
        second = collecting(tmp_path, "second")
        assert second.stderr is not None
        assert any("wait for another process" in line for line in second.stderr), "it says what it waits for"
        mine = {exchange.key for exchange in server.exchanges if "second" in exchange.who}
        assert mine, "it went on with the rest"
        assert not mine & held, "it asked for nothing that the first one has in flight"
        server.open.set()
        first.send_signal(signal.SIGCONT)
        for process in (first, second):
            _, err = process.communicate(timeout=600)
            assert process.returncode == 0, err
        requested = Counter(exchange.key for exchange in server.exchanges)
    assert_settled(tmp_path / "w", wanted)
    assert set(requested.values()) == {1}, "nothing was asked for twice"
