"""Workers on a Ray cluster: three nodes of one machine and a shared folder, one of them lost in mid-run."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import CHECKOUT, environ, query, rolloutops
from tests.test_workers import assert_exact, files, journaled, project, start, until

FULL = bool(os.environ.get("ROLLOUTOPS_FULL"))
TASKS, LOSSES = (4000, 5) if FULL else (400, 1)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

def often(start):
    # A node whose agents take 45 s to start, as on a busy machine, gives up.
    for left in reversed(range(5)):
        try:
            return start()
        except Exception:
            if not left:
                raise

def head():
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=80_000_000)
    except Exception:
        cluster.shutdown()
        raise
    return cluster

def node():
    return often(lambda: cluster.add_node(num_cpus=2, object_store_memory=80_000_000))

cluster = often(head)
nodes = [node(), node()]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    nodes.append(node())
    print("removed", flush=True)
cluster.shutdown()
"""
"""A program of its own: it prints the address of its cluster, and loses a node for each line that it reads."""


class Cluster:
    """The program at work. An empty variable is unset on its nodes."""

    def __init__(self, folder: Path) -> None:
        # However slow the machine: a node that is gone refuses connections, so it is found at once all the same.
        patience = {"RAY_raylet_start_wait_time_s": "90", "RAY_health_check_timeout_ms": "120000"}
        variables = environ(RAY_TMPDIR="/tmp", OPENAI_API_KEY="", **patience)
        with (folder / "cluster.err").open("w") as err:
            self._program = subprocess.Popen(
                [sys.executable, "-c", CLUSTER],
                cwd=folder,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        self.address = self._read()
        assert self.address, (folder / "cluster.err").read_text()

    def lose_a_node(self) -> None:
        """Take one of the two nodes that work away without grace, and add another."""
        assert self._program.stdin is not None
        self._program.stdin.write("\n")
        self._program.stdin.flush()
        assert self._read() == "removed"

    def close(self) -> None:
        """End it."""
        assert self._program.stdin is not None
        self._program.stdin.close()
        try:
            self._program.wait(timeout=600)
        except subprocess.TimeoutExpired:
            self._program.kill()

    def _read(self) -> str:
        assert self._program.stdout is not None
        return self._program.stdout.readline().strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests: it takes half a minute to start."""
    one = Cluster(tmp_path_factory.mktemp("cluster"))
    yield one
    one.close()


def on_ray(cluster: Cluster, *words: str) -> tuple[str, ...]:
    """A command line with four workers on the cluster."""
    return (*words, "--workers=4", "--on=ray", f"--ray_address={cluster.address}")


@needs_ray
def test_a_lost_node_costs_what_it_had_in_flight(tmp_path: Path, cluster: Cluster) -> None:
    folder = project(tmp_path, tasks=TASKS)
    project(tmp_path, "calm", width=64, tasks=TASKS)
    rolloutops("run", "calm.toml", cwd=folder)
    process = start(folder, *on_ray(cluster, "collect", "w.toml"))
    for _ in range(LOSSES):
        before = journaled(folder)
        until(lambda at=before: process.poll() is not None or journaled(folder) > at + 20_000)
        assert process.poll() is None, (folder / "err").read_text()
        cluster.lose_a_node()
    assert process.wait(timeout=1800) == 0, (folder / "err").read_text()
    assert_exact(folder, 2 * TASKS)
    ((runs,),) = query(folder / "w", "SELECT count(DISTINCT run_id) FROM attempts")
    assert runs >= 2, "at least two workers did work"
    ((runs,),) = query(folder / "w", "SELECT count(DISTINCT run_id) FROM runs WHERE command = 'collect'")
    assert runs > 4, "those of the lost node were started again"
    rolloutops("run", "w.toml", cwd=folder)
    assert files(folder, "w") == files(folder, "calm")
    assert not list(folder.glob("w/locks/workers-*"))


OWN = """
from helper import right

class Environment:
    def verify(self, task, rollout):
        return right(task, rollout)

def make():
    return Environment()
"""


@needs_ray
def test_workers_get_own_files_and_the_recipe_stays_where_it_is(tmp_path: Path, cluster: Cluster) -> None:
    folder = project(tmp_path, tasks=40)
    (folder / "own").mkdir()
    (folder / "own/env.py").write_text(OWN)
    (folder / "own/helper.py").write_text(
        "import os\n\ndef right(task, rollout):\n"
        "    return {'reward': float('42' not in os.getcwd()), 'elsewhere': float('/rolloutops-' in os.getcwd())}\n"
    )
    recipe = (folder / "w.toml").read_text().replace('"exact_match"', '"env.py"')
    (folder / "own/w.toml").write_text(recipe)
    done = rolloutops(*on_ray(cluster, "collect", "own/w.toml"), cwd=folder)
    assert json.loads(done.stdout)["elsewhere"] == 1.0, "the file was sent, and not found on the same disk"
    assert "80 rollouts collected; of 80 wanted, 0 are given up and 0 pending" in done.stderr
    assert "80 " in rolloutops("status", "--data=w", cwd=folder).stdout, "the last recipe is where it was"
    ((path,),) = query(folder / "w", "SELECT DISTINCT recipe->>'$.path' FROM runs WHERE command = 'collect'")
    assert path == str(folder / "own/w.toml")


@needs_ray
def test_an_interrupt_reaches_all_nodes(tmp_path: Path, cluster: Cluster) -> None:
    folder = project(tmp_path, tasks=400)
    process = start(folder, *on_ray(cluster, "collect", "w.toml", "--grace_seconds=9"))
    until(lambda: process.poll() is not None or journaled(folder) > 20_000)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130, (folder / "err").read_text()
    until(lambda: not list(folder.glob("w/journals/*")))
    rolloutops("collect", "w.toml", cwd=folder)
    assert_exact(folder, 800)


@needs_ray
def test_nodes_verify_too(tmp_path: Path, cluster: Cluster) -> None:
    folder = project(tmp_path, tasks=100)
    rolloutops("collect", "w.toml", "--verify=later", "--num_samples_in_parallel=200", cwd=folder)
    done = rolloutops(*on_ray(cluster, "verify", "w.toml"), cwd=folder)
    assert "200 rollouts verified; 0 verifications failed" in done.stderr
    ((runs,),) = query(folder / "w", "SELECT count(DISTINCT run_id) FROM good_verdicts")
    assert runs == 4


@needs_ray
def test_budgets_hold_on_all_nodes(tmp_path: Path, cluster: Cluster) -> None:
    folder = project(tmp_path, tasks=400, width=4)
    done = rolloutops(*on_ray(cluster, "collect", "w.toml", "--max_tokens_total=6000"), cwd=folder, code=2)
    assert done.stderr.count("the budget is spent") == 1
    ((spent, largest),) = query(
        folder / "w", "SELECT sum(input_tokens + output_tokens), max(output_tokens) FROM attempts"
    )
    assert spent <= 6000 + 16 * largest


@needs_ray
@pytest.mark.parametrize(
    ("words", "variables", "says"),
    [
        ([], {"OPENAI_API_KEY": "sk-" + "1a2b3c4d" * 3}, "the variable OPENAI_API_KEY is not set on "),
        (["--gpus_per_worker=3"], {}, "each worker needs 3 GPUs, and no node of the Ray cluster has more than 0"),
        (["--engine_args.api_key=sk-12345678901234567"], {}, "keys are not sent to other machines"),
    ],
)
def test_what_cannot_run_on_the_nodes_is_said(
    tmp_path: Path, cluster: Cluster, words: list[str], variables: dict[str, str], says: str
) -> None:
    folder = project(tmp_path, tasks=4)
    done = rolloutops(*on_ray(cluster, "collect", "w.toml", *words), cwd=folder, code=2, **variables)
    assert says in done.stderr
    assert done.stderr.count(says) == 1


def test_without_ray_the_install_line_is_shown(tmp_path: Path) -> None:
    folder = project(tmp_path, tasks=4)
    (folder / "no/ray").mkdir(parents=True)
    (folder / "no/ray/__init__.py").write_text("raise ImportError('no ray')\n")
    words = ("collect", "w.toml", "--workers=2", "--on=ray")
    path = os.pathsep.join([str(folder / "no"), str(CHECKOUT)])
    done = rolloutops(*words, cwd=folder, code=2, PYTHONPATH=path)
    assert "pip install 'rolloutops[ray]'" in done.stderr


@needs_ray
def test_without_a_cluster_it_is_said_how_to_start_one(tmp_path: Path) -> None:
    folder = project(tmp_path, tasks=4)
    words: Any = ("collect", "w.toml", "--workers=2", "--on=ray", "--ray_address=127.0.0.1:1")
    done = rolloutops(*words, cwd=folder, code=2)
    assert "cannot connect to a Ray cluster at 127.0.0.1:1" in done.stderr
    assert "ray start --head" in done.stderr
