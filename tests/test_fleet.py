"""A fleet: several real loopback servers of one model share the work; one may be slow, die and come back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from rolloutops.collect.agent import attempt
from rolloutops.collect.attempt import Attempt, PendingRollout
from rolloutops.config.plan import make_plan
from rolloutops.config.recipe_file import load
from rolloutops.config.settings import Collect
from rolloutops.engines.openai import OpenAIEngine
from rolloutops.engines.replicas import Replicas
from rolloutops.errors import EngineError
from rolloutops.limits.concurrency import ConcurrencyLimit
from rolloutops.limits.rate_limit import RateLimit
from rolloutops.limits.replica_rate_limit import ReplicaConcurrency, ReplicaRateLimit
from rolloutops.types import Task
from tests.helpers import CHECKOUT, command, environ, query, rolloutops, write_jsonl
from tests.loopback import serving
from tests.virtual_time import run

GIVEN = ("collect", "--data=w", "--engine=openai", "--endpoint=chat", "--model=m", "--input=tasks.jsonl")


def write_tasks(folder: Path, count: int) -> None:
    """Tasks whose prompts are all different."""
    write_jsonl(folder / "tasks.jsonl", [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(count)])


SERVER = """
import asyncio, sys
from tests.loopback import Loopback, _listen

async def main():
    server = Loopback(latency=float(sys.argv[1]), keep_bodies=False)
    await _listen(server, int(sys.stdin.readline()))
    print(server.url, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def process(latency: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    """A loopback server that can be killed, and listens when it is told to."""
    words = [sys.executable, "-c", SERVER, str(latency)]
    pipe = subprocess.PIPE
    server = subprocess.Popen(words, cwd=CHECKOUT, env=environ(), stdin=pipe, stdout=pipe, text=True)
    try:
        yield server
    finally:
        server.kill()
        server.communicate()


def listen(server: subprocess.Popen[str], port: int = 0) -> str:
    """Tell a server to listen. Returns its address."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{port}\n")
    server.stdin.flush()
    return server.stdout.readline().strip()


def seen(url: str) -> int:
    """Requests that a server got."""
    with urlopen(f"{url}/seen", timeout=10) as reply:
        count: int = json.load(reply)["seen"]
        return count


def wait_for(url: str, requests: int) -> None:
    """Until a server got so many requests."""
    while seen(url) < requests:  # the time limit of every test ends a wait for what does not happen
        time.sleep(0.02)


def test_one_address_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    one = OpenAIEngine.from_settings("m", base_url="http://a/v1")
    assert isinstance(one, OpenAIEngine)
    for several in ("http://a/v1, http://b/v1/,http://a/v1", ["http://a/v1", "http://b/v1"]):
        fleet = OpenAIEngine.from_settings("m", base_url=several, endpoint="chat")
        assert isinstance(fleet, Replicas)
        assert [m.url for m in fleet.members] == ["http://a/v1/chat/completions", "http://b/v1/chat/completions"]


def test_addresses_are_no_part_of_the_policy(tmp_path: Path) -> None:
    prints = []
    for urls in ('"http://a/v1"', '["http://a/v1", "http://b/v1"]'):
        text = f'[datasets.d]\ninput = "x"\n[collect]\nengine = "openai"\nmodel = "m"\nbase_url = {urls}\n'
        (tmp_path / "r.toml").write_text(text)
        prints.append(make_plan(load(str(tmp_path / "r.toml"))).fingerprints["d"]["m"])
    assert prints[0] == prints[1]


@pytest.mark.parametrize("window", [30, "auto"])
def test_equal_servers_get_equal_shares(window: int | str) -> None:
    """In virtual time: how many answers a real server gives in a round depends on the machine's other work."""

    async def main() -> list[int]:
        paces = [RateLimit(ConcurrencyLimit(30) if window == 30 else ConcurrencyLimit(16, adapts=True)) for _ in "abc"]
        concurrency = ConcurrencyLimit(30) if window == 30 else ReplicaConcurrency(paces)
        fleet, left = ReplicaRateLimit(paces, concurrency), 3000

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                permit = fleet.at_once() or await fleet.admit()
                await asyncio.sleep(0.05)
                fleet.answered(permit, 1, 1, None)

        await asyncio.gather(*(work() for _ in range(30 if window == 30 else 48)))
        return fleet.served

    served: list[int] = run(main())
    assert sum(served) == 3000
    assert all(900 <= count <= 1100 for count in served), served


def test_several_servers_share_a_run(tmp_path: Path) -> None:
    write_tasks(tmp_path, 300)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(latency=0.05)) for _ in range(3)]
        urls = ",".join(server.url for server in servers)
        rolloutops(*GIVEN, f"--base_url={urls}", "--num_samples_in_parallel=30", cwd=tmp_path)
        assert sum(server.seen for server in servers) == 300
        assert all(server.seen >= 10 for server in servers), "a third of the first thirty at least"
    assert query(tmp_path / "w", "SELECT count(DISTINCT task_id) FROM rollouts") == [(300,)]


def test_a_slow_server_gets_less(tmp_path: Path) -> None:
    write_tasks(tmp_path, 300)
    with serving(latency=0.02) as quick, serving(latency=0.5) as slow:
        rolloutops(*GIVEN, f"--base_url={quick.url},{slow.url}", "--num_samples_in_parallel=16", cwd=tmp_path)
        assert quick.seen + slow.seen == 300
        assert 8 <= slow.seen <= 100


def test_a_server_that_dies_is_left_out_and_taken_back(tmp_path: Path) -> None:
    """Killed with requests open and started anew: no rollout is lost, none is there twice, none counts as failed."""
    write_tasks(tmp_path, 900)
    with process(0.2) as lasting, process(0.2) as dying, process(0.2) as again:
        urls = [listen(lasting), listen(dying)]
        given = (*GIVEN, f"--base_url={urls[0]},{urls[1]}", "--num_samples_in_parallel=32")
        with subprocess.Popen(
            command(*given), cwd=tmp_path, env=environ(), stderr=subprocess.PIPE, text=True
        ) as collecting:
            wait_for(urls[1], 60)
            dying.kill()
            dying.wait()
            wait_for(urls[0], seen(urls[0]) + 40)
            assert listen(again, int(urls[1].split(":")[2].split("/")[0])) == urls[1]
            said = collecting.communicate(timeout=600)[1]
            assert collecting.returncode == 0, said
            assert seen(urls[1]) >= 30, "it was taken back"
    done = query(tmp_path / "w", "SELECT count(*), count(DISTINCT task_id), max(attempt) FROM rollouts")
    assert done == [(900, 900, 1)]
    assert query(tmp_path / "w", "SELECT count(*) FROM attempts WHERE error IS NOT NULL") == [(0,)]


def test_a_fleet_that_is_down_as_a_whole_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    write_tasks(tmp_path, 20)
    with process() as first, process() as second:
        one, other = listen(first), listen(second)
    given = (*GIVEN, f"--base_url={one},{other}", "--retry_seconds=0.01", "--num_samples_in_parallel=20")
    said = rolloutops(*given, cwd=tmp_path, code=2).stderr
    assert "unreachable" in said
    assert query(tmp_path / "w", "SELECT count(*) FROM given_up") == [(0,)]


class Adder:
    """An environment with one tool. before: what is done when it is called."""

    def __init__(self, before: Any = None) -> None:
        parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
        self.tools = [{"type": "function", "function": {"name": "add", "parameters": parameters}}]
        self.before = before

    async def call(self, name: str, arguments: dict[str, Any], state: Any) -> str:
        if self.before is not None:
            await asyncio.to_thread(self.before)
        return "2"


def converse(urls: list[str], count: int, environment: Any) -> tuple[list[Attempt], ReplicaRateLimit]:
    """So many conversations of two model calls, at once."""

    def owed(n: int) -> PendingRollout:
        task = Task("d", f"t{n}", {}, [{"role": "user", "content": f"What is {n} + 1?"}], None, None)
        return PendingRollout(task, "h", 0, "p", 0, 1, Collect(engine="openai", model="m"), {}, "{}")

    async def main() -> tuple[list[Attempt], ReplicaRateLimit]:
        engine = OpenAIEngine.from_settings("m", base_url=urls, endpoint="chat")
        fleet = ReplicaRateLimit([RateLimit(ConcurrencyLimit(32)) for _ in urls], ConcurrencyLimit(64))
        await engine.start()
        try:
            tries = (attempt(owed(n), engine, environment, fleet) for n in range(count))
            return list(await asyncio.gather(*tries)), fleet
        finally:
            await engine.stop()

    return asyncio.run(main())


def test_a_conversation_stays_with_its_server() -> None:
    with serving(latency=0.02) as one, serving(latency=0.05) as other:
        done, fleet = converse([one.url, other.url], 40, Adder())
        assert all(each.row()["turns"] == 2 and each.failure is None for each in done)
        keys = [{entry["key"] for entry in server.log} for server in (one, other)]
        assert min(map(len, keys)) > 0
        assert not keys[0] & keys[1], "each in one server's log alone"
    assert fleet.served == [2 * len(found) for found in keys]


def test_a_conversation_goes_on_elsewhere_where_its_server_dies() -> None:
    """Between two turns: the turn that was made counts, and the row is that of one attempt that succeeded."""
    with serving() as lasting, process() as dying:

        def kill() -> None:
            dying.kill()
            dying.wait()

        done, fleet = converse([listen(dying), lasting.url], 1, Adder(kill))
    assert done[0].row()["turns"] == 2
    assert done[0].failure is None
    assert (fleet.moved, fleet.served) == (1, [1, 1])
    assert [pace.is_down for pace in fleet.paces] == [True, False]


def test_what_breaks_two_servers_off_is_a_failed_attempt() -> None:
    with serving(faults="refuse:1") as one, serving(faults="refuse:1") as other:
        (done,), fleet = converse([one.url, other.url], 1, Adder())
        assert done.kind == "connection"
        assert (one.seen, other.seen, fleet.moved) == (1, 1, 1)


def test_a_server_that_is_down_does_not_count() -> None:
    levels = ReplicaConcurrency([RateLimit(ConcurrencyLimit(16)), RateLimit(ConcurrencyLimit(8))])
    assert levels.now == 24
    levels.paces[0]._down_in_a_row = 99
    assert levels.now == 8
    levels.paces[1]._down_in_a_row = 99
    assert levels.now == 24, "where all are, somebody must wait for them"


def test_check_names_the_servers_that_do_not_answer() -> None:
    with process() as server, serving() as there:
        gone = listen(server)
        server.kill()
        server.wait()
        with pytest.raises(EngineError, match="1 of 2 servers do not answer"):
            asyncio.run(OpenAIEngine.from_settings("m", base_url=[gone, there.url]).ready())
        assert (
            asyncio.run(OpenAIEngine.from_settings("m", base_url=[f"{there.url}/a", there.url]).ready())
            == "2 servers answer"
        )
