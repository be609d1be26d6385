"""Any life of a workspace: inputs that change, collections that end well, fail, are killed or interrupted, verifiers
that change, files that are torn or deleted. After each step every wanted rollout is exactly one of done, pending,
submitted and given up, each key is there once, and nothing that was written is lost.

ROLLOUTOPS_FULL=1 makes it long.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from rolloutops.config.plan import make_plan
from rolloutops.config.recipe_file import load
from rolloutops.config.resources import shipped
from rolloutops.errors import FAILURES
from rolloutops.store import sql
from rolloutops.store.workspace import connect, open_workspace
from tests.helpers import write_jsonl
from tests.reliability.forked import Process, delivered, reward, run
from tests.reliability.test_kills import FAILPOINTS

FULL = bool(os.environ.get("ROLLOUTOPS_FULL"))
INVARIANT = sql.read(shipped("sql") / "checks" / "invariant.sql").rstrip().rstrip(";")
WIDTH, TRIES = 8, 3
DONE = (0, 2)
"""All is settled, or the run failed as a whole."""
RECIPE = """
data = "w"
[datasets.d]
input = "tasks.jsonl"
id = "n"
environment = "tests.reliability.forked:environment"
environment_args = {{ version = {version} }}
[chunk]
rows_per_part = 5
[collect]
engine = "tests.reliability.forked:engine"
model = "scripted"
num_repeats = {repeats}
num_samples_in_parallel = 8
max_attempts = 3
max_given_up = 1.0
retry_seconds = 0
grace_seconds = 0.2
"""

NUMBERS = st.integers(0, 15)
EDITS = st.lists(st.tuples(NUMBERS, st.sampled_from(["new", "edited", "gone"])), min_size=1, max_size=6)
KINDS = sorted(set(FAILURES) - {"forbidden", "unauthorized", "rate_limited"})
"""Not a refused key, which ends the run at once; nor a limit, which a collector that knows no better respects for long:
those have their tests in test_faults.py and tests/test_failures.py."""
FAULTS = st.dictionaries(st.sampled_from(KINDS), st.sampled_from([0.05, 0.2]), max_size=4)


class Life(RuleBasedStateMachine):
    """A workspace, the commands that work on it, and what has been seen of it so far."""

    folders: pytest.TempPathFactory

    @initialize(repeats=st.integers(1, 3), seed=st.integers(0, 99))
    def begin(self, repeats: int, seed: int) -> None:
        self.folder = self.folders.mktemp("life")
        self.rng = random.Random(seed)
        self.repeats, self.version = repeats, 0
        self.rows = {n: f"What is {n} + 1?" for n in range(8)}
        self.held: set[str] = set()
        self.excused = 0
        self.write()
        self.do("chunk")

    # What is done ----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """The recipe and the input, in any order."""
        rows = [{"n": n, "prompt": prompt, "answer": str(n + 1)} for n, prompt in self.rows.items()]
        self.rng.shuffle(rows)
        write_jsonl(self.folder / "tasks.jsonl", rows)
        (self.folder / "recipe.toml").write_text(RECIPE.format(version=self.version, repeats=self.repeats))

    def do(self, *words: str, **how: Any) -> int:
        return run(self.folder, words[0], "recipe.toml", *words[1:], **how)

    def asked(self, faults: dict[str, float]) -> list[str]:
        reported = ",".join(f"{kind}:{share}" for kind, share in faults.items())
        return ["collect", "recipe.toml", f"--engine_args.faults={reported}"]

    @rule(edits=EDITS)
    def the_input_changes(self, edits: list[tuple[int, str]]) -> None:
        for n, how in edits:
            if how == "gone":
                self.rows.pop(n, None)
            elif how == "new" or n in self.rows:
                self.rows[n] = f"What is {n} + 1?" if how == "new" else f"Say what {n} + 1 is."
        self.rows = self.rows or {99: "What is 99 + 1?"}
        self.write()
        self.do("chunk")

    @rule(repeats=st.integers(1, 3))
    def other_repeats(self, repeats: int) -> None:
        self.repeats = repeats
        self.write()

    @rule(faults=FAULTS)
    def collect(self, faults: dict[str, float]) -> None:
        if run(self.folder, *self.asked(faults), codes=DONE) == 0:
            self.all_judged(settled=True)

    @rule(faults=FAULTS, where=st.sampled_from(FAILPOINTS), passage=st.integers(1, 12))
    def killed_at_a_failpoint(self, faults: dict[str, float], where: str, passage: int) -> None:
        spot = f"{where}:{passage if where.startswith(('journal', 'attempt')) else 1 + passage % 3}"
        run(self.folder, *self.asked(faults), failpoint=spot, codes=(*DONE, -signal.SIGKILL))
        self.excused += WIDTH

    @rule(faults=FAULTS, answers=st.integers(1, 30))
    def killed_after_an_answer(self, faults: dict[str, float], answers: int) -> None:
        run(self.folder, *self.asked(faults), die=answers, codes=(*DONE, -signal.SIGKILL))
        self.excused += WIDTH

    @rule(faults=FAULTS, answers=st.integers(1, 30))
    def interrupted(self, faults: dict[str, float], answers: int) -> None:
        code = run(self.folder, *self.asked(faults), stop=answers, codes=(*DONE, 130))
        assert code == 2 or not list((self.folder / "w" / "journals").iterdir()), "all is sealed"
        self.excused += WIDTH  # what does not end within grace_seconds

    @rule(faults=FAULTS, answers=st.integers(1, 20))
    def two_at_once_of_which_one_is_killed(self, faults: dict[str, float], answers: int) -> None:
        words = self.asked(faults)
        both = Process(self.folder, *words, die=answers), Process(self.folder, *words)
        for process in both:
            process.end(*DONE, -signal.SIGKILL)
        self.excused += WIDTH

    @rule(version=st.integers(0, 3))
    def the_verifier_changes(self, version: int) -> None:
        self.version = version
        self.write()
        self.do("verify")
        self.all_judged()

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True))
    def retry(self, kinds: list[str]) -> None:
        con = self.connected()
        reported = dict(sql.rows(con, "SELECT (task_id, rollout_index), last_error FROM given_up"))
        con.close()
        self.do("collect", f"--retry={','.join(kinds)}")
        con = self.connected()
        left = {key for (key,) in sql.rows(con, "SELECT (task_id, rollout_index) FROM given_up")}
        assert left == {key for key, error in reported.items() if error not in kinds}
        con.close()

    @rule(place=st.integers(0, 99), table=st.sampled_from(["attempts", "verdicts"]))
    def a_part_is_deleted(self, place: int, table: str) -> None:
        parts = sorted((self.folder / "w" / table).rglob("*.parquet"))
        if not parts:
            return
        part = parts[place % len(parts)]
        column = "attempt_id" if table == "attempts" else "verdict_id"
        gone = set(pq.read_table(part, columns=[column]).column(0).to_pylist())
        part.unlink()
        self.held -= gone
        self.excused += len(gone)

    @rule(share=st.floats(0, 1))
    def a_journal_is_torn(self, share: float) -> None:
        if not self.journals():
            return
        journal = self.journals()[0]
        whole = journal.read_bytes()
        journal.write_bytes(whole[: int(len(whole) * share)])
        cut = _ids(whole) - _ids(journal.read_bytes())
        self.held -= cut
        self.excused += len(cut)

    # What is seen ----------------------------------------------------------------------------------------------------

    def journals(self) -> list[Path]:
        return sorted((self.folder / "w" / "journals").glob("*.jsonl"))

    def connected(self) -> sql.Connection:
        plan = make_plan(load(str(self.folder / "recipe.toml")))
        return connect(open_workspace(self.folder / "w"), plan.rows, threads=1)

    def all_judged(self, settled: bool = False) -> None:
        con = self.connected()
        assert not settled or set(_states(con).values()) <= {"done", "given_up"}
        assert sql.rows(con, "SELECT count(*) FROM unverified") == [(0,)]
        for text, given in sql.rows(con, "SELECT text, reward FROM rollouts"):
            assert given == reward(text, self.version)
        con.close()

    def expected(self, tried: list[tuple[Any, ...]]) -> Iterator[tuple[tuple[str, int], str]]:
        """The state of each wanted rollout, out of the bare rows, by the words of the design."""
        for n in self.rows:
            for index in range(self.repeats):
                own = [(error, final) for task, i, error, final in tried if (task, i) == (str(n), index)]
                if any(error is None for error, _ in own):
                    yield (str(n), index), "done"
                elif any(final for _, final in own) or sum(FAILURES[error].counted for error, _ in own) >= TRIES:
                    yield (str(n), index), "given_up"
                else:
                    yield (str(n), index), "pending"

    @invariant()
    def all_adds_up(self) -> None:
        con = self.connected()
        states = _states(con)
        attempts = sql.rows(con, ATTEMPTS)
        assert states == dict(self.expected(attempts)), "the views and the words of the design agree"
        assert sql.rows(con, INVARIANT) == []
        done = Counter((task, index) for task, index in sql.rows(con, ROLLOUTS))
        assert set(done.values()) <= {1}, "no rollout is there twice"
        assert set(done) == {key for key, state in states.items() if state == "done"}
        assert sql.rows(con, TWICE) == [], "no rollout was collected twice"
        kept = [id_ for (id_,) in sql.rows(con, IDS)]
        assert len(kept) == len(set(kept))
        con.close()
        written = set(kept).union(*(_ids(journal.read_bytes()) for journal in self.journals()))
        assert self.held <= written, "nothing that was written is lost"
        self.held = written
        log = delivered(self.folder)
        assert len(log) - len(set(log)) <= self.excused, "no more is asked again than what was in flight"
        assert all(path.name.startswith(".") for path in self.folder.rglob("*.parquet.tmp"))


ATTEMPTS = """
SELECT a.task_id, a.rollout_index, a.error, a.final FROM attempts AS a
SEMI JOIN tasks AS t ON t.task_id = a.task_id AND t.row_hash = a.row_hash
"""
ROLLOUTS = """
SELECT task_id, rollout_index FROM rollouts SEMI JOIN wanted USING (dataset, task_id, policy, rollout_index)
"""
TWICE = """
SELECT task_id, row_hash, rollout_index FROM attempts WHERE error IS NULL GROUP BY ALL HAVING count(*) > 1
"""
IDS = "SELECT attempt_id FROM attempts UNION ALL SELECT verdict_id FROM verdicts"


def _states(con: sql.Connection) -> dict[tuple[str, int], str]:
    """(task, repeat) -> state, as the views have it."""
    found = sql.rows(con, "SELECT task_id, rollout_index, status FROM wanted_states")
    states = {(task, index): state for task, index, state in found}
    assert len(states) == len(found), "each key once"
    return states


def _ids(data: bytes) -> set[str]:
    """The ids of the attempts and verdicts in a journal's whole lines."""
    ids = set()
    for line in data.split(b"\n"):
        try:
            ((table, row),) = json.loads(line).items()
        except json.JSONDecodeError:
            continue
        ids.add(row["attempt_id" if table == "attempts" else "verdict_id"])
    return ids


def test_any_life_adds_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    class Placed(Life):
        folders = tmp_path_factory

    examples, steps = (60, 20) if FULL else (4, 10)
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    # Where a kill strikes is not repeatable to the row, so a life that fails is told as it was, not made smaller.
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=quiet,
        phases=[Phase.generate],
        database=None,
        derandomize=not FULL,
    )
    run_state_machine_as_test(Placed, settings=limits)
